"""What people watch while a run goes on: the bar, the lines of a log file, TensorBoard's runs, a profiler's trace."""

from __future__ import annotations

import contextlib
import io
import json
import re

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import mtdnn_tf as mtdnn
from mtdnn_tf.config import OptimizerConfig
from mtdnn_tf.experiment import run_experiment
from mtdnn_tf.training import checkpoints, trainer
from mtdnn_tf.training.profiling import parse_steps
from mtdnn_tf.training.progress_bar import clock

TASKS = {"mood", "follows", "close", "pick"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of one configuration, the second with a profile of steps 3 to 5, and what they printed."""
    from tests.small import write_experiment

    folder = tmp_path_factory.mktemp("watching")
    config = mtdnn.load_config(write_experiment(folder), ["training.log_every=4"])
    found = {}
    for name, profile in (("plain", None), ("profiled", (3, 5))):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            outcome = run_experiment(config, folder / name, profile=profile)
        found[name] = outcome, printed.getvalue()
    return found


def _curves(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: {
            event.step: float(np.frombuffer(event.tensor_proto.tensor_content, np.float32)[0])
            for event in events.Tensors(tag)
        }
        for tag in events.Tags()["tensors"]
    }


def _lines(outcome, event):
    lines = (json.loads(line) for line in (outcome.run.model_dir / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == event]


def test_each_task_is_a_run_of_tensorboard_with_the_same_tags(runs):
    outcome, _ = runs["plain"]
    logs = outcome.run.model_dir / "logs"
    assert {path.name for path in logs.iterdir()} == TASKS | {"run"}
    for task in outcome.run.tasks:
        curves = _curves(logs / task.name)
        assert curves.keys() == {"loss", "loss_weight", *(f"dev/{metric}" for metric in task.metrics)}
        expected = {
            line["step"]: line["losses"][task.name] for line in _lines(outcome, "train") if task.name in line["losses"]
        }
        assert curves["loss"] == pytest.approx(expected, rel=1e-6)
        scores = {line["step"]: line["scores"][task.name][task.main_metric] for line in _lines(outcome, "dev")}
        assert curves[f"dev/{task.main_metric}"] == pytest.approx(scores, rel=1e-6)


def test_what_belongs_to_no_task_is_a_run_of_its_own(runs):
    outcome, _ = runs["plain"]
    curves = _curves(outcome.run.model_dir / "logs" / "run")
    assert {"learning_rate", "gradient_norm", "examples_per_second", "dev/average"} <= curves.keys()
    for name in ("learning_rate", "gradient_norm"):
        assert curves[name] == pytest.approx({line["step"]: line[name] for line in _lines(outcome, "train")}, rel=1e-6)
    shares = {task: curves[f"probability/{task}"] for task in TASKS}
    counts = outcome.mixture.step_counts(0)
    assert shares["mood"] == pytest.approx({0: counts["mood"] / 11, 11: outcome.mixture.step_counts(1)["mood"] / 11})
    assert sum(share[0] for share in shares.values()) == pytest.approx(1.0)


def test_without_a_terminal_there_is_a_line_every_so_many_steps(runs):
    _, printed = runs["plain"]
    lines = [line for line in printed.splitlines() if "examples/s" in line]
    pattern = r"epoch (\d)/2  step (\d+)/22  loss: ((?:\w+ \d+\.\d+  )+)rate \d\.\d\de-\d\d  \d+\.\d examples/s  \d+m\d\ds left"
    found = [re.fullmatch(pattern, line) for line in lines]
    assert all(found), lines
    assert [(int(match[1]), int(match[2])) for match in found] == [
        (1, 4),
        (1, 8),
        (1, 11),
        (2, 12),
        (2, 16),
        (2, 20),
        (2, 22),
    ]
    assert {name for match in found for name in match[3].split()[::2]} == TASKS


def test_the_bar_shows_each_task_and_the_time_left_of_the_run(experiment, capsys):
    config = mtdnn.load_config(experiment)
    tasks, encoder = mtdnn.load_tasks(config), mtdnn.load_encoder(config.encoder.source)
    multi = mtdnn.MultiTaskTrainer(mtdnn.build_model(encoder, tasks), tasks)
    multi.compile(mtdnn.build_optimizer(OptimizerConfig(), 100))
    history = multi.fit(mtdnn.build_mixture(tasks, encoder, config), epochs=2, verbose=1).history
    printed = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    frames = [frame for frame in re.split(r"[\r\n]+", printed) if "/11" in frame]
    assert any(
        re.search(r" \d+ms/step, run \d+m\d\ds left - ", frame) or re.search(r"s/step, run \d+m\d\ds left - ", frame)
        for frame in frames
    )
    whole = [frame for frame in frames if frame.startswith("11/11") and "left" not in frame]
    assert len(whole) == 2
    for epoch, frame in enumerate(whole):
        for task in TASKS:
            assert f"{task}_loss: {history[f'{task}_loss'][epoch]:.4f}" in frame


def test_the_time_left_is_that_of_the_whole_run(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(trainer.time, "perf_counter", lambda: now[0])
    progress = trainer.Progress(epoch=1, step=0, global_step=10, total_steps=1000)  # a run that goes on at step 10
    progress.global_step, now[0] = 20, 130.0  # 3 seconds a step
    assert progress.time_left() == "49m00s"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0m00s"), (59.9, "0m59s"), (250, "4m10s"), (3720, "1h02m")])
def test_durations_are_short(seconds, text):
    assert clock(seconds) == text


def test_a_profile_is_written_and_changes_nothing(runs):
    (plain, _), (profiled, printed) = runs["plain"], runs["profiled"]
    logs = profiled.run.model_dir / "logs"
    [trace] = logs.glob("plugins/profile/*/*.xplane.pb")
    assert "profile written" in printed
    content = trace.read_bytes()
    assert b"/host:CPU" in content
    assert b"MatMul" in content
    assert not list((plain.run.model_dir / "logs").glob("plugins"))
    mine, theirs = (
        checkpoints._open(checkpoints.latest(run.run.model_dir / "checkpoints")) for run in (plain, profiled)
    )
    names = [name for name in mine.get_variable_to_shape_map() if name.endswith("VARIABLE_VALUE")]
    assert names
    assert all(np.array_equal(mine.get_tensor(name), theirs.get_tensor(name)) for name in names)
    assert plain.scores == profiled.scores


@pytest.mark.parametrize(("text", "steps"), [("10-20", (10, 20)), ("10,20", (10, 20)), (" 3 - 3 ", (3, 3))])
def test_steps_are_written_with_a_dash_or_a_comma(text, steps):
    assert parse_steps(text) == steps


@pytest.mark.parametrize("text", ["", "10", "20-10", "0-3", "-1-3", "a-b", "1-2-3", "1.5-3", "1-99999999999"])
def test_steps_that_are_none_are_refused(text):
    with pytest.raises(
        mtdnn.UserError, match=r"--profile: must be the first and the last step, from 1, as in 10-20; received"
    ):
        parse_steps(text)


def test_steps_after_the_end_of_the_run_are_refused_before_it_begins(experiment, tmp_path):
    with pytest.raises(mtdnn.UserError, match="--profile: must be steps of the run, which has 22; received 20-23"):
        run_experiment(mtdnn.load_config(experiment), tmp_path / "run", profile=(20, 23))
    assert not (tmp_path / "run").exists()
