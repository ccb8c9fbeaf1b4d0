"""The model list is TensorFlow Serving's own message, the compose file fits it, the clients ask what a model answers."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import tensorflow as tf
import yaml
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

EXPORT = Path(__file__).resolve().parents[2] / "export"


def _client(name):
    spec = importlib.util.spec_from_file_location(name, EXPORT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_server_finds_the_folder_of_the_example():
    text = (EXPORT / "models.config").read_text()
    parsed = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    assert [config.base_path for config in parsed.model_config_list.config] == ["/models/quickstart"]


def test_the_compose_file_mounts_what_it_names():
    service = yaml.safe_load((EXPORT / "docker-compose.yaml").read_text())["services"]["serving"]
    mounted = {volume.rsplit(":", 2)[1] for volume in service["volumes"]}
    named = {flag.split("=", 1)[1] for flag in service["command"] if "/config/" in flag}
    assert named <= mounted
    for path in named:
        assert (EXPORT / Path(path).name).is_file()


def test_the_grpc_client_asks_by_signature_and_column():
    request = _client("grpc_client").build_request("quickstart", "entailment", {"premise": "é", "hypothesis": "b"})
    assert request.model_spec.signature_name == "entailment"
    assert {name: tf.make_ndarray(value).tolist() for name, value in request.inputs.items()} == {
        "premise": ["é".encode()],
        "hypothesis": [b"b"],
    }


def test_the_rest_client_asks_by_signature_and_column():
    request = _client("rest_client").build_request("localhost:8501", "quickstart", "sentiment", {"text": "é"})
    assert request.full_url == "http://localhost:8501/v1/models/quickstart:predict"
    assert json.loads(request.data) == {"signature_name": "sentiment", "inputs": {"text": ["é"]}}
