"""What the tests of exported models share: one model, written in both kinds."""

from __future__ import annotations

import pytest

import mtdnn_tf as mtdnn
from mtdnn_tf.config import EXPORT_KINDS
from tests.small import TINY, write_experiment


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A model of four tasks with random weights, its tasks and encoder, and its version folders by kind."""
    folder = tmp_path_factory.mktemp("exported")
    tasks = mtdnn.load_tasks(mtdnn.load_config(write_experiment(folder)))
    encoder = mtdnn.load_encoder(TINY, seed=1)
    model = mtdnn.build_model(encoder, tasks, seed=1)
    paths = {
        kind: mtdnn.export_saved_model(model, tasks, encoder, folder / kind, kind, max_length=48)
        for kind in EXPORT_KINDS
    }
    return model, tasks, encoder, paths
