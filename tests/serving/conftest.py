"""What the tests of exported models share: one model, written in both kinds, and a server of it."""

from __future__ import annotations

import functools
import shutil

import pytest

import mtdnn_tf as mtdnn
from mtdnn_tf.config import EXPORT_KINDS
from tests.serving import kit
from tests.serving.model_server import grpc_server, rest_server
from tests.serving.server import LoadedModel
from tests.small import TINY, write_experiment

# What quickstart's model is asked in export/, by what the small model of the tests calls it.
CALLED = {"sentiment": "mood", "entailment": "follows", "sentiment/classify": "mood/classify"}


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


@pytest.fixture(scope="session")
def models_folder(exported, tmp_path_factory):
    """The folder that a server sees as /models, with two versions of the model."""
    folder = tmp_path_factory.mktemp("models")
    for number in ("1", "2"):
        shutil.copytree(exported[3]["text"], folder / "quickstart" / number)
    return folder


@pytest.fixture(scope="session")
def load_version():
    """Load a version folder once."""
    loaded = []

    @functools.cache
    def load(folder):
        model = LoadedModel(folder)
        model.definitions |= {name: model.definitions[own] for name, own in CALLED.items()}
        loaded.append(model)
        return model

    yield load
    for model in loaded:
        model.close()


@pytest.fixture
def started(models_folder, load_version):
    """Start a server as compose or Kubernetes do."""
    return lambda name="compose": kit.start(kit.STARTS[name](), models_folder, load_version)


@pytest.fixture
def rest(started):
    with rest_server(started()) as address:
        yield address


@pytest.fixture
def grpc(started):
    with grpc_server(started()) as address:
        yield address
