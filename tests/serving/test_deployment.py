"""The files of export/: read by the parsers of those who take them, and its programs against a server that answers."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow_serving.config import model_server_config_pb2

from mtdnn_tf.serving.warmup import BATCH_SIZES
from tests.serving.server import LoadedModel, grpc_server, rest_server

EXPORT = Path(__file__).resolve().parents[2] / "export"
IMAGE = "tensorflow/serving:2.20.0"
# What quickstart's model is asked in export/, by what the small model of the tests calls it.
CALLED = {"sentiment": "mood", "entailment": "follows", "sentiment/classify": "mood/classify"}


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


def _message(name):
    """Return an empty message of TensorFlow Serving's text formats."""
    Field = descriptor_pb2.FieldDescriptorProto  # noqa: N806
    plain = {"bool": Field.TYPE_BOOL, "string": Field.TYPE_STRING, "repeated": Field.TYPE_INT64}
    file = descriptor_pb2.FileDescriptorProto(name="serving_files.proto", package="serving_files", syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    for message, fields in FIELDS.items():
        described = file.message_type.add(name=message)
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


def _program(name):
    spec = importlib.util.spec_from_file_location(name, EXPORT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_the_model_list_has_both_labels_on_versions_that_are_served():
    text = (EXPORT / "models.config").read_text()
    [config] = text_format.Parse(text, model_server_config_pb2.ModelServerConfig()).model_config_list.config
    assert (config.name, config.base_path, config.model_platform) == ("quickstart", "/models/quickstart", "tensorflow")
    assert set(config.version_labels) == {"stable", "canary"}
    assert set(config.version_labels.values()) <= set(config.model_version_policy.specific.versions)


def test_batches_are_of_the_sizes_that_are_warmed_up():
    text = (EXPORT / "batching_parameters.txt").read_text()
    parameters = text_format.Parse(text, _message("BatchingParameters"))
    # The server's own rules: ascending, and the last is the largest batch.
    assert tuple(parameters.allowed_batch_sizes) == tuple(sorted(parameters.allowed_batch_sizes)) == BATCH_SIZES
    assert parameters.max_batch_size.value == BATCH_SIZES[-1]
    assert parameters.pad_variable_length_inputs  # rows of ids models differ in length
    with pytest.raises(text_format.ParseError):
        text_format.Parse("max_batch_sizes { value: 1 }", _message("BatchingParameters"))


def _scraped():
    parsed = text_format.Parse((EXPORT / "monitoring.config").read_text(), _message("MonitoringConfig"))
    assert parsed.prometheus_config.enable
    return parsed.prometheus_config.path


def test_the_compose_file_mounts_what_it_names():
    service = yaml.safe_load((EXPORT / "docker-compose.yaml").read_text())["services"]["serving"]
    assert f":-{IMAGE}}}" in service["image"]
    assert ".:/config:ro" in service["volumes"]
    named = [word for word in (*service["command"], *service["healthcheck"]["test"]) if "/config/" in word]
    assert len(named) == 4
    for word in named:
        assert (EXPORT / word.rpartition("/config/")[2]).is_file()


def _flags(words):
    return {word.partition("=")[0] for word in words}


def test_the_kubernetes_manifest_probes_scrapes_and_mounts_what_is_there():
    claim, deployment, service = yaml.safe_load_all((EXPORT / "kubernetes.yaml").read_text())
    pod = deployment["spec"]["template"]
    [container] = pod["spec"]["containers"]
    assert container["image"] == IMAGE
    assert pod["metadata"]["labels"] == service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    ports = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} == ports
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["path"].startswith("/v1/models/quickstart")
        assert asked["port"] in ports
    assert pod["metadata"]["annotations"]["prometheus.io/path"] == _scraped()
    assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    assert volumes["models"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    compose = yaml.safe_load((EXPORT / "docker-compose.yaml").read_text())["services"]["serving"]["command"]
    assert _flags(container["args"]) == _flags(compose) - {"--model_config_file_poll_wait_seconds"}
    kustomization = yaml.safe_load((EXPORT / "kustomization.yaml").read_text())
    [generated] = kustomization["configMapGenerator"]
    assert generated["name"] == volumes["config"]["configMap"]["name"]
    given = {word.rpartition("/")[2] for word in container["args"] if "/config/" in word}
    assert given == set(generated["files"])
    assert all((EXPORT / name).is_file() for name in [*generated["files"], *kustomization["resources"]])


ALLOWED = {
    "rest_client": {"requests"},
    "grpc_client": {"grpc", "tensorflow", "tensorflow_serving"},  # tensorflow-serving-api brings the other two
    "load_test": {"requests", "grpc", "tensorflow", "tensorflow_serving"},
}


@pytest.mark.parametrize("name", ALLOWED)
def test_programs_need_only_what_they_say(name):
    imported = set()
    for node in ast.walk(ast.parse((EXPORT / f"{name}.py").read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    assert imported - set(sys.stdlib_module_names) == ALLOWED[name]


def test_no_library_code_is_in_export():
    assert {path.stem for path in EXPORT.glob("*.py")} == set(ALLOWED)


@pytest.fixture(scope="module")
def served(exported):
    model = LoadedModel(exported[3]["text"])
    model.definitions |= {name: model.definitions[own] for name, own in CALLED.items()}
    yield model
    model.close()


@pytest.fixture(scope="module")
def rest(served):
    with rest_server(served) as address:
        yield address


@pytest.fixture(scope="module")
def grpc(served):
    with grpc_server(served) as address:
        yield address


def _run(name, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, *words])
    _program(name).main()
    return capsys.readouterr().out


PAIR = ["premise=the dog runs", "hypothesis=an animal runs", "premise=é", "hypothesis=中国"]


@pytest.fixture(scope="module")
def expected(exported):
    rows = {"premise": ["the dog runs", "é"], "hypothesis": ["an animal runs", "中国"]}
    signature = tf.saved_model.load(str(exported[3]["text"])).signatures["follows"]
    return {key: value.numpy() for key, value in signature(**{k: tf.constant(v) for k, v in rows.items()}).items()}


@pytest.mark.parametrize("label", [[], ["--label=stable"]])
def test_the_rest_client_prints_what_the_model_answers(rest, expected, label, monkeypatch, capsys):
    words = ["quickstart", "entailment", *PAIR, f"--host={rest}", *label]
    answer = json.loads(_run("rest_client", words, monkeypatch, capsys))
    assert set(answer) == set(expected)
    assert answer["label"] == [text.decode() for text in expected["label"]]
    assert answer["probabilities"] == [pytest.approx(row.tolist(), abs=1e-5) for row in expected["probabilities"]]


@pytest.mark.parametrize("label", [[], ["--label=canary"]])
def test_the_grpc_client_prints_what_the_model_answers(grpc, expected, label, monkeypatch, capsys):
    words = ["quickstart", "entailment", *PAIR, f"--host={grpc}", *label]
    lines = dict(line.split(" ", 1) for line in _run("grpc_client", words, monkeypatch, capsys).splitlines())
    assert set(lines) == set(expected)
    assert ast.literal_eval(lines["label"]) == [text.decode() for text in expected["label"]]
    for row, own in zip(ast.literal_eval(lines["probabilities"]), expected["probabilities"], strict=True):
        assert row == pytest.approx(own.tolist(), abs=1e-5)


REFUSED = {
    "unknown model": (["other", "entailment", *PAIR], "Servable not found"),
    "unknown signature": (["quickstart", "other", *PAIR], "not found in signature def"),
    "unknown label": (["quickstart", "entailment", *PAIR, "--label=newest"], "version label"),
}


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
@pytest.mark.parametrize("case", REFUSED)
def test_clients_tell_a_refusal_in_one_line(protocol, case, request, monkeypatch, capsys):
    words, expected = REFUSED[case]
    host = request.getfixturevalue(protocol)
    with pytest.raises(SystemExit, match=f"error: .*{expected}"):
        _run(f"{protocol}_client", [*words, f"--host={host}"], monkeypatch, capsys)


@pytest.mark.parametrize("name", ["rest_client", "grpc_client"])
def test_clients_refuse_half_pairs_before_they_ask(name, monkeypatch, capsys):
    for words in (["premise=a", "premise=b", "hypothesis=c"], ["premise"]):
        with pytest.raises(SystemExit) as ended:
            _run(name, ["quickstart", "entailment", *words, "--host=localhost:1"], monkeypatch, capsys)
        assert ended.value.code == 2


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_the_load_generator_counts_what_it_sends(protocol, request, tmp_path, monkeypatch, capsys):
    host = request.getfixturevalue(protocol)
    words = ["quickstart", "sentiment", "text=a good day", f"--protocol={protocol}", f"--host={host}", "--rows=2"]
    words += ["--clients=3", "--requests=4", "--warmup=1", f"--json={tmp_path / 'load.json'}"]
    printed = _run("load_test", words, monkeypatch, capsys)
    found = json.loads((tmp_path / "load.json").read_text())
    assert (found["clients"], found["requests"], found["errors"]) == (3, 12, 0)
    assert 0 < found["p50_ms"] <= found["p90_ms"] <= found["p99_ms"] <= found["max_ms"]
    assert found["rows_per_second"] == pytest.approx(2 * found["requests_per_second"])
    assert re.search(r"p50_ms \d+\.\d  p90_ms", printed)


def test_the_load_generator_fails_where_requests_do(rest, monkeypatch, capsys):
    words = ["quickstart", "other", "text=a", f"--host={rest}", "--clients=2", "--requests=1", "--warmup=0"]
    with pytest.raises(SystemExit, match="not found in signature def"):
        _run("load_test", words, monkeypatch, capsys)
    assert "requests 0  errors 2" in capsys.readouterr().out


def test_percentiles_are_values_that_were_seen():
    percentile = _program("load_test").percentile
    hundred = [float(value) for value in range(100, 0, -1)]
    assert [percentile(hundred, share) for share in (0.5, 0.9, 0.99)] == [50, 90, 99]
    assert percentile([3.0], 0.99) == 3
    assert percentile([1.0, 2.0], 0.5) == 1


def _shell(*words):
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, env=os.environ)


def test_the_shell_example_gets_answers(rest):
    done = _shell("sh", str(EXPORT / "ask.sh"), rest)
    assert done.returncode == 0, done.stderr
    assert '"state": "AVAILABLE"' in done.stdout
    assert done.stdout.count('"probabilities"') == 2
    assert '"predictions"' in done.stdout
    assert '"results"' in done.stdout


def test_the_health_check_passes_while_a_version_answers_and_not_else(rest):
    host, port = rest.split(":")
    assert _shell("bash", str(EXPORT / "health.sh"), "quickstart", host, port).returncode == 0
    assert _shell("bash", str(EXPORT / "health.sh"), "other", host, port).returncode != 0
    assert _shell("bash", str(EXPORT / "health.sh"), "quickstart", host, "1").returncode != 0


def test_the_readme_lists_every_file():
    listed = re.findall(r"^\| `([a-z_-]+\.[a-z]+)` ", (EXPORT / "README.md").read_text(), re.MULTILINE)
    assert sorted([*listed, "README.md"]) == sorted(path.name for path in EXPORT.iterdir() if path.is_file())
