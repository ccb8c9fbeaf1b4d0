"""Datasets of tensorflow-datasets: any builder by name or folder, splits and slices, features by the task's columns."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mtdnn_tf.config import SourceConfig, dump_config
from mtdnn_tf.data.hashes import source_hashes
from mtdnn_tf.data.sources import read_examples, read_source
from mtdnn_tf.errors import UserError
from mtdnn_tf.run_files import CARD_FILE, CONFIG_FILE, METRICS_FILE, SCORES_FILE
from mtdnn_tf.studies.archive import Archive
from mtdnn_tf.studies.progress import FINISHED, Ledger, states_of
from mtdnn_tf.studies.study import read_study
from mtdnn_tf.tasks import TaskSpec
from tests.small import write_experiment

PAIRS = TaskSpec("follows", "classification", ("premise", "hypothesis"), ("neutral", "entails"))
MOOD = TaskSpec("mood", "classification", ("text",), ("no", "yes"))
CLOSE = TaskSpec("close", "regression", ("premise", "hypothesis"), range=(0.0, 10.0), loss="mean_squared_error")
PICK = TaskSpec("pick", "ranking", ("premise", "hypothesis"), loss="list_softmax", metrics=("mrr",), main_metric="mrr")
ROWS = 12


class SmallPairs(tfds.core.GeneratorBasedBuilder):
    """Every kind of feature, in a few rows."""

    VERSION = tfds.core.Version("1.2.3")

    def _info(self):
        f = tfds.features
        features = f.FeaturesDict(
            {
                "premise": f.Text(),
                "hypothesis": f.Text(),
                "label": f.ClassLabel(names=["entails", "neutral"]),  # another order than the task's
                "mark": f.ClassLabel(num_classes=3),
                "score": f.Scalar(np.float32),
                "exact": f.Scalar(np.float64),
                "count": f.Scalar(np.int64),
                "agreed": f.Scalar(np.bool_),
                "translation": f.Translation(["de", "en"]),
                "answers": f.Sequence({"text": f.Text()}),
                "tokens": f.Sequence(f.Text()),
                "vector": f.Tensor(shape=(2,), dtype=np.float32),
                "raw": f.Scalar(np.object_),
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(0, ROWS), "validation": self._generate_examples(ROWS, ROWS + 3)}

    def _generate_examples(self, first, end):
        for n in range(first, end):
            yield (
                n,
                {
                    "premise": f"premise {n} é",
                    "hypothesis": f"hypothesis {n}",
                    "label": "entails" if n % 3 else -1 if n == 0 else "neutral",
                    "mark": n % 3,
                    "score": n / 2,
                    "exact": n / 3,
                    "count": n,
                    "agreed": n % 2 == 0,
                    "translation": {"de": f"Satz {n}", "en": f"sentence {n}"},
                    "answers": {"text": ["a"] * n},
                    "tokens": ["a"] * n,
                    "vector": [0, n],
                    "raw": b"\xff" if n == 3 else b"raw",
                },
            )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The data folder that holds the builder, prepared."""
    folder = tmp_path_factory.mktemp("tfds")
    offline = tfds.download.DownloadConfig(try_download_gcs=False)
    SmallPairs(data_dir=folder).download_and_prepare(download_config=offline)
    return folder


def _read(folder, split="train", task=PAIRS, labelled=True, **options):
    path = f"tfds:{folder}/small_pairs/1.2.3:{split}"
    return read_source(task, SourceConfig(path, **options), labelled=labelled)


def _numbers(examples):
    return sorted(int(text.split()[1]) for text in examples.texts[0])


def test_a_dataset_has_the_hashes_of_its_files(prepared):
    source = SourceConfig(f"tfds:{prepared}/small_pairs/1.2.3:train")
    hashes = source_hashes([dataclasses.replace(PAIRS, sources={"train": source})])
    names = sorted(path.name for path in (prepared / "small_pairs" / "1.2.3").iterdir())
    assert [os.path.basename(path) for path in hashes] == names
    data = next(path for path in hashes if "train.tfrecord" in path)
    with open(data, "rb") as file:
        assert hashes[data] == hashlib.sha256(file.read()).hexdigest()[:12]
    gone = SourceConfig(f"tfds:{prepared}/small_pairs/9.9.9:train")
    assert source_hashes([dataclasses.replace(PAIRS, sources={"train": gone})]) == {}


STUDY = """
title: A dataset
budget: none
config: small.yaml
set: {{tasks: {{mood: {{text: [premise], labels: [entails, neutral], train: "{0}:train", dev: "{0}:validation"}}}}}}
tasks: {{mood: {{}}}}
arms: {{alone: {{tasks: [mood]}}}}
"""


def test_finished_runs_on_a_dataset_are_finished_elsewhere(prepared, tmp_path):
    """Its files are compared when runs are put in place; who only starts runs does without TensorFlow, and can't find them."""

    def plan(place):
        place.mkdir()
        write_experiment(place)
        (place / "study.yaml").write_text(STUDY.format(f"tfds:{prepared}/small_pairs/1.2.3"), encoding="utf-8")
        runs = read_study(place / "study.yaml").plan(place / "output")
        archive = Archive(tmp_path / "finished.zip", place / "output", place / "study.yaml")
        return runs, archive, Ledger(place / "output" / "runs")

    [run], archive, ledger = plan(tmp_path / "one")
    run.directory.mkdir(parents=True)
    files = {CONFIG_FILE: dump_config(run.config), SCORES_FILE: "{}", METRICS_FILE: "", CARD_FILE: ""}
    for name, text in files.items():
        (run.directory / name).write_text(text)
    archive.write([run], {run.name: FINISHED}, ledger, "dev")
    [run], archive, ledger = plan(tmp_path / "other")
    assert archive.restore([run], ledger) == [run.name]
    assert states_of([run], ledger) == {run.name: FINISHED}
    with zipfile.ZipFile(archive.path) as file:
        assert "small_pairs-train.tfrecord" in file.read("archive.json").decode()


SLICES = {
    "train": 12,
    "validation": 3,
    "all": 15,
    "train+validation": 15,
    "train[:25%]": 3,
    "train[-2:]": 2,
    "train[3:5]": 2,
    "train[50%:]": 6,
    "train[:2]+validation[1:]": 4,
    "train[:1shard]": 12,
}


@pytest.mark.parametrize("split", SLICES)
def test_splits_and_slices(prepared, split):
    assert len(_read(prepared, split, labelled=False)) == SLICES[split]


def test_slices_share_no_row_and_leave_none_out(prepared):
    parts = [_numbers(_read(prepared, split, labelled=False)) for split in ("train[:25%]", "train[25%:]")]
    assert sorted(parts[0] + parts[1]) == list(range(ROWS))
    assert _read(prepared, "train[3:5]", labelled=False).texts[0] == _read(prepared, labelled=False).texts[0][3:5]


def test_classes_are_mapped_by_name_and_minus_one_is_no_label(prepared):
    examples = _read(prepared, ignore_labels=("-1",))
    expected = [int(n % 3 > 0) for n in (int(text.split()[1]) for text in examples.texts[0])]
    assert examples.labels.tolist() == expected
    assert 0 not in _numbers(examples)
    with pytest.raises(UserError, match=r":train:\d+: column 'label': unknown label '-1'"):
        _read(prepared)
    assert _numbers(_read(prepared, on_error="skip")) == list(range(1, ROWS))


@pytest.mark.parametrize(
    ("task", "label", "labels", "value"),
    [
        (CLOSE, "score", {}, lambda n: n / 2),
        (CLOSE, "exact", {}, lambda n: n / 3),
        (PICK, "count", {}, lambda n: n),
        (PAIRS, "agreed", {"true": "entails", "false": "neutral"}, lambda n: n % 2 == 0),
        (PAIRS, "mark", {"0": "neutral", "1": "entails", "2": "entails"}, lambda n: n % 3 > 0),
    ],
    ids=["float32", "float64", "int64", "bool", "class without names"],
)
def test_labels_of_every_type(prepared, task, label, labels, value):
    examples = _read(prepared, task=task, columns={"label": label}, labels=labels)
    numbers = [int(text.split()[1]) for text in examples.texts[0]]
    np.testing.assert_allclose(examples.labels, [value(n) for n in numbers], rtol=1e-6)


def test_nested_features_have_dotted_names(prepared):
    columns = {"premise": "translation.de", "hypothesis": "translation.en"}
    examples = _read(prepared, labelled=False, columns=columns)
    assert {german.split()[0] for german in examples.texts[0]} == {"Satz"}
    assert {english.split()[0] for english in examples.texts[1]} == {"sentence"}


def test_a_feature_that_is_no_utf8_counts_only_where_it_is_read(prepared):
    assert len(_read(prepared, labelled=False)) == ROWS
    columns = {"premise": "raw"}
    with pytest.raises(UserError, match=r":train:\d+: column 'raw' must be valid utf-8, received b'\\xff'"):
        _read(prepared, labelled=False, columns=columns)
    examples = _read(prepared, labelled=False, columns=columns, on_error="skip")
    assert (len(examples), len(examples.skipped)) == (ROWS - 1, 1)


WRONG = {
    "list": (
        "train",
        {"premise": "tokens"},
        r"column 'tokens' holds lists or arrays; columns of one .*: agreed, count",
    ),
    "list of mappings": ("train", {"premise": "answers.text"}, "column 'answers.text' holds lists or arrays"),
    "array": ("train", {"premise": "vector"}, "column 'vector' holds lists or arrays"),
    "mapping": ("train", {"premise": "translation"}, r"'translation' holds .*translation\.en"),
    "misspelt": ("train", {"premise": "premis"}, r"no column 'premis' .*Did you mean 'premise'\?"),
    "position": ("train", {"premise": 0}, "names, not positions"),
    "number for a text": (
        "train",
        {"premise": "count"},
        r":train:1: column 'count' must be a text \(in quotes\), received \d",
    ),
    "misspelt split": ("tran", {}, r":tran: unknown split 'tran'\. Did you mean 'train'\?"),
    "misspelt in a sum": ("train+tran", {}, "Unknown split 'tran'.*train, validation"),
    "bracket not closed": ("train[:10%", {}, r"Error parsing split 'train\[:10%'.*train, validation"),
    "past the end": ("train[90:100]", {}, r"\[90:100\] incompatible with 12 examples"),
    "no row": ("train[:0]", {}, "no data|no row"),
    "end before start": ("train[5:2]", {}, "this slice holds no row"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_columns_and_splits_are_told(prepared, name):
    split, columns, expected = WRONG[name]
    with pytest.raises(UserError, match=expected) as raised:
        _read(prepared, split, labelled=False, columns=columns)
    assert str(raised.value).startswith(f"tfds:{prepared}")


@pytest.mark.parametrize(
    "path", ["small_pairs", "small_pairs:1.2.3", "small_pairs:1.*.*", "{}/small_pairs", "{}/small_pairs/1.2.3/"]
)
def test_a_builder_by_name_version_or_folder(prepared, path):
    source = SourceConfig(f"tfds:{path.format(prepared)}", data_dir=str(prepared))
    task = TaskSpec("follows", "classification", PAIRS.text, PAIRS.labels, sources={"dev": source})
    assert len(read_examples(task, "dev", labelled=False)) == 3


NO_BUILDER = {
    "small_pair:train": r"unknown dataset 'small_pair'\. Did you mean 'small_pairs'\?",
    "small_pairs:9.9.9:train": r"cannot be loaded at version 9\.9\.9, only: 1\.2\.3",
    "small_pairs/big:train": "BuilderConfig big not found",
    "{}:train": "no prepared dataset",
    "{}/small_pairs": "no split named; add one as in `tfds:.*:train`",
}


@pytest.mark.parametrize("path", NO_BUILDER)
def test_what_is_no_builder_is_told(prepared, path):
    source = SourceConfig(f"tfds:{path.format(prepared)}", data_dir=str(prepared))
    with pytest.raises(UserError, match=NO_BUILDER[path]) as raised:
        read_source(PAIRS, source, labelled=False)
    assert str(raised.value).isprintable()


def test_damaged_records_are_told(prepared, tmp_path):
    folder = tmp_path / "small_pairs" / "1.2.3"
    shutil.copytree(prepared / "small_pairs" / "1.2.3", folder)
    (records,) = folder.glob("*train*")
    content = bytearray(records.read_bytes())
    content[len(content) // 2] ^= 0xFF
    records.write_bytes(content)
    with pytest.raises(UserError, match=r":train:\d+: the data are damaged here or soon after"):
        _read(tmp_path, labelled=False)


RTE = TaskSpec("rte", "classification", ("sentence1", "sentence2"), ("not_entailment", "entailment"))


@pytest.mark.real_data
@pytest.mark.parametrize(("split", "count"), [("train[:10%]", 249), ("train[50:100]", 50), ("train+validation", 2767)])
def test_slices_of_a_real_builder(data_root, split, count):
    source = SourceConfig(f"tfds:glue/rte:{split}", data_dir=str(data_root / "tfds"))
    assert len(read_source(RTE, source, labelled=True)) == count


@pytest.mark.real_data
def test_scores_of_a_real_builder(data_root):
    task = TaskSpec("stsb", "regression", RTE.text, range=(0.0, 5.0), loss="mean_squared_error")
    examples = read_source(
        task, SourceConfig("tfds:glue/stsb:validation", data_dir=str(data_root / "tfds")), labelled=True
    )
    assert (len(examples), examples.labels.min(), examples.labels.max()) == (1500, 0, 5)


@pytest.mark.real_data
def test_a_test_split_has_no_labels(data_root):
    source = SourceConfig("tfds:glue/rte", data_dir=str(data_root / "tfds"))
    examples = read_examples(dataclasses.replace(RTE, sources={"test": source}), "test")
    assert (len(examples), examples.labels) == (3000, None)


def _split_task(prepared, task, train, dev, **options):
    path = f"tfds:{prepared}/small_pairs/1.2.3"
    sources = {"train": SourceConfig(f"{path}:{train}", **options), "dev": SourceConfig(f"{path}:{dev}", **options)}
    return dataclasses.replace(task, sources=sources)


OVERLAPS = [("train[:50%]", "train[5:]", 1), ("train", "train[-2:]", 2), ("train+validation", "validation", 3)]


@pytest.mark.parametrize(("train", "dev", "count"), OVERLAPS)
def test_slices_of_a_dataset_share_no_records(prepared, train, dev, count):
    columns = {"text": "premise", "label": "agreed"}
    task = _split_task(prepared, MOOD, train, dev, columns=columns, labels={"true": "yes", "false": "no"})
    for split in ("train", "dev"):
        with pytest.raises(UserError, match=f"share {count} records of tfds:.*do not overlap"):
            read_examples(task, split)
    apart = _split_task(
        prepared, MOOD, "train[:6]", "train[6:]", columns=columns, labels={"true": "yes", "false": "no"}
    )
    assert len(read_examples(apart, "train")) == len(read_examples(apart, "dev")) == 6


def test_a_slice_of_a_dataset_cuts_no_question(prepared):
    options = {"columns": {"premise": "raw", "label": "count"}, "on_error": "skip"}  # one question, and a row at fault
    task = _split_task(prepared, PICK, "train[:8]", "train[8:]", **options)
    with pytest.raises(UserError, match=r"share 1 questions of .*by `rows`"):
        read_examples(task, "dev")
    apart = _split_task(
        prepared, PICK, "train[:8]", "validation", **options
    )  # the same question, by the dataset's own splits
    assert len(read_examples(apart, "dev")) == 3
