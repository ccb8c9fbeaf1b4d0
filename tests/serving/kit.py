"""The serving kit of export/: its files as their readers take them, a server started with them, its programs and scripts run."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow_serving.config import model_server_config_pb2

from tests.serving.model_server import ModelServer, grpc_server, rest_server
from tests.serving.server import Batching, LoadedModel

STARTS = {"compose": lambda: compose()["command"], "kubernetes": lambda: container()["args"]}
SERVERS = {"rest": rest_server, "grpc": grpc_server}
THREAD_FLAGS = {"grpc": "grpc_max_threads", "rest": "rest_api_num_threads"}
EXPORT = Path(__file__).resolve().parents[2] / "export"
# The messages of --batching_parameters_file and --monitoring_config_file, which tensorflow-serving-api does not carry
# (session_bundle_config.proto and monitoring_config.proto of TensorFlow Serving): name, number, type or message.
FIELDS = {
    "BatchingParameters": [
        ("max_batch_size", 1, "google.protobuf.Int64Value"),
        ("batch_timeout_micros", 2, "google.protobuf.Int64Value"),
        ("max_enqueued_batches", 3, "google.protobuf.Int64Value"),
        ("num_batch_threads", 4, "google.protobuf.Int64Value"),
        ("thread_pool_name", 5, "google.protobuf.StringValue"),
        ("allowed_batch_sizes", 6, "repeated"),
        ("pad_variable_length_inputs", 7, "bool"),
    ],
    "PrometheusConfig": [("enable", 1, "bool"), ("path", 2, "string")],
    "MonitoringConfig": [("prometheus_config", 1, "serving_files.PrometheusConfig")],
}


def message(name):
    """Return an empty message of TensorFlow Serving's text formats."""
    Field = descriptor_pb2.FieldDescriptorProto  # noqa: N806
    plain = {"bool": Field.TYPE_BOOL, "string": Field.TYPE_STRING, "repeated": Field.TYPE_INT64}
    file = descriptor_pb2.FileDescriptorProto(name="serving_files.proto", package="serving_files", syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    for described_name, fields in FIELDS.items():
        described = file.message_type.add(name=described_name)
        for field, number, kind in fields:
            added = described.field.add(name=field, number=number, label=Field.LABEL_OPTIONAL)
            added.type = plain.get(kind, Field.TYPE_MESSAGE)
            if kind == "repeated":
                added.label = Field.LABEL_REPEATED
            if kind not in plain:
                added.type_name = f".{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"serving_files.{name}"))()


def batching_parameters():
    """Return the message of batching_parameters.txt."""
    return text_format.Parse((EXPORT / "batching_parameters.txt").read_text(), message("BatchingParameters"))


def model_config(edit=lambda text: text):
    """Return the one model of models.config, edited or as it is."""
    parsed = text_format.Parse(
        edit((EXPORT / "models.config").read_text()), model_server_config_pb2.ModelServerConfig()
    )
    [config] = parsed.model_config_list.config
    return config


def kubernetes():
    """Return the claim, the deployment and the service of kubernetes.yaml."""
    return list(yaml.safe_load_all((EXPORT / "kubernetes.yaml").read_text()))


def container():
    """Return the one container of kubernetes.yaml."""
    [found] = kubernetes()[1]["spec"]["template"]["spec"]["containers"]
    return found


def compose():
    """Return the one service of docker-compose.yaml."""
    return yaml.safe_load((EXPORT / "docker-compose.yaml").read_text())["services"]["serving"]


def flags(words):
    """Return the flags of a command line by name."""
    return dict(word.removeprefix("--").split("=", 1) for word in words)


def start(words, models, load=LoadedModel):
    """Return a server started with the flags of a start file.

    Args:
        words: the flags, as `--name=value`.
        models: the folder that the server sees as /models.
        load: called with a version folder, returns the loaded version.
    """
    found = flags(words)
    assert found["model_config_file"] == "/config/models.config"
    config = model_config()
    batching = None
    if found.get("enable_batching") == "true":
        assert found["batching_parameters_file"] == "/config/batching_parameters.txt"
        batching = Batching(batching_parameters())

    def load_with_batching(folder):
        model = load(folder)
        model.batching = batching
        return model

    # The server's own default is four threads for each CPU.
    threads = {protocol: int(found.get(flag, 8)) for protocol, flag in THREAD_FLAGS.items()}
    return ModelServer(config, models / Path(config.base_path).relative_to("/models"), load_with_batching, threads)


def program(name):
    """Return a program of export/ as a module."""
    spec = importlib.util.spec_from_file_location(name, EXPORT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def run(name, words, monkeypatch, capsys):
    """Return what a program prints."""
    monkeypatch.setattr(sys, "argv", [name, *words])
    program(name).main()
    return capsys.readouterr().out


def shell(*words, server=""):
    """Run a command; health.sh reads the server's address from the environment."""
    return subprocess.run(
        words, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, "SERVER": server}
    )
