"""A model card tells what a model was made of, and claims no more than that."""

from __future__ import annotations

import json

import pytest

import mtdnn_tf as mtdnn
from mtdnn_tf.config import dump_config
from mtdnn_tf.evaluation.model_card import exported_model_card, model_card
from mtdnn_tf.evaluation.origins import earlier_runs
from mtdnn_tf.evaluation.runs import Run, build_run_model

SCORES = {"mood": {"accuracy": 0.5}, "average": 0.5}


@pytest.fixture
def opened(experiment, tmp_path):
    """Return a run of the experiment with changes, by overrides; it was never trained."""

    def opened(*changes):
        config = mtdnn.load_config(experiment, changes)
        return Run(*build_run_model(config), config, tmp_path / "run")

    return opened


def _write_run(folder, config, changes=()):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(mtdnn.load_config(config, changes)))
    return folder


def _write_events(run, *events):
    run.model_dir.mkdir()
    (run.model_dir / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


def test_a_run_that_never_ended_gets_a_card_that_says_so(opened):
    run = opened()
    card = exported_model_card(run, {"fingerprint": "abc"})
    assert "not recorded: the run has not ended" in card
    assert "| mood | classification | linear | text | negative, positive | not recorded |" in card
    assert "| fingerprint | abc |" in card
    assert exported_model_card(run, {"fingerprint": "abc"}) == card


def test_what_a_run_started_from_is_told_with_its_data_and_licences(experiment, opened, tmp_path):
    first = _write_run(tmp_path / "first", experiment)
    (tmp_path / "old.tsv").write_text("text\tlabel\nfine\tpositive\n")
    (tmp_path / "README.md").write_text("Licence: not for sale")
    old = f"tasks.mood.train={tmp_path / 'old.tsv'}"
    second = _write_run(tmp_path / "second", experiment, [f"training.init_from={first}", old])
    run = opened(f"training.init_from={second}", "training.init_heads=stripped")
    card = model_card(run, None)
    assert f"its encoder without its heads came from `{second}` (configuration " in card
    assert f"its encoder and its heads came from `{first}` (configuration " in card
    assert f"| `{tmp_path / 'old.tsv'}` | " in card
    assert "| data `mood` | not for sale (README.md) |" in card


def test_an_encoder_of_pretraining_is_told_by_its_run(experiment, opened, tmp_path):
    run = opened()
    pretrained = _write_run(tmp_path / "pretrained", experiment)
    config = mtdnn.load_config(experiment, [f"encoder.source={pretrained / 'encoder'}"])
    [earlier] = earlier_runs(config)
    assert (earlier.folder, earlier.taken) == (pretrained, "its encoder")
    assert earlier_runs(run.config) == []


def test_a_run_that_is_gone_is_told_as_gone(opened, tmp_path):
    card = model_card(opened(f"training.init_from={tmp_path / 'gone'}"), None)
    assert (
        f"came from `{tmp_path / 'gone'}`, which can not be read any more: its data and licences are not known" in card
    )


def test_epochs_are_those_that_were_trained(opened):
    run = opened("training.epochs=50", "training.patience=1")
    chosen = "best of its epochs by `average`: chosen on the same development sets"
    assert chosen not in model_card(run, SCORES)
    dev = [{"event": "dev", "epoch": epoch} for epoch in range(3)]
    _write_events(run, *dev, {"event": "early_stop", "epoch": 2})
    card = model_card(run, SCORES, {"mood": 12}, 3)
    assert "- 3 epochs (of 50 at most) of 3 steps" in card
    assert chosen in card


def test_one_task_is_no_training_together_and_bars_stay_in_their_cells(opened):
    run = opened("tasks.mood.labels=[negative, positive, a|b]")
    assert "with 4 tasks, trained together, on it" in model_card(run, None)
    alone = Run(run.model, run.tasks[:1], run.encoder, run.config, run.model_dir)
    card = model_card(alone, None)
    assert "with one task on it" in card
    assert "| negative, positive, a\\|b |" in card
