"""The configurations of the sixteen review tasks: complete, and cut into the published numbers of rows."""

from __future__ import annotations

from pathlib import Path

import pytest

import mtdnn_tf as mtdnn

FOLDER = Path(__file__).resolve().parents[1] / "configs" / "fdu_mtl"
# Rows to train on, as the study gives them; 200 to develop on and 400 to test on each.
TRAIN = {
    "books": 1400, "electronics": 1398, "dvd": 1400, "kitchen": 1400, "apparel": 1400, "camera": 1397, "health": 1400, "music": 1400,
    "toys": 1400, "video": 1400, "baby": 1300, "magazines": 1370, "software": 1315, "sports": 1400, "imdb": 1400, "mr": 1400,
}  # fmt: skip


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_configuration_is_complete_and_says_what_it_is(path):
    config = mtdnn.load_config(path)
    assert [task.name for task in mtdnn.load_tasks(config)] == list(TRAIN)
    assert config.mixing.strategy == "round_robin"
    opening = path.read_text(encoding="utf-8").split("\n\n")[0]
    for said in ("# Purpose: ", "# Keys people change: "):
        assert said in opening
    if path.stem not in ("base", "bert_base", "minilm", "single_task"):
        assert config.model.sharing == path.stem


def test_the_settings_are_the_study_s():
    config = mtdnn.load_config(FOLDER / "layerwise_explicit.yaml")
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.schedule, optimizer.warmup, optimizer.clip_norm) == ("adam", "constant", 0, 1)
    assert optimizer.learning_rate * optimizer.embedding_rate == pytest.approx(5e-5)
    assert (config.data.batch_size, config.data.max_length, config.training.epochs) == (50, 402, 30)
    assert (config.encoder.dropout, config.model.dropout) == (0.1, 0.5)


@pytest.mark.real_data
def test_the_splits_are_as_large_as_the_study_s(data_root):
    from mtdnn_tf.data.sources import read_examples

    tasks = mtdnn.load_tasks(mtdnn.load_config(FOLDER / "base.yaml", [f"data.root={data_root / 'fdu-mtl'}"]))
    for task in tasks:
        sizes = [len(read_examples(task, split)) for split in ("train", "dev", "test")]
        assert sizes == [TRAIN[task.name], 200, 400], task.name
