"""Task-definition files of the original program become tasks; what is not supported is told with file, line and task."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver

from mtdnn_tf import cli
from mtdnn_tf.config import dump_config, load_config
from mtdnn_tf.errors import UserError
from mtdnn_tf.task_definitions import LOSSES, MEANINGS, TEXT_COLUMNS
from mtdnn_tf.tasks import TASK_TYPES, load_tasks
from tests.small import TINY

GLUE = """\
cola:
  data_format: PremiseOnly
  enable_san: false
  metric_meta:
  - ACC
  - MCC
  loss: CeCriterion
  kd_loss: MseCriterion
  adv_loss: SymKlCriterion
  n_class: 2
  dropout_p: 0.05
  task_type: Classification
mnli:
  data_format: PremiseAndOneHypothesis
  enable_san: true   \n\
  labels: [contradiction, neutral, entailment]
  metric_meta: [ACC]
  loss: MseCriterion
  loss: CeCriterion
  n_class: 3
  split_names: [train, matched_dev, mismatched_dev, matched_test, mismatched_test]
  task_type: Classification
qnnli:
  data_format: PremiseAndMultiHypothesis
  enable_san: true
  labels: [not_entailment, entailment]
  metric_meta: [ACC]
  loss: RankCeCriterion
  n_class: 1
  task_type: Ranking
sts-B: # a capital and a hyphen
  data_format: PremiseAndOneHypothesis
  enable_san: true
  metric_meta: [Pearson, Spearman]
  n_class: 1
  loss: MseCriterion
  encoder_type: BERT
  task_type: Regression"""

# By the name of the file: its rows, as the layout of its task has them.
DATA = {
    "cola_train": "0\t1\ta dog runs\n1\t0\truns dog a\n",
    "cola_dev": "0\t1\ta cat sleeps\n",
    "mnli_train": "0\tneutral\ta dog\tan animal\n1\tentailment\ta dog\ta dog\n",
    "mnli_matched_dev": "0\tcontradiction\ta dog\tno dog\n",
    "mnli_mismatched_dev": "0\tneutral\ta cat\ta dog\n",
    "mnli_mismatched_test": "0\tneutral\ta cat\ta cow\n",
    "qnnli_train": "0\t7,8\tentailment,not_entailment\twho?\tthe baker\tat noon\n",
    "qnnli_dev": "0\t1,2,3\t0,1,0\twhen?\tat noon\tat one\tat two\n",
    "sts-B_train": "0\t4.5\ta dog\ta hound\n1\t0\ta dog\ta star\n",
    "sts-B_dev": "0\t4.5\ta dog\ta hound\n",
}
MS_STYLE = """\
{
\t"mrpc": {
\t\t"task_name": "mrpc", "data_format": "PremiseAndOneHypothesis", "encoder_type": "BERT", "dropout_p": 0.1,
\t\t"enable_san": false, "metric_meta": ["ACC", "F1", "AUC"], "loss": "CeCriterion", "n_class": 2,
\t\t"split_names": ["train", "dev", "test"], "task_type": "Classification",
\t\t"data_source_dir": "/data/MRPC", "data_process_opts": {"header": true, "is_train": true, "multi_snli": false}
\t}
}
"""
ENTRY = "task_files:\n  - {path: glue_task_def.yml, data: canonical}\n"
PLAIN = "  data_format: PremiseOnly\n  task_type: Classification\n  n_class: 2\n"


def _write(folder, entry=ENTRY, definition=GLUE, data=DATA):
    (folder / "canonical").mkdir(exist_ok=True)
    for name, rows in data.items():
        (folder / "canonical" / f"{name}.tsv").write_text(rows, encoding="utf-8")
    (folder / "glue_task_def.yml").write_text(definition, encoding="utf-8")
    path = folder / "run.yaml"
    path.write_text(entry, encoding="utf-8")
    return path


def _tasks(path, **options):
    return {task.name: task for task in load_tasks(load_config(path, **options))}


def test_a_glue_file_becomes_tasks(tmp_path):
    tasks = _tasks(_write(tmp_path))
    assert list(tasks) == ["cola", "mnli", "mnli_mismatched", "qnnli", "sts_b"]
    assert [task.type for task in tasks.values()] == [*["classification"] * 3, "ranking", "regression"]
    assert [task.head for task in tasks.values()] == ["linear", "san", "san", "linear", "linear"]
    assert tasks["cola"].labels == ("0", "1")
    assert tasks["cola"].metrics == ("accuracy", "matthews")
    assert (tasks["cola"].dropout, tasks["mnli"].dropout) == (0.05, None)
    assert tasks["sts_b"].metrics == ("pearson", "spearman")
    assert tasks["qnnli"].metrics == TASK_TYPES["ranking"].metrics
    assert tasks["qnnli"].sources["dev"].labels == {"not_entailment": "0", "entailment": "1"}


def test_the_first_of_several_dev_splits_is_the_tasks_own(tmp_path):
    tasks = _tasks(_write(tmp_path))
    own, other = tasks["mnli"].sources, tasks["mnli_mismatched"].sources
    assert own["dev"].path == str(tmp_path / "canonical" / "mnli_matched_dev.tsv")
    assert set(own) == {"train", "dev"}  # there is no file of the matched test split
    assert other["dev"].path.endswith("mnli_mismatched_dev.tsv")
    assert other["test"].path.endswith("mnli_mismatched_test.tsv")
    assert (set(other), tasks["mnli_mismatched"].head_of) == ({"dev", "test"}, "mnli")
    assert tasks["mnli_mismatched"].dropout == tasks["mnli"].dropout


def test_a_setting_on_top_of_a_definition_holds_for_the_tasks_that_use_its_head(tmp_path):
    entry = ENTRY + "tasks: {mnli: {dropout: 0.4, pair_order: hypothesis_first}}\n"
    other = _tasks(_write(tmp_path, entry))["mnli_mismatched"]
    assert (other.dropout, other.pair_order) == (0.4, "hypothesis_first")


def test_what_the_file_says_under_tasks_comes_on_top_and_the_dump_holds_tasks_only(tmp_path):
    entry = ENTRY + "tasks: {mnli: {dropout: 0.4, head: linear, dev: other.tsv}}\n"
    config = load_config(_write(tmp_path, entry), ["tasks.cola.batch_size=8"])
    mnli = config.tasks["mnli"]
    assert (mnli.dropout, mnli.head, mnli.labels[0]) == (0.4, "linear", "contradiction")
    assert mnli.dev.path == str(tmp_path / "other.tsv")
    assert config.tasks["cola"].batch_size == 8
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert "task_files" not in dump_config(config)
    assert load_config(tmp_path / "again.yaml") == config


def test_data_sets_of_one_definition(tmp_path):
    data = dict.fromkeys(("cola_001_train", "cola_train"), "0\t1\ta text\n")
    entry = "task_files: [{path: glue_task_def.yml, data: canonical, datasets: [cola, cola_001]}]\n"
    tasks = _tasks(_write(tmp_path, entry, data=data))
    assert list(tasks) == ["cola", "cola_001"]
    assert tasks["cola_001"].sources["train"].path.endswith("cola_001_train.tsv")


@pytest.mark.parametrize("order", ["{part}_{split}", "{split}_{part}"])
def test_several_training_splits_make_several_tasks(tmp_path, order):
    names = [order.format(part=part, split=split) for part in ("r1", "r2") for split in ("train", "dev")]
    definition = f"anli:\n{PLAIN}  split_names: [{', '.join(names)}]\n"
    data = {f"anli_{name}": "0\t1\ta text\n" for name in names}
    tasks = _tasks(_write(tmp_path, definition=definition, data=data))
    assert list(tasks) == ["anli_r1", "anli_r2"]
    assert all(set(task.sources) == {"train", "dev"} and task.head_of is None for task in tasks.values())


def test_json_with_tabs_and_keys_of_other_versions(tmp_path, caplog):
    path = _write(tmp_path, ENTRY.replace(".yml", ".json"), data={"mrpc_train": "0\t1\ta\tb\n"})
    (tmp_path / "glue_task_def.json").write_text(MS_STYLE)
    with caplog.at_level(logging.WARNING, logger="absl"):
        tasks = _tasks(path)
    assert tasks["mrpc"].metrics == ("accuracy", "f1")
    assert [record.getMessage().split(": ", 1)[1] for record in caplog.records] == [
        "without effect here: metric AUC (mrpc)"
    ]


def test_what_would_change_training_there_is_one_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="absl"):
        load_config(_write(tmp_path))
    assert len(caplog.records) == 1
    assert "without effect here: kd_loss (cola); adv_loss (cola)" in caplog.text


def test_slips_of_published_files_are_noted(tmp_path, caplog):
    definition = f"cb:\n{PLAIN}  labels: [c, n, e]\n  metric_meta: [F1, ACC]\n  enable_san: true\n"
    path = _write(tmp_path, definition=definition, data={"cb_train": "0\tc\ta\n"})
    with caplog.at_level(logging.WARNING, logger="absl"):
        tasks = _tasks(path)
    assert (tasks["cb"].labels, tasks["cb"].metrics) == (("c", "n", "e"), ("accuracy",))
    assert tasks["cb"].head == "linear"  # SAN reads two texts
    assert "n_class: 2, as there are 3 labels (cb); metric F1 (cb)" in caplog.text


def test_files_of_the_old_kind_without_classes_or_metrics(tmp_path):
    definition = "rte:\n  data_format: PremiseAndOneHypothesis\n  labels: [n, 1]\n  task_type: Classification"
    tasks = _tasks(_write(tmp_path, definition=definition, data={"rte_train": "0\t1\ta\tb\n"}))
    assert (tasks["rte"].labels, tasks["rte"].head) == (("n", "1"), "linear")


def test_flags_name_several_files_with_data_in_several_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        _write(tmp_path / name, definition=f"{name}:\n{PLAIN}", data={f"{name}_train": "0\t1\ta\n"})
        folders.append(f"{name}/glue_task_def.yml:{name}/canonical")
    config = load_config(None, [f"encoder.source={TINY}", "tasks.two.dropout=0.2"], folders)
    assert list(config.tasks) == ["one", "two"]
    assert config.tasks["two"].dropout == 0.2
    assert config.tasks["two"].train.path == str(tmp_path / "two" / "canonical" / "two_train.tsv")


def test_every_meaning_is_one_that_the_package_has():
    for meaning in MEANINGS.values():
        kind = TASK_TYPES[meaning.type]
        assert LOSSES[meaning.loss] in kind.losses
        assert set(meaning.metrics.values()) <= set(kind.known_metrics)
        assert all(len(TEXT_COLUMNS[layout]) in kind.arities for layout in meaning.formats)


TAGGING = "ner:\n  data_format: {}\n  task_type: {}\n  n_class: 3\n"
BAD = {
    "unknown key": (f"cola:\n{PLAIN}  n_clas: 2\n", r"glue_task_def\.yml:5: cola\.n_clas: unknown key.*mean 'n_class'"),
    "unknown type": (
        "cola:\n  data_format: PremiseOnly\n  task_type: Clasification\n",
        r"glue_task_def\.yml:3: cola\.task_type: must be one of.*'Clasification'; did you mean 'Classification'",
    ),
    "unknown layout": (
        "cola:\n  data_format: PremisOnly\n  task_type: Ranking\n",
        r"yml:2: cola\.data_format: .*'PremiseOnly'",
    ),
    "tagging": (TAGGING.format("Seqence", "SeqenceLabeling"), r"yml:3: ner: tasks of the type SeqenceLabeling.*datasets"),
    "tagging, spelt": (TAGGING.format("Sequence", "SequenceLabeling"), r"yml:3: ner: .*supported: Classification, Regr"),
    "type and layout": (
        "x:\n  data_format: PremiseOnly\n  task_type: Ranking\n",
        r"yml:3: x: Ranking with the layout PremiseOnly.*takes PremiseAndMultiHypothesis",
    ),
    "another loss": (
        f"cola:\n{PLAIN}  loss: HLCriterion\n",
        r"yml:5: cola\.loss: Classification is trained with CeCriterion here, received 'HLCriterion'",
    ),
    "no metric left": (f"cola:\n{PLAIN}  metric_meta: [AUC]\n", r"yml:5: cola\.metric_meta: unknown metric.*'AUC'.*ACC"),
    "no classes": ("cola:\n  data_format: PremiseOnly\n  task_type: Classification\n", r"cola: labels or n_class"),
    "no layout": ("cola:\n  task_type: Classification\n", r"yml:1: cola\.data_format: is missing"),
    "split name": (f"cola:\n{PLAIN}  split_names: [training]\n", r"cola\.split_names: .*received 'training'"),
    "no files": (f"sst:\n{PLAIN}", r"yml:1: sst: .*canonical holds none of sst_train, sst_dev, sst_test \(\.tsv or \.json\)"),
    "one name": (f"cola:\n{PLAIN}COLA:\n{PLAIN}", r"COLA makes a second task of the name cola"),
    "no mapping": ("[cola]", r"glue_task_def\.yml: must be a mapping"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_definitions_are_told_in_one_line(tmp_path, case):
    definition, expected = BAD[case]
    path = _write(tmp_path, definition=definition, data={**DATA, "COLA_train": "", "ner_train": "", "x_train": ""})
    with pytest.raises(UserError, match=expected) as raised:
        load_config(path)
    assert "\n" not in str(raised.value)


BAD_ENTRIES = {
    "unknown data set": ("{path: glue_task_def.yml, data: canonical, datasets: [coal]}", r"unknown task 'coal'.*'cola'"),
    "no folder": ("{path: glue_task_def.yml, data: canon}", r"run\.yaml:2: task_files: .*canon: there is no such folder"),
    "no file": ("{path: gone.yml, data: canonical}", r"run\.yaml:2: task_files: .*gone\.yml: there is no such file"),
    "no data": ("{path: glue_task_def.yml}", r"task_files\.data: is missing"),
    "format": ("{path: glue_task_def.yml, data: canonical, format: canonicl}", r"did you mean 'canonical'"),
    "twice": (
        "{path: glue_task_def.yml, data: canonical}\n  - {path: glue_task_def.yml, data: canonical}",
        r"run\.yaml:3: task_files: glue_task_def\.yml defines the task cola, which .*glue_task_def\.yml:1 has already",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ENTRIES)
def test_bad_entries_are_told_in_one_line(tmp_path, case):
    entry, expected = BAD_ENTRIES[case]
    with pytest.raises(UserError, match=expected):
        load_config(_write(tmp_path, f"task_files:\n  - {entry}\n"))


def test_a_task_that_is_not_supported_can_be_left_out(tmp_path):
    entry = "task_files: [{path: glue_task_def.yml, data: canonical, datasets: [cola]}]\n"
    definition = f"cola:\n{PLAIN}{TAGGING.format('Seqence', 'SeqenceLabeling')}"
    assert list(load_config(_write(tmp_path, entry, definition)).tasks) == ["cola"]
    flag = f"{tmp_path}/glue_task_def.yml:{tmp_path}/canonical"
    assert list(load_config(None, (), [f"{flag}:cola"]).tasks) == ["cola"]
    with pytest.raises(UserError, match="ner: tasks of the type"):
        load_config(None, (), [flag])


def test_flags_stand_without_configuration(tmp_path):
    _write(tmp_path)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    task_files = [f"{tmp_path}/glue_task_def.yml:{tmp_path}/canonical:cola,mnli"]
    with flagsaver.flagsaver(task_file=task_files, set=["tasks.mnli.dropout=0.4"], tasks=["mnli"]):
        config = cli.config_from_flags()
        assert cli.model_dir_from_flags() == Path("runs/glue_task_def")
    assert list(config.tasks) == ["mnli"]
    assert config.tasks["mnli"].dropout == 0.4


def test_a_flag_needs_a_folder():
    with pytest.raises(UserError, match=r"--task_file=glue\.yml: must be a file and its data folder"):
        load_config(None, (), ["glue.yml"])
