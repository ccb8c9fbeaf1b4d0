"""Configurations are layered, strict, absolute and reproducible; what is wrong is told with file, line and key."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mtdnn_tf.config import config_differences, config_hash, config_to_dict, dump_config, load_config
from mtdnn_tf.errors import UserError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
TASK = """
tasks:
  mood:
    type: classification
    text: [text]
    labels: [negative, positive]
    train: data/mood.tsv
"""


def _write(folder, name="run.yaml", text=TASK):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_are_the_papers(tmp_path):
    config = load_config(_write(tmp_path))
    assert (config.optimizer.name, config.optimizer.learning_rate) == ("adamax", 5e-5)
    assert (config.training.epochs, config.data.batch_size) == (5, 32)
    assert (config.optimizer.clip_norm, config.optimizer.warmup, config.model.san_steps) == (1.0, 0.1, 5)


def test_what_is_nearer_wins(tmp_path):
    _write(tmp_path, "base/one.yaml", TASK + "training: {epochs: 1, seed: 1}\ndata: {max_length: 11, batch_size: 11}\n")
    _write(tmp_path, "base/two.yaml", "training: {seed: 2}\ndata: {max_length: 12}\n")
    path = _write(tmp_path, text="include: [base/one.yaml, base/two.yaml]\ndata: {max_length: 13}\n")
    config = load_config(path, ["optimizer.warmup=0.2", "optimizer.warmup=0.3"])
    assert (config.training.epochs, config.training.seed) == (1, 2)
    assert (config.data.batch_size, config.data.max_length) == (11, 13)
    assert config.optimizer.warmup == 0.3
    assert config.tasks["mood"].train.path == str(tmp_path / "base" / "data" / "mood.tsv")


def test_overrides_take_yaml(tmp_path):
    config = load_config(
        _write(tmp_path), ["data.buckets=[8, 16]", "optimizer.learning_rate=1e-4", "tasks.mood.dropout=0.5"]
    )
    assert config.data.buckets == (8, 16)
    assert config.optimizer.learning_rate == 1e-4
    assert config.tasks["mood"].dropout == 0.5


def test_paths_start_from_the_file_the_root_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_ROOT", "elsewhere")
    monkeypatch.chdir(tmp_path)
    path = _write(tmp_path, "configs/run.yaml")
    assert load_config(path).tasks["mood"].train.path == str(tmp_path / "configs" / "data" / "mood.tsv")
    rooted = _write(tmp_path, "configs/rooted.yaml", TASK + "data: {root: ../all}\n")
    assert load_config(rooted).tasks["mood"].train.path == str(tmp_path / "all" / "data" / "mood.tsv")
    outside = _write(tmp_path, "configs/outside.yaml", TASK + 'data: {root: "${MY_ROOT:-../all}"}\n')
    assert load_config(outside).tasks["mood"].train.path == str(tmp_path / "elsewhere" / "data" / "mood.tsv")
    monkeypatch.delenv("MY_ROOT")
    assert load_config(outside).tasks["mood"].train.path == str(tmp_path / "all" / "data" / "mood.tsv")


ON_PUBLIC_DATA = ["glue_minilm", "ranking_minilm", "fdu_mtl/stack_cls", "pretraining/small", "pretraining/bert_base"]


@pytest.mark.parametrize("name", ON_PUBLIC_DATA)
def test_configurations_on_public_data_name_the_variable_that_is_not_set(monkeypatch, name):
    for variable in ("MTDNN_DATA", "MTDNN_TEXT"):
        monkeypatch.delenv(variable, raising=False)
    expected = r"\.yaml:\d+: data\.root: the environment variable MTDNN_(DATA|TEXT) is not set; set it, .*"
    with pytest.raises(UserError, match=expected) as raised:
        load_config(CONFIGS / f"{name}.yaml")
    assert "\n" not in str(raised.value)


def test_other_paths_start_from_where_they_are_written(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "configs" / "encoder").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    path = _write(tmp_path, "configs/run.yaml", TASK + "training: {init_from: old}\nencoder: {source: encoder}\n")
    config = load_config(path, ["export.output_dir=out"])
    assert config.training.init_from == str(tmp_path / "configs" / "old")
    assert config.export.output_dir == str(tmp_path / "here" / "out")
    assert config.encoder.source == str(tmp_path / "configs" / "encoder")
    assert load_config(path, ["encoder.source=random://layers=1"]).encoder.source == "random://layers=1"
    assert load_config(path, ["tasks.mood.train=x.tsv"]).tasks["mood"].train.path == str(tmp_path / "here" / "x.tsv")


SETTINGS = {
    "random://layers=1,vocab=words.txt": "random://layers=1,vocab={configs}/words.txt",
    "words://vocab=missing.txt,hidden=8": "words://vocab={configs}/missing.txt,hidden=8",
    "words://vocab=here.txt": "words://vocab={here}/here.txt",
    "words://vocab=~/words.txt": "words://vocab={home}/words.txt",
    "words://vocab=${MY_ROOT}/words.txt": "words://vocab=/elsewhere/words.txt",
    "words://vocab=/a/../words.txt,vectors=glove.txt": "words://vocab=/words.txt,vectors={configs}/glove.txt",
    "words://vectors=bert": "words://vectors={configs}/bert",
    "words://vectors=bert_base_en_uncased,vocab=": "words://vectors=bert_base_en_uncased,vocab=",
    "words://vectors=package://weights/model": "words://vectors=package://weights/model",
    "random://": "random://",
    "package://weights/model": "package://weights/model",
}


@pytest.mark.parametrize("source", SETTINGS)
def test_files_in_settings_of_an_encoder_become_absolute_like_folders(tmp_path, monkeypatch, source):
    here, configs = tmp_path / "here", tmp_path / "configs"
    (configs / "bert").mkdir(parents=True)
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("MY_ROOT", "/elsewhere")
    for path in (configs / "words.txt", configs / "glove.txt", here / "here.txt", here / "words.txt"):
        path.write_text("")
    config = load_config(_write(tmp_path, "configs/run.yaml", TASK + f'encoder: {{source: "{source}"}}\n'))
    expected = SETTINGS[source].format(configs=configs, here=here, home=Path.home())
    assert config.encoder.source == expected
    again = load_config(_write(tmp_path, "configs/again.yaml", dump_config(config)))
    assert again.encoder.source == expected


def test_a_file_whose_folder_would_end_the_setting_stays_as_it_is(tmp_path):
    path = _write(tmp_path, "a,b/run.yaml", TASK + 'encoder: {source: "words://vocab=words.txt"}\n')
    assert load_config(path).encoder.source == "words://vocab=words.txt"


def test_a_source_is_a_text_or_a_mapping(tmp_path):
    spelled = TASK.replace("train: data/mood.tsv", "train: {path: data/mood.tsv, header: false, columns: {text: 0}}")
    short = load_config(_write(tmp_path)).tasks["mood"].train
    long = load_config(_write(tmp_path, text=spelled)).tasks["mood"].train
    assert long == dataclasses.replace(short, header=False, columns={"text": 0})


def test_a_source_of_a_dataset_is_no_path(tmp_path):
    config = load_config(_write(tmp_path), ["tasks.mood.train=tfds:glue/sst2"])
    assert config.tasks["mood"].train.path == "tfds:glue/sst2"


def test_a_tilde_before_a_folders_name_is_part_of_it(tmp_path):
    config = load_config(_write(tmp_path), ["tasks.mood.train=~data/train.tsv"])
    assert config.tasks["mood"].train.path.endswith("/~data/train.tsv")


def test_a_dump_reads_back_equal(tmp_path):
    config = load_config(_write(tmp_path), ["training.init_from=runs/other", "tasks.mood.loss_weight=2"])
    again = load_config(_write(tmp_path, "elsewhere/again.yaml", dump_config(config)))
    assert again == config
    assert config_hash(again) == config_hash(config)


def test_yaml_words_and_numbers_mean_what_they_look_like(tmp_path):
    text = TASK.replace("[negative, positive]", "[no, yes]") + "optimizer: {learning_rate: 5e-5}\n"
    config = load_config(_write(tmp_path, text=text))
    assert config.tasks["mood"].labels == ("no", "yes")
    assert config.optimizer.learning_rate == 5e-5


def test_the_hash_depends_on_every_value_and_no_order(tmp_path):
    first = load_config(_write(tmp_path, "a.yaml", TASK + "training: {epochs: 2, seed: 3}\n"))
    second = load_config(_write(tmp_path, "b.yaml", "training: {seed: 3, epochs: 2}\n" + TASK))
    assert config_hash(first) == config_hash(second)
    assert len(config_hash(first)) == 12
    hashes = {config_hash(load_config(tmp_path / "a.yaml", [change])) for change in CHANGES}
    assert len(hashes | {config_hash(first)}) == len(CHANGES) + 1


CHANGES = [
    "training.epochs=9",
    "training.seed=4",
    "encoder.dropout=0.2",
    "data.buckets=[8]",
    "model.pooler=none",
    "optimizer.decay_all=true",
    "tasks.mood.labels=[positive, negative]",
    "tasks.mood.train=other.tsv",
    "runtime.deterministic=true",
]


def test_another_order_of_tasks_is_a_difference(tmp_path):
    config = load_config(_write(tmp_path))
    [mood] = config.tasks.values()
    one, other = (dataclasses.replace(config, tasks=dict.fromkeys(names, mood)) for names in ("ab", "ba"))
    assert config_differences(one, one) == []
    assert config_differences(one, other) == ["order of tasks: a, b -> b, a"]


def test_the_hash_depends_on_each_setting_of_each_section_but_cache_and_service(tmp_path):
    config = load_config(_write(tmp_path))
    hashes = [config_hash(config)]
    cached = dataclasses.replace(config, data=dataclasses.replace(config.data, cache_dir="elsewhere"))
    assert config_hash(cached) == hashes[0]
    assert config_differences(config, cached) == []
    sections = [item.name for item in dataclasses.fields(config) if item.name != "tasks"]
    for name in sections:
        section = getattr(config, name)
        for item in dataclasses.fields(section):
            if item.name in ("cache_dir", "service"):
                continue
            changed = dataclasses.replace(section, **{item.name: "something else"})
            hashes.append(config_hash(dataclasses.replace(config, **{name: changed})))
    assert len(set(hashes)) == len(hashes) > 30


def test_texts_that_look_like_something_else_survive_a_dump(tmp_path):
    names = ["no", "1e-4", "1.0", "null", "~", "true", "0x1f", "2020-01-01", "a: b", "# x", "é", "two\nlines", " "]
    config = load_config(_write(tmp_path))
    mood = dataclasses.replace(config.tasks["mood"], labels=tuple(names))
    odd = dataclasses.replace(config, tasks={"mood": mood})
    assert load_config(_write(tmp_path, "again.yaml", dump_config(odd))) == odd


def test_differences_name_the_keys(tmp_path):
    config = load_config(_write(tmp_path))
    assert config_differences(config, config) == []
    other = load_config(tmp_path / "run.yaml", ["training.epochs=7", "tasks.mood.dropout=0.3"])
    found = config_differences(config, other)
    assert sorted(found) == ["tasks.mood.dropout: not set -> 0.3", "training.epochs: 5 -> 7"]


def test_what_is_unset_is_left_out_of_the_dump(tmp_path):
    plain = config_to_dict(load_config(_write(tmp_path)))
    assert "head" not in plain["tasks"]["mood"]
    assert "init_from" not in plain["training"]


def test_the_configuration_cannot_be_changed_by_accident(tmp_path):
    config = load_config(_write(tmp_path))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.training.epochs = 3


BAD = {
    "unknown section": (TASK + "trainig: {epochs: 1}\n", [], r"run\.yaml:8: trainig: unknown key.*mean 'training'"),
    "unknown key": (TASK + "training:\n  epoch: 1\n", [], r"run\.yaml:9: training\.epoch: unknown key.*mean 'epochs'"),
    "unknown override": (TASK, ["training.epoch=1"], r"override training\.epoch=1: .*mean 'epochs'"),
    "unknown task": (TASK, ["tasks.mod.dropout=0.1"], r"tasks\.mod: unknown task 'mod'.*mean 'mood'"),
    "no equals": (TASK, ["training.epochs"], r"override 'training\.epochs': must be a dotted key and a value"),
    "text for a number": (
        TASK + "training: {epochs: many}\n",
        [],
        r"training\.epochs: must be a whole number, received 'many'",
    ),
    "number for a text": (
        TASK + "encoder: {source: 5}\n",
        [],
        r"encoder\.source: must be a text, received 5; in quotes",
    ),
    "half an epoch": (
        TASK + "training: {epochs: 1.5}\n",
        [],
        r"training\.epochs: must be a whole number, received 1\.5",
    ),
    "too small": (TASK + "training: {epochs: 0}\n", [], r"training\.epochs: must be at least 1, received 0"),
    "not finite": (TASK, ["optimizer.learning_rate=.inf"], r"optimizer\.learning_rate: must be a"),
    "dropout of one": (TASK, ["model.dropout=1"], r"model\.dropout: must be at least 0 and less than 1"),
    "closed list": (TASK, ["export.kind=txt"], r"export\.kind: must be one of text, ids, received 'txt'.*mean 'text'"),
    "list for a mapping": (TASK + "training: [1]\n", [], r"training: must be a mapping"),
    "same task twice": (
        TASK + "  mood:\n    type: regression\n",
        [],
        r"run\.yaml:8: duplicate key 'mood'; the first is in line 3",
    ),
    "not YAML": (TASK + "data: {max_length: 1\n", [], r"run\.yaml:\d+: not valid YAML"),
    "foreign object": (
        TASK + "data: !!python/object:os.system {}\n",
        [],
        r"run\.yaml:8: .*plain data, received the tag",
    ),
    "no tasks": ("training: {epochs: 1}\n", [], r"tasks: is missing"),
    "empty": ("", [], r"run\.yaml: a configuration must be a mapping"),
    "descending buckets": (TASK, ["data.buckets=[16, 8]"], r"data\.buckets: must be in ascending order"),
    "environment": (TASK + 'data: {root: "${NO_SUCH_VARIABLE}"}\n', [], r"NO_SUCH_VARIABLE is not set"),
    "missing include": ("include: gone.yaml\n" + TASK, [], r"run\.yaml:1: .*gone\.yaml: there is no such file"),
    "include of a number": ("include: 5\n" + TASK, [], r"run\.yaml:1: include: must be a file name"),
    "malformed variable": (TASK + 'data: {root: "${A-b}"}\n', [], r"run\.yaml:8: data\.root: must be \$\{NAME\}"),
    "true for a number": (TASK + "training: {epochs: true}\n", [], r"training\.epochs: must be a whole number"),
    "far too large": (TASK, [f"optimizer.learning_rate=1{'0' * 400}"], r"optimizer\.learning_rate: must be a number"),
    "key of two lines": (TASK + '"a\\nb": 1\n', [], r"run\.yaml:8: a key must be in one line"),
    "override of two lines": (TASK, ["training.epochs=|\n  many\n"], r"training\.epochs: must be a whole number"),
    "half an override": (TASK, ["training.epochs={\n"], r"override training\.epochs=\{: not valid YAML"),
    "alias of itself": (TASK + "data: &x [*x]\n", [], r"run\.yaml: not valid YAML: an alias holds itself"),
    "cyclic include": ("include: run.yaml\n" + TASK, [], r"must not include itself: run\.yaml -> run\.yaml"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_configurations_are_told_in_one_line(tmp_path, case):
    text, overrides, expected = BAD[case]
    with pytest.raises(UserError, match=expected) as raised:
        load_config(_write(tmp_path, text=text), overrides)
    assert "\n" not in str(raised.value)


PLACES = {
    "epochs at the top": ("epochs: 3\n", [], r"run\.yaml:8: epochs: .* belongs at training\.epochs$"),
    "rate under training": ("training: {learning_rate: 1}\n", [], r"training\.learning_rate: .* optimizer\.learning_rate$"),
    "length in a task": ("    max_length: 9\n", [], r"tasks\.mood\.max_length: .* at data\.max_length$"),
    "header of a task": (
        "    header: false\n", [],
        r"tasks\.mood\.header: .* at tasks\.mood\.train\.header or tasks\.mood\.dev\.header or tasks\.mood\.test\.header$",
    ),
    "label of a source": ("    dev: {path: x.tsv, label: y}\n", [], r"tasks\.mood\.dev\.label: .* at tasks\.mood\.label$"),
    "of several sections": ("dropout: 0.1\n", [], r" at tasks\.<name>\.dropout or encoder\.dropout or model\.dropout$"),
    "misspelt and misplaced": ("epoch: 3\n", [], r"unknown key 'epoch'.* Did you mean training\.epochs\?$"),
    "a section in another": ("training: {optimizer: {power: 2}}\n", [], r" at optimizer \(top level\)$"),
    "a misspelt include": ("includes: base.yaml\n", [], r"Did you mean include \(top level\)\?$"),
    "an include in a section": ("data: {include: base.yaml}\n", [], r" at include \(top level\)$"),
    "a task at the top": ("other: {type: regression, text: [a]}\n", [], r" at tasks\.other$"),
    "a setting among the tasks": ("  epochs: 3\n", [], r"tasks\.epochs: must be a mapping, received 3; .* at training\.epochs$"),
    "an override": ("", ["epochs=3"], r"override epochs=3: epochs: .* at training\.epochs$"),
    "an override of a task": ("", ["mood.head=mlp"], r"override mood\.head=mlp: mood: .* at tasks\.mood$"),
    "a mapping of labels": (
        "", ["tasks.mood.labels={0: negative}"],
        r"must be a list.* a mapping with 0; such a key belongs at tasks\.mood\.train\.labels or tasks\.mood\.dev\.labels",
    ),
    "a key with dots": ("training.epochs: 3\n", [], r"training\.epochs: a key of a file has no dots; write training: \{epochs: \.\.\.\}$"),
    "at its place in a task": ("    dev: 5\n", [], r"tasks\.mood\.dev: must be a mapping, received 5$"),
    "at its place": ("encoder: random://\n", [], r"encoder: must be a mapping, received 'random://'$"),
}  # fmt: skip


@pytest.mark.parametrize("case", PLACES)
def test_a_key_at_the_wrong_level_is_answered_with_its_place(tmp_path, case):
    text, overrides, expected = PLACES[case]
    with pytest.raises(UserError, match=expected) as raised:
        load_config(_write(tmp_path, text=TASK + text), overrides)
    assert "\n" not in str(raised.value)


def test_every_key_put_at_the_top_is_sent_to_its_section(tmp_path):
    config = load_config(_write(tmp_path))
    sections = [item.name for item in dataclasses.fields(config) if item.name != "tasks"]
    keys = [(section, item.name) for section in sections for item in dataclasses.fields(getattr(config, section))]
    for section, key in keys:
        if key not in sections:
            with pytest.raises(UserError, match=rf"unknown key '{key}'; such a key belongs at .*{section}\.{key}"):
                load_config(tmp_path / "run.yaml", [f"{key}=1"])
    assert len(keys) > 30


def test_a_cycle_of_includes_is_told_with_its_files(tmp_path):
    _write(tmp_path, "base/one.yaml", "include: ../run.yaml\n")
    with pytest.raises(UserError, match=r"one\.yaml:1: include: .*itself: run\.yaml -> one\.yaml -> run\.yaml$"):
        load_config(_write(tmp_path, text="include: base/one.yaml\n" + TASK))


def test_an_error_names_the_file_it_is_written_in(tmp_path):
    _write(tmp_path, "base/one.yaml", "# first line\ntraining: {epochs: 0}\n")
    path = _write(tmp_path, text="include: base/one.yaml\n" + TASK)
    with pytest.raises(UserError, match=r"base/one\.yaml:2: training\.epochs: must be at least 1"):
        load_config(path)
    assert load_config(path, ["training.epochs=2"]).training.epochs == 2


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UserError, match=r"gone\.yaml: there is no such file"):
        load_config(tmp_path / "gone.yaml")
