"""Training ends when the deciding score gets no better; that is said, recorded, and survives an interruption."""

from __future__ import annotations

import json
import shutil

import pytest

import mtdnn_tf as mtdnn
from mtdnn_tf.config import select_tasks
from mtdnn_tf.experiment import run_experiment
from mtdnn_tf.tasks import TaskSpec
from mtdnn_tf.training import callbacks, checkpoints

# At this rate no score changes: the first epoch stays the best.
STILL = ["optimizer.learning_rate=1e-12", "training.epochs=6", "training.patience=2", "training.keep_checkpoints=100"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    from tests.small import write_experiment

    return write_experiment(tmp_path_factory.mktemp("patience"))


def _config(path, options):
    return select_tasks(mtdnn.load_config(path, options), ["mood", "close"])


@pytest.fixture(scope="module")
def stopped(path):
    return run_experiment(_config(path, STILL), path.parent / "stopped", verbose=0).run


def _events(folder, name):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == name]


def test_it_stops_after_the_epochs_of_patience_and_records_it(stopped):
    assert [line["epoch"] for line in _events(stopped.model_dir, "dev")] == [0, 1, 2]
    [event] = _events(stopped.model_dir, "early_stop")
    assert (event["epoch"], event["best_metric"], event["patience"]) == (2, "average", 2)
    best = checkpoints.read_state(stopped.model_dir / "best")
    assert best.epoch == 1
    assert event["best_score"] == best.score == json.loads((stopped.model_dir / "scores.json").read_text())["average"]
    assert "Stopped after epoch 3 of 6: average" in (stopped.model_dir / "report.html").read_text()


def test_a_run_that_stopped_early_is_already_trained(stopped, capsys):
    before = (stopped.model_dir / "metrics.jsonl").read_text()
    run_experiment(stopped.config, stopped.model_dir, verbose=0)
    assert "already trained" in capsys.readouterr().out
    assert (stopped.model_dir / "metrics.jsonl").read_text() == before


def test_patience_is_counted_on_after_an_interruption(stopped, tmp_path, capsys):
    cut = tmp_path / "run"
    shutil.copytree(stopped.model_dir, cut)
    for path in (cut / "checkpoints").iterdir():
        if checkpoints.read_state(path).epoch > 2:
            shutil.rmtree(path)
    assert checkpoints.read_state(checkpoints.latest(cut / "checkpoints")).stale_epochs == 1
    run_experiment(stopped.config, cut, verbose=0)
    said = [line for line in capsys.readouterr().out.splitlines() if "early stop" in line]
    assert len(said) == 1
    assert said[0].startswith("early stop after epoch 3: average has not been better than")
    assert "2 epochs (training.patience)" in said[0]
    assert [line["epoch"] for line in _events(cut, "dev")] == [0, 1, 2]
    assert _events(cut, "early_stop") == _events(stopped.model_dir, "early_stop")


@pytest.mark.parametrize(("seconds", "epochs"), [(0.0, [1, 2, 3, 4, 5]), (3600.0, [2, 4, 5])])
def test_between_scored_epochs_checkpoints_alone_are_written_and_not_too_often(path, monkeypatch, seconds, epochs):
    monkeypatch.setattr(callbacks, "SECONDS_AT_STAKE", seconds)
    options = ["training.score_every=2", "training.epochs=5", "training.keep_checkpoints=100"]
    config = select_tasks(mtdnn.load_config(path, options), ["mood"])
    run = run_experiment(config, path.parent / f"every_second_{seconds}", verbose=0).run
    assert [line["epoch"] for line in _events(run.model_dir, "dev")] == [1, 3, 4]
    states = [checkpoints.read_state(folder) for folder in sorted((run.model_dir / "checkpoints").iterdir())]
    assert [state.epoch for state in states] == epochs
    assert [state.epoch for state in states if state.best_score is None] == [epoch for epoch in epochs if epoch < 2]


def test_patience_counts_scored_epochs(path, capsys):
    config = select_tasks(mtdnn.load_config(path, [*STILL, "training.score_every=2", "training.patience=1"]), ["mood"])
    run = run_experiment(config, path.parent / "patient", verbose=0).run
    assert [line["epoch"] for line in _events(run.model_dir, "dev")] == [1, 3]
    assert "1 scored epochs (training.patience)" in capsys.readouterr().out


def test_the_named_score_decides_which_model_is_the_best(path):
    config = _config(path, ["training.best_metric=close/pearson", "training.epochs=3"])
    run = run_experiment(config, path.parent / "named", verbose=0).run
    scores = [line["scores"]["close"]["pearson"] for line in _events(run.model_dir, "dev")]
    best = checkpoints.read_state(run.model_dir / "best")
    assert len(scores) == 3  # no patience: nothing stops
    assert not _events(run.model_dir, "early_stop")
    assert best.score == max(scores)
    assert best.epoch == 1 + scores.index(max(scores))


@pytest.mark.parametrize(
    ("name", "closest"),
    [("avrage", "average"), ("close/pearso", "close/pearson"), ("clos/pearson", "close/pearson"), ("mood", "")],
)
def test_a_score_that_is_none_is_refused_before_training(path, name, closest):
    config = mtdnn.load_config(path, [f"training.best_metric={name}"])
    with pytest.raises(mtdnn.UserError, match=rf"training\.best_metric: unknown score '{name}'.*{closest}"):
        run_experiment(config, path.parent / "refused", verbose=0)
    assert not (path.parent / "refused").exists()


def test_an_average_of_borrowed_heads_alone_decides_nothing():
    own, borrowing = (
        TaskSpec(name, "classification", ("text",), ("no", "yes"), metrics=("accuracy",), head_of=lender)
        for name, lender in (("own", None), ("borrowing", "own"))
    )
    callbacks.check_best_metric("average", [own, borrowing])
    callbacks.check_best_metric("borrowing/accuracy", [borrowing])
    with pytest.raises(
        mtdnn.UserError, match=r"training\.best_metric: 'average' is over .* name one of borrowing/accuracy"
    ):
        callbacks.check_best_metric("average", [borrowing])


def test_no_other_model_takes_the_place_of_the_best_after_the_end(stopped, tmp_path):
    """None of the epochs that patience has left out will come."""
    run = shutil.copytree(stopped.model_dir, tmp_path / "run")
    shutil.rmtree(run / "best")
    shutil.rmtree(run / "checkpoints" / min(path.name for path in (run / "checkpoints").iterdir()))
    with pytest.raises(mtdnn.UserError, match=r"the checkpoint of its step \d+ is not kept, so it can't be made again"):
        run_experiment(stopped.config, run, verbose=0)


def test_a_run_that_was_killed_between_its_first_best_model_and_its_checkpoint_goes_on(path, tmp_path, capsys):
    config = _config(path, ["training.score_every=2", "training.epochs=2", "training.checkpoint_every=0"])
    run = run_experiment(config, tmp_path / "run", verbose=0).run.model_dir
    for name in ("scores.json", "report.html", "MODEL_CARD.md"):
        (run / name).unlink()
    shutil.rmtree(run / "checkpoints")
    run_experiment(config, run, verbose=0)
    assert "cut off before its first checkpoint" in capsys.readouterr().out
    assert (run / "scores.json").is_file()
