"""What the README shows runs as it stands there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import mtdnn_tf as mtdnn
from mtdnn_tf.config import config_hash, select_tasks
from mtdnn_tf.modeling.model import remember_length, trained_length
from mtdnn_tf.training import checkpoints

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def _blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_configuration_it_shows_is_one(tmp_path):
    [block] = _blocks("yaml")
    path = tmp_path / "my.yaml"
    path.write_text(block, encoding="utf-8")
    tasks = mtdnn.load_tasks(mtdnn.load_config(path))
    assert [(task.name, task.head) for task in tasks] == [("topic", "linear"), ("duplicate", "san"), ("rte", "san")]


def test_the_commands_it_shows_are_there():
    for module in set(re.findall(r"python -m mtdnn_tf\.([a-z]+)", README)):
        assert (REPOSITORY / "mtdnn_tf" / f"{module}.py").is_file()


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_links_lead_somewhere(link):
    assert (REPOSITORY / link).exists()


@pytest.mark.parametrize("target", re.findall(r"make ([a-z-]+)", README + (REPOSITORY / "WORKSPACE.md").read_text()))
def test_make_targets_exist(target):
    assert re.search(rf"^{target}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)


# What the program is to leave behind; it goes on in the same process.
AFTERWARDS = """
import json, pathlib
rates = [float(trainer.optimizer.schedule(step)) for step in range(mixture.total_updates)]
assert len(rates) == 2 * mixture.updates_per_epoch == int(trainer.optimizer.iterations)
assert all(rate > 0 for rate in rates[1:]), rates
metadata = json.loads(pathlib.Path("served/mine/1/assets/metadata.json").read_text())
assert metadata["max_length"] == config.data.max_length
"""


@pytest.mark.slow
@pytest.mark.weights
def test_the_program_it_shows_runs(minilm, tmp_path):
    [block] = _blocks("python")
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    done = subprocess.run(
        [sys.executable, "-c", block + AFTERWARDS], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "served" / "mine" / "1" / "saved_model.pb").is_file()


SETTINGS = (
    *("model.sharing=layerwise_implicit", "model.dropout=0.3", "model.freeze_layers=1", "encoder.dropout=0.2"),
    *("optimizer.clip_norm=0.05", "training.accumulate=2", "training.ema=0.9", "training.seed=5", "data.max_length=24"),
    "export.kind=ids",
)


def test_the_program_it_shows_trains_and_exports_as_the_commands_do(experiment, tmp_path, monkeypatch):
    """The same steps with a configuration whose settings are none of the defaults: the same weights, bit for bit."""
    from mtdnn_tf.evaluation.runs import load_run
    from mtdnn_tf.experiment import run_experiment

    monkeypatch.chdir(tmp_path)
    [block] = _blocks("python")
    config = select_tasks(mtdnn.load_config(experiment, SETTINGS), ["mood"])
    first, rest = block.split("tasks = ", 1)
    assert "load_config" in first
    found = {"mtdnn": mtdnn, "config": config}
    exec("tasks = " + rest, found)  # noqa: S102 - the README's own program
    model, trainer = found["model"], found["trainer"]
    assert model.get_layer("encoder").fused
    assert int(trainer.optimizer.iterations) == found["mixture"].total_updates == 4
    assert float(trainer.optimizer.schedule(2)) > 0  # in the second epoch
    described = json.loads((tmp_path / "served/mine/1/assets/metadata.json").read_text())
    assert (described["max_length"], described["kind"]) == (24, "ids")
    assert described["configuration"] == config_hash(config)

    run_experiment(config, tmp_path / "run", verbose=0)
    latest = checkpoints.latest(tmp_path / "run" / "checkpoints")
    mine = {name: {key: value.numpy() for key, value in own.items()} for name, own in trainer.parts().items()}
    checkpoints.load(latest, trainer.parts())
    for name, own in trainer.parts().items():
        for key, value in own.items():
            np.testing.assert_allclose(mine[name][key], value.numpy(), atol=1e-6, err_msg=f"{name}/{key}")
    assert load_run(tmp_path / "run").model.get_layer("encoder").fused


def test_a_schedule_that_ends_before_the_run_is_refused(experiment):
    config = select_tasks(mtdnn.load_config(experiment), ["mood"])
    tasks = mtdnn.load_tasks(config)
    encoder = mtdnn.load_encoder(config.encoder.source, config=config)
    mixture = mtdnn.build_mixture(tasks, encoder, config)
    trainer = mtdnn.MultiTaskTrainer(mtdnn.build_model(encoder, tasks, config=config), tasks)
    trainer.compile(mtdnn.build_optimizer(config.optimizer, mixture.steps_per_epoch), config=config)
    with pytest.raises(
        mtdnn.UserError, match=r"'linear' ends at update 3, and training at update 6: .*, 6\), which mix"
    ):
        trainer.fit(mixture)


def test_texts_are_cut_as_in_training_where_nothing_else_is_said(experiment):
    config = select_tasks(mtdnn.load_config(experiment, ["data.max_length=200"]), ["mood"])
    encoder, model = mtdnn.load_encoder("random://layers=1,hidden=8,positions=64"), keras.Sequential([])
    assert trained_length(model, encoder) == 64  # fewer positions than 128
    remember_length(model, 24)
    assert trained_length(model, encoder) == 24
    with pytest.raises(mtdnn.UserError, match=r"data\.max_length: 200 is more than the 64 positions"):
        mtdnn.load_encoder("random://layers=1,hidden=8,positions=64", config=config)
