"""At the size of a real encoder: weights are on the disk once, and the rest is small."""

from __future__ import annotations

import pytest

import mtdnn_tf as mtdnn
from mtdnn_tf.config import EXPORT_KINDS
from tests.small import write_experiment


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("kind", EXPORT_KINDS)
def test_a_version_folder_is_little_larger_than_its_weights(minilm, tmp_path, kind):
    tasks = mtdnn.load_tasks(mtdnn.load_config(write_experiment(tmp_path)))
    encoder = mtdnn.load_encoder(minilm)
    model = mtdnn.build_model(encoder, tasks)
    path = mtdnn.export_saved_model(model, tasks, encoder, tmp_path / "served", kind)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert 4 * model.count_params() < size < 1.1 * 4 * model.count_params()
