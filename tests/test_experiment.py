"""A run directory from start to finish: what it holds, what it refuses, what it leaves when it fails."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

import mtdnn_tf as mtdnn
from mtdnn_tf.config import select_tasks
from mtdnn_tf.data.sources import Examples
from mtdnn_tf.data.text import SPECIAL_TOKENS, encode_texts
from mtdnn_tf.evaluation.evaluate import Predictor, predict_examples
from mtdnn_tf.evaluation.runs import load_run
from mtdnn_tf.experiment import (
    _advice_after_divergence,
    prepare_directory,
    prepare_runtime,
    run_experiment,
    what_workers_share,
)
from mtdnn_tf.locks import DirectoryLock
from mtdnn_tf.modeling.saving import read_description, save_encoder
from mtdnn_tf.serving.saved_model import export_run
from mtdnn_tf.serving.signatures import ServedModel
from tests.small import TINY, TINY_WORDS

EXPECTED = {
    "config.yaml", "tasks.yaml", "metrics.jsonl", "scores.json", "report.html", "MODEL_CARD.md",
    "checkpoints", "best", "logs", "predictions", ".lock", "vocab.txt", "encoder.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    from tests.small import write_experiment

    folder = tmp_path_factory.mktemp("finished")
    config = mtdnn.load_config(write_experiment(folder))
    return run_experiment(config, folder / "run", command="a <command> & more", verbose=0)


def test_the_directory_holds_what_the_map_says(finished):
    assert {path.name for path in finished.run.model_dir.iterdir()} == EXPECTED


def test_scores_are_by_task_with_their_average(finished):
    scores = json.loads((finished.run.model_dir / "scores.json").read_text())
    assert scores["split"] == "dev"
    assert set(scores["tasks"]) == {"mood", "follows", "close", "pick"}
    main = [scores["tasks"][task.name][task.main_metric] for task in finished.run.tasks]
    assert scores["average"] == pytest.approx(sum(main) / 4)


def test_metrics_tell_every_task_and_every_epoch(finished):
    lines = [json.loads(line) for line in (finished.run.model_dir / "metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["event"] == "train"]
    assert {task for line in train for task in line["losses"]} == {"mood", "follows", "close", "pick"}
    assert train[-1]["step"] == 2 * finished.mixture.steps_per_epoch
    assert [line["epoch"] for line in lines if line["event"] == "dev"] == [0, 1]


def test_predictions_stand_beside_their_gold_labels(finished):
    lines = (finished.run.model_dir / "predictions" / "mood_dev.tsv").read_text().splitlines()
    assert lines[0] == "example\tgold\tlabel\tprobability_negative\tprobability_positive"
    assert len(lines) == 13
    assert lines[1].split("\t")[:2] == ["1", "positive"]


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("meta", "polyline", "line", "rect", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def test_the_report_is_one_whole_page_that_escapes_what_it_shows(finished):
    page = _Page()
    source = (finished.run.model_dir / "report.html").read_text()
    page.feed(source)
    assert page.open == []
    assert "polyline" in page.tags
    assert "script" not in page.tags
    assert "a <command> & more" in page.text
    assert "http" not in source


def test_the_model_card_names_data_scores_and_limits(finished):
    card = (finished.run.model_dir / "MODEL_CARD.md").read_text()
    for expected in ("mood.tsv", "negative, positive", "## Limits", "seed 2018"):
        assert expected in card


def test_a_finished_run_opens_with_its_best_model(finished):
    run = load_run(finished.run.model_dir)
    scores = mtdnn.evaluate_tasks(run.model, run.tasks, run.encoder, config=run.config)
    assert scores.keys() == finished.scores.keys()
    for task, expected in finished.scores.items():
        assert scores[task] == pytest.approx(expected), task


def test_the_same_command_on_a_finished_run_repeats_nothing(finished, capsys):
    before = (finished.run.model_dir / "metrics.jsonl").read_text()
    run_experiment(finished.run.config, finished.run.model_dir, verbose=0)
    assert "already trained" in capsys.readouterr().out
    assert (finished.run.model_dir / "metrics.jsonl").read_text() == before


def test_another_configuration_is_refused_by_the_keys_that_differ(finished):
    other = mtdnn.load_config(finished.run.model_dir / "config.yaml", ["training.epochs=7"])
    with pytest.raises(mtdnn.UserError, match=r"training\.epochs.*--fresh"):
        run_experiment(other, finished.run.model_dir, verbose=0)
    assert load_run(finished.run.model_dir).config.training.epochs == 2


def test_a_folder_of_something_else_is_refused(experiment, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("precious")
    with pytest.raises(mtdnn.UserError, match="no run directory"):
        run_experiment(mtdnn.load_config(experiment), folder, verbose=0)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


BAD_STARTS = {
    "optimizer": ("optimizer.name=adamwx", "unknown optimizer"),
    "schedule": ("optimizer.schedule=liner", "unknown schedule"),
    "rule for loss weights": ("training.loss_weighting=dwaa", "unknown rule"),
    "surgery on single batches": ("training.gradient_surgery=pcgrad", "set training.accumulate to 2 or more"),
    "no run to start from": (
        "training.init_from=nowhere",
        r"training\.init_from: .*nowhere: the run holds no weights yet",
    ),
    "itself": ("training.init_from={run}", r"training\.init_from: .* is the directory of this run itself"),
}


@pytest.mark.parametrize("case", BAD_STARTS)
def test_what_cannot_be_trained_is_told_before_a_directory_is_touched(finished, experiment, tmp_path, case):
    override, told = BAD_STARTS[case]
    config = mtdnn.load_config(experiment, [override.format(run=finished.run.model_dir)])
    before = sorted(finished.run.model_dir.rglob("*"))
    with pytest.raises(mtdnn.UserError, match=told):
        run_experiment(config, finished.run.model_dir, fresh=True, verbose=0)
    assert sorted(finished.run.model_dir.rglob("*")) == before
    if case != "itself":
        with pytest.raises(mtdnn.UserError, match=told):
            run_experiment(config, tmp_path / "new", verbose=0)
        assert not (tmp_path / "new" / "config.yaml").exists()


COMMAND = "python -m mtdnn_tf.train --config=small.yaml '--model_dir={}' --set=training.epochs=4"


def _refusal(config, folder, command):
    with DirectoryLock(folder) as lock, pytest.raises(mtdnn.UserError) as raised:
        prepare_directory(config, folder, False, lock, command)
    return str(raised.value)


@pytest.mark.parametrize("name", ["my run", "run"])
def test_a_finished_run_is_trained_further_by_the_command_that_is_printed(experiment, tmp_path, name):
    folder = tmp_path / name
    with DirectoryLock(folder) as lock:
        prepare_directory(mtdnn.load_config(experiment), folder, False, lock)
    longer = mtdnn.load_config(experiment, ["training.epochs=4"])
    unfinished = re.search("`(.*)`", _refusal(longer, folder, COMMAND.format(folder)))[1]
    assert shlex.split(unfinished)[3:] == [f"--config={folder / 'config.yaml'}", f"--model_dir={folder}"]

    (folder / "scores.json").write_text("{}")
    refusal = _refusal(longer, folder, COMMAND.format(folder))
    assert (
        "training.epochs: 2 -> 4. The run is finished: its learning rate has followed its schedule to the end"
        in refusal
    )
    assert shlex.split(re.search("`(.*)`", refusal)[1])[3:] == [
        "--config=small.yaml",
        f"--set=training.init_from={folder}",
        "--set=training.epochs=2",
        f"--model_dir={folder}_2",
    ]
    assert "set training.init_from to" in _refusal(longer, folder, "")


def test_a_failing_report_loses_no_run(finished, monkeypatch, capsys):
    def fail(*_, **__):
        raise ZeroDivisionError("float division\nby zero")

    monkeypatch.setattr("mtdnn_tf.experiment.write_report", fail)
    (finished.run.model_dir / "MODEL_CARD.md").unlink()
    outcome = run_experiment(finished.run.config, finished.run.model_dir, verbose=0)
    assert outcome.scores["average"] == pytest.approx(finished.scores["average"])
    [line] = [each for each in capsys.readouterr().err.splitlines() if "report.html" in each]
    assert "report.html: could not be written (ZeroDivisionError: float division by zero); the run is complete" in line
    assert (finished.run.model_dir / "MODEL_CARD.md").is_file()


def test_after_numbers_that_are_not_finite_the_checkpoint_is_named(finished):
    run = finished.run
    advice = _advice_after_divergence(run, COMMAND.format(run.model_dir))
    last = run.model_dir / "checkpoints" / "step-000000022"
    assert advice.startswith(f"The last checkpoint is {last} (epoch 3, step 0)")
    onward, over = re.findall("`(.*?)`", advice)
    assert shlex.split(onward)[-3:] == [
        f"--set=training.init_from={run.model_dir}",
        "--set=optimizer.learning_rate=5e-05",
        f"--model_dir={run.model_dir}_2",
    ]
    assert shlex.split(over)[-2:] == ["--set=optimizer.learning_rate=5e-05", "--fresh"]


PAY = """
encoder: {{source: "random://layers=1,hidden=16,heads=2,intermediate=32", dropout: 0}}
tasks:
  pay: {{type: regression, text: [text], range: [20000, 90000], train: pay.tsv, dev: pay.tsv}}
  bonus: {{type: regression, text: [text], range: [20000, 90000], head_of: pay, dev: pay.tsv}}
  alert: {{type: classification, text: [text], labels: [calm, fire], class_weights: balanced, train: alert.tsv, dev: alert.tsv}}
data: {{max_length: 16, batch_size: 10}}
model: {{dropout: 0, sharing: {sharing}}}
optimizer: {{learning_rate: 1.0e-2, warmup: 0}}
training: {{epochs: {epochs}}}
"""


def _write_pay(folder, sharing, epochs):
    pay = [
        f"{who} {what}\t{score}"
        for who in "abcde"
        for what, score in (("low", 22000), ("middle", 50000), ("high", 88000))
    ]
    alert = [f"{who} {what}\tcalm" for who in "abcde" for what in "mnopqrst"] + ["a smoke\tfire"]
    for name, rows in (("pay", pay), ("alert", alert)):
        (folder / f"{name}.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n")
    (folder / "pay.yaml").write_text(PAY.format(sharing=sharing, epochs=epochs))
    return mtdnn.load_config(folder / "pay.yaml")


def test_salaries_and_a_rare_class_are_learnt_and_a_far_rate_is_told(tmp_path, capsys):
    config = _write_pay(tmp_path, "stack_cls", 16)
    outcome = run_experiment(config, tmp_path / "run", verbose=0)
    said = capsys.readouterr().err
    assert "warning: tasks.alert.train: label 'fire' has 1 example" in said
    assert "tasks.alert.class_weights" not in said
    assert outcome.scores["pay"]["pearson"] > 0.8
    assert outcome.scores["alert"]["accuracy"] == 1.0
    run = load_run(tmp_path / "run")
    for name in ("pay", "bonus"):
        rows = (tmp_path / "run" / "predictions" / f"{name}_dev.tsv").read_text().splitlines()[1:]
        answers = np.array([float(row.split("\t")[2]) for row in rows])
        assert 45000 < answers.mean() < 62000
        assert np.ptp(answers) > 8000
    texts = Examples((["a low", "b high"],), None, None, "", np.arange(2))
    served = ServedModel(run.model, run.tasks, run.encoder.tokenizer, 16, "text").signatures("{}")[0]
    expected = predict_examples(Predictor(run.model, run.config.data), run.tasks[0], run.encoder.tokenizer, texts)
    scores = served["pay"](text=tf.constant(["a low", "b high"]))["score"].numpy()
    assert scores.tolist() == pytest.approx([row["score"] for row in expected], rel=1e-5)

    capsys.readouterr()
    run_experiment(config, tmp_path / "run", verbose=0)
    assert "warning" not in capsys.readouterr().err  # it has been said
    far = mtdnn.load_config(tmp_path / "pay.yaml", ["optimizer.learning_rate=1e30", "optimizer.clip_norm=0"])
    with pytest.raises(mtdnn.UserError, match=r"No checkpoint was saved\. To start over with a lower rate") as raised:
        run_experiment(far, tmp_path / "my run", command=COMMAND.format("my run"), verbose=0)
    assert shlex.split(re.search("`(.*)`", str(raised.value))[1])[-4:] == [
        "--set=training.epochs=4",
        "--set=optimizer.learning_rate=5e-05",
        "--set=optimizer.clip_norm=1.0",
        "--fresh",
    ]


def test_fresh_starts_over(experiment, tmp_path):
    config, other = (
        select_tasks(mtdnn.load_config(experiment, ["training.epochs=1", f"training.seed={seed}"]), ["mood"])
        for seed in (4, 5)
    )
    run_experiment(config, tmp_path / "run", verbose=0)
    outcome = run_experiment(other, tmp_path / "run", fresh=True, verbose=0)
    assert outcome.run.config.training.seed == 5
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) > 1


def test_fresh_throws_away_what_commands_write_and_nothing_else(experiment, tmp_path):
    folder = tmp_path / "run"
    written = ["scores.json", "baseline.json", "output.txt", "best/weights", "predictions/mood_test.tsv"]
    for split in ("train", "dev", "test"):
        written += [f"scores_{split}.json", f"task_attention_{split}.json", f"task_attention_{split}.html"]
    for name in (*written, "config.yaml", "notes.txt", "scores_by_hand.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("old")
    config = mtdnn.load_config(experiment)
    with DirectoryLock(folder) as lock:
        prepare_directory(config, folder, True, lock)
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "notes.txt", "scores_by_hand.json", ".lock"}
    assert mtdnn.load_config(folder / "config.yaml") == config


def _shared(path, *changes):
    config = mtdnn.load_config(path, changes)
    return what_workers_share(
        config, mtdnn.load_tasks(config), SimpleNamespace(tokenized={}), SimpleNamespace(splits=[])
    )


@pytest.mark.parametrize(
    "change",
    [
        "encoder.dropout=0.3",
        "optimizer.learning_rate=1e-5",
        "data.max_length=16",
        "training.init_heads=stripped",
        "tasks.follows.head=linear",
        "tasks.pick.loss=pointwise",
        "tasks.mood.loss_weight=2",
        "tasks.mood.dropout=0.3",
        "tasks.mood.metrics=[f1]",
        "tasks.mood.labels=[positive, negative]",
    ],
)
def test_workers_share_what_decides_a_step(experiment, change):
    assert _shared(experiment, change)["configuration"] != _shared(experiment)["configuration"]


@pytest.mark.parametrize(
    "change",
    [
        "encoder.source=/elsewhere",
        "data.root=/elsewhere",
        "data.cache_dir=/tmp",
        "tasks.mood.train=/other.tsv",
        "training.init_from=/elsewhere",
    ],
)
def test_workers_may_keep_their_files_in_other_places(experiment, change):
    assert _shared(experiment, change) == _shared(experiment)


def test_weights_of_another_run_are_taken_over_by_name(finished, experiment, tmp_path, capsys):
    drop = mtdnn.load_config(experiment, [f"training.init_from={finished.run.model_dir}", "training.epochs=1"])
    tasks = {name: task for name, task in drop.tasks.items() if name != "mood"}
    import dataclasses

    renamed = dataclasses.replace(drop, tasks=tasks | {"feeling": drop.tasks["mood"]})
    run_experiment(renamed, tmp_path / "next", verbose=0)
    said = capsys.readouterr().out
    assert "new, not in the file: heads/feeling" in said
    assert "in the file, not in this model: heads/mood" in said


def test_bad_data_is_found_before_the_directory_is_made(experiment, tmp_path):
    (experiment.parent / "mood.tsv").write_text("text\tlabel\na good day\tsplendid\n")
    with pytest.raises(mtdnn.UserError, match=r"mood\.tsv:2"):
        run_experiment(mtdnn.load_config(experiment), tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


def _one_segment_encoder(folder):
    """A folder with a small BERT that knows one type of segment."""
    save_encoder(mtdnn.load_encoder(f"{TINY},seed=5"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"type_vocab_size": 1}))
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    name = "embeddings.token_type_embeddings.weight"
    safetensors.numpy.save_file({**tensors, name: tensors[name][:1]}, folder / "model.safetensors")
    return str(folder)


def _words_and_vectors(folder):
    folder.mkdir()
    (folder / "words.txt").write_text("\n".join([*SPECIAL_TOKENS, "good", "bad", "day"]) + "\n")
    (folder / "vectors.txt").write_text(f"good {'0.5 ' * 15}0.5\n")
    return f"{TINY_WORDS},vocab={folder}/words.txt,vectors={folder}/vectors.txt"


@pytest.fixture(scope="module", params=[_one_segment_encoder, _words_and_vectors])
def moved(request, tmp_path_factory):
    """A finished run in another place than it was trained in, the files of its encoder in another one; and its outcome."""
    from tests.small import write_experiment

    folder = tmp_path_factory.mktemp("moved")
    source = request.param(folder / "encoder")
    config = mtdnn.load_config(write_experiment(folder), [f'encoder.source="{source}"'])
    outcome = run_experiment(select_tasks(config, ["follows"]), folder / "run", verbose=0)
    (folder / "encoder").rename(folder / "encoder elsewhere")
    (folder / "run").rename(folder / "run elsewhere")
    return folder / "run elsewhere", outcome


def test_a_run_opens_without_the_files_of_its_encoder(moved):
    run = load_run(moved[0])
    scores = mtdnn.evaluate_tasks(run.model, run.tasks, run.encoder, config=run.config)
    for task, expected in moved[1].scores.items():
        assert scores[task] == pytest.approx(expected), task
    trained = moved[1].run.encoder
    assert run.encoder.tokenizer.fingerprint == trained.tokenizer.fingerprint
    assert run.encoder.has_pooler == trained.has_pooler
    assert run.encoder.backbone.get_config() == trained.backbone.get_config()


@pytest.mark.parametrize("moved", [_one_segment_encoder], indirect=True)
def test_a_run_is_exported_without_the_files_of_its_encoder(moved, tmp_path):
    run = load_run(moved[0])
    path = export_run(run, tmp_path / "served", "ids")
    assert tuple((path / "assets" / "vocab.txt").read_text().splitlines()) == run.encoder.tokenizer.vocab
    # Requests name two segments whatever the encoder knows: the head tells the texts apart by them.
    inputs = encode_texts([tf.constant(["the dog runs"]), tf.constant(["an animal"])], run.encoder.tokenizer, 32)
    served = tf.saved_model.load(str(path)).signatures["follows"](**inputs)
    np.testing.assert_allclose(served["logits"], run.model(inputs, training=False)["follows"], atol=1e-4)


def test_a_run_goes_on_without_the_files_of_its_encoder(moved, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(moved[0], folder)
    first, last = sorted((folder / "checkpoints").iterdir())
    shutil.rmtree(last)
    config = mtdnn.load_config(folder / "config.yaml")
    again = run_experiment(config, folder, verbose=0)
    assert f"going on from {first}" in capsys.readouterr().out
    for task, expected in moved[1].scores.items():
        assert again.scores[task] == pytest.approx(expected, abs=1e-3), task
    shutil.rmtree(folder / "checkpoints")  # what is left holds no weights to start from
    with pytest.raises(mtdnn.UserError, match=r"is no directory and no known source|words\.txt: can't be read"):
        run_experiment(config, folder, verbose=0)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", r"encoder\.json: not readable as JSON"),
        ("{}", r"encoder\.json: damaged, or of another version: KeyError\('backbone'\)"),
        ('{"backbone": {"type": "Lstm"}, "tokenizer": {}}', r"encoder\.json: damaged"),
        ('{"backbone": {"type": "BertEncoder", "layers": 2}, "tokenizer": {}}', r"encoder\.json: damaged"),
    ],
)
def test_a_damaged_description_of_the_encoder_is_refused(tmp_path, content, expected):
    (tmp_path / "encoder.json").write_text(content)
    (tmp_path / "vocab.txt").write_text("[PAD]\n")
    with pytest.raises(mtdnn.UserError, match=expected):
        read_description(tmp_path / "encoder.json", tmp_path / "vocab.txt", source="x", dropout=0.1, seed=1)


def test_a_run_of_an_earlier_version_opens_by_the_source_of_its_encoder(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished.run.model_dir, folder)
    for name in ("encoder.json", "vocab.txt"):
        (folder / name).unlink()
    for mine, theirs in zip(load_run(folder).model.weights, finished.run.model.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_rows_left_out_on_purpose_are_counted_and_listed(experiment, tmp_path, capsys):
    with (experiment.parent / "mood.tsv").open("a", encoding="utf-8") as file:
        file.write("a fine day\tsplendid\nno label\n")
    skip = [f"tasks.mood.{split}.on_error=skip" for split in ("train", "dev")]
    config = select_tasks(mtdnn.load_config(experiment, ["training.epochs=1", *skip]), ["mood"])
    outcome = run_experiment(config, tmp_path / "run", verbose=0)
    assert outcome.mixture.example_counts["mood"] == 12
    assert "rows left out because of on_error: skip: mood.train 2, mood.dev 2" in capsys.readouterr().out
    listed = (tmp_path / "run" / "skipped_rows.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[0] for line in listed] == ["mood.train"] * 2 + ["mood.dev"] * 2
    assert "mood.tsv:14" in listed[0]
    assert "splendid" in listed[0]
    assert "mood.tsv:15" in listed[1]


def test_float16_on_several_devices_is_refused_at_once(experiment):
    with pytest.raises(mtdnn.UserError, match="is not supported by this version"):
        prepare_runtime(mtdnn.load_config(experiment, ["runtime.precision=mixed_float16", "runtime.strategy=mirrored"]))


def test_recomputing_without_the_fused_pass_is_refused(experiment, tmp_path):
    config = mtdnn.load_config(experiment, ["runtime.recompute=true", "runtime.encoder=reference"])
    with pytest.raises(
        mtdnn.UserError, match=r"^runtime\.recompute: only the fused pass .*runtime\.encoder: reference"
    ):
        run_experiment(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
