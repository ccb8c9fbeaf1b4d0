"""The start files of export/, their probes, the front and rollouts, against a server that answers as TensorFlow Serving does."""

from __future__ import annotations

import json
import re
import threading

import pytest
import tensorflow as tf
import yaml
from google.protobuf import text_format
from tensorflow_serving.apis import model_pb2, predict_pb2

from mtdnn_tf.serving.warmup import BATCH_SIZES
from tests.serving import kit
from tests.serving.kit import EXPORT
from tests.serving.model_server import rest_server
from tests.serving.server import LoadedModel, RefusedError

IMAGE = "tensorflow/serving:2.20.0"


def test_warmed_up_sizes_are_those_that_batches_are_filled_up_to():
    parameters = kit.batching_parameters()
    # The server's own rules: ascending, and the last is the largest batch.
    assert tuple(parameters.allowed_batch_sizes) == tuple(sorted(parameters.allowed_batch_sizes)) == BATCH_SIZES
    assert parameters.max_batch_size.value == BATCH_SIZES[-1]


def test_the_compose_file_mounts_what_it_names():
    service = kit.compose()
    assert f":-{IMAGE}}}" in service["image"]
    assert ".:/config:ro" in service["volumes"]
    named = [word for word in (*service["command"], *service["healthcheck"]["test"]) if "/config/" in word]
    assert len(named) == 4
    for word in named:
        assert (EXPORT / word.rpartition("/config/")[2]).is_file()


def test_the_kubernetes_manifest_mounts_and_scrapes_what_is_there():
    claim, deployment, service = kit.kubernetes()
    pod, container = deployment["spec"]["template"], kit.container()
    assert container["image"] == IMAGE
    assert pod["metadata"]["labels"] == service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    assert {port["targetPort"] for port in service["spec"]["ports"]} == {port["name"] for port in container["ports"]}
    monitoring = text_format.Parse(
        (EXPORT / "monitoring.config").read_text(), kit.message("MonitoringConfig")
    ).prometheus_config
    assert monitoring.enable
    assert pod["metadata"]["annotations"]["prometheus.io/path"] == monitoring.path
    assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    assert volumes["models"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    polls = {"model_config_file_poll_wait_seconds"}
    assert set(kit.flags(container["args"])) == set(kit.flags(kit.STARTS["compose"]())) - polls
    kustomization = yaml.safe_load((EXPORT / "kustomization.yaml").read_text())
    [generated] = kustomization["configMapGenerator"]
    assert generated["name"] == volumes["config"]["configMap"]["name"]
    words = [*container["args"], *container["readinessProbe"]["exec"]["command"]]
    assert {word.rpartition("/")[2] for word in words if "/config/" in word} == set(generated["files"])
    assert all((EXPORT / name).is_file() for name in [*generated["files"], *kustomization["resources"]])


def _health(server, *models):
    return kit.shell("bash", str(EXPORT / "health.sh"), *models, server=server)


def _probe(probe, server):
    """Return whether a probe of kubernetes.yaml or the health check of docker-compose.yaml succeeds."""
    if "httpGet" in probe:
        assert probe["httpGet"]["port"] == "rest"
        done = kit.shell("curl", "--silent", "--fail", "--max-time", "1", f"http://{server}{probe['httpGet']['path']}")
    else:
        words = probe["exec"]["command"] if "exec" in probe else probe["test"][1:]
        done = kit.shell(*[word.replace("/config", str(EXPORT)) for word in words], server=server)
    return done.returncode == 0


PROBES = {
    "compose": lambda: kit.compose()["healthcheck"],
    "startup": lambda: kit.container()["startupProbe"],
    "readiness": lambda: kit.container()["readinessProbe"],
    "liveness": lambda: kit.container()["livenessProbe"],
}


@pytest.mark.parametrize("name", PROBES)
def test_probes_succeed_while_the_model_answers_and_not_when_its_threads_are_taken(started, name):
    server = started()
    server.threads["rest"] = 2
    with rest_server(server) as address:
        assert _probe(PROBES[name](), address)
        for _ in range(2):  # requests without rows, which the batching server never answers
            words = ["--data", '{"signature_name": "mood", "inputs": {"text": []}}']
            done = kit.shell("curl", "--max-time", "0.2", *words, f"http://{address}/v1/models/quickstart:predict")
            assert done.returncode == 28  # curl's own timeout
        assert not _probe(PROBES[name](), address)
    assert not _probe(PROBES[name](), address)


@pytest.mark.parametrize("label", ["stable", "canary"])
@pytest.mark.parametrize("name", kit.STARTS)
def test_callers_of_both_labels_are_answered_after_a_start(started, name, label):
    request = predict_pb2.PredictRequest(inputs={"text": tf.make_tensor_proto(["fine"])})
    request.model_spec.name, request.model_spec.version_label = "quickstart", label
    request.model_spec.signature_name = "mood"
    assert started(name).find(request.model_spec).predict(request).outputs["label"].string_val


@pytest.mark.parametrize("protocol", kit.SERVERS)
@pytest.mark.parametrize("name", kit.STARTS)
def test_sixteen_callers_at_once_are_answered(started, name, protocol, monkeypatch, capsys):
    """With the server's own number of threads, eight on two cores, the other eight are refused or wait."""
    server, together = started(name), threading.Barrier(16)
    predict = LoadedModel.predict

    def wait_for_all(model, request):
        together.wait(timeout=20)
        return predict(model, request)

    monkeypatch.setattr(LoadedModel, "predict", wait_for_all)
    with kit.SERVERS[protocol](server) as address:
        words = ["quickstart", "sentiment", "text=fine", f"--protocol={protocol}", f"--host={address}"]
        printed = kit.run("load_test", [*words, "--clients=16", "--requests=1", "--warmup=0"], monkeypatch, capsys)
    assert "requests 16  errors 0" in printed


ADD = ("specific { versions: 1 }", "specific { versions: [1, 2] }")
MOVE = ('key: "canary" value: 1', 'key: "canary" value: 2')
REMOVE = ("specific { versions: [1, 2] }", "specific { versions: 2 }")
MOVE_STABLE = ('key: "stable" value: 1', 'key: "stable" value: 2')


def _edited(*edits):
    """Return models.config after edits of its text."""

    def edit(text):
        for old, new in edits:
            assert text.count(old) == 1
            text = text.replace(old, new)
        return text

    return kit.model_config(edit)


def _answering(server, label):
    return server.find(model_pb2.ModelSpec(name="quickstart", version_label=label)).version


def test_a_rollout_in_two_edits(started):
    server = started()
    with rest_server(server) as address:
        server.reload(_edited(ADD))
        waiting = _health(address, "quickstart/versions/2")
        assert (waiting.returncode, waiting.stderr) == (1, "health.sh: quickstart/versions/2: LOADING\n")
        with pytest.raises(RefusedError, match="not currently available"):
            server.reload(_edited(ADD, MOVE))
        server.finish_loading()
        assert _health(address, "quickstart/versions/2").returncode == 0
        server.reload(_edited(ADD, MOVE))
        assert (_answering(server, "stable"), _answering(server, "canary")) == (1, 2)
        server.reload(_edited(ADD, MOVE, MOVE_STABLE))
        server.reload(_edited(ADD, MOVE, MOVE_STABLE, REMOVE))
        assert (_answering(server, "stable"), _answering(server, "canary")) == (2, 2)
        assert "404" in _health(address, "quickstart/versions/1").stderr


def test_a_rollout_in_one_edit_is_refused_whole(started):
    server = started()
    for _ in range(2):  # polls
        with pytest.raises(RefusedError, match="not currently available"):
            server.reload(_edited(ADD, MOVE))
        server.finish_loading()
        assert (list(server.versions), _answering(server, "canary")) == ([1], 1)


def test_a_version_that_was_removed_comes_back_in_two_edits(started):
    server = started()
    for edits in ([ADD], [ADD, MOVE], [ADD, MOVE, MOVE_STABLE], [ADD, MOVE, MOVE_STABLE, REMOVE]):
        server.reload(_edited(*edits))
        server.finish_loading()
    with pytest.raises(RefusedError, match="not currently available"):
        server.reload(_edited(ADD, MOVE))  # stable goes back to 1 in the edit that adds it
    server.reload(_edited(ADD, MOVE, MOVE_STABLE))
    server.finish_loading()
    server.reload(_edited(ADD, MOVE))
    assert _answering(server, "stable") == 1


@pytest.mark.parametrize(
    ("path", "passed"),
    [
        ("/v1/models/quickstart:predict", True),
        ("/v1/models/quickstart/labels/stable:predict", True),
        ("/v1/models/quickstart/versions/2:classify", True),
        ("/v1/models/quickstart/labels/stable", True),
        ("/monitoring/prometheus/metrics", False),
        ("/v1/models/quickstart:delete", False),
        ("/v1/models/quickstart/labels/stable/../../other:predict", False),
    ],
)
def test_the_front_passes_questions_and_nothing_else(path, passed):
    [pattern] = re.findall(r"location ~ (\S+) {", (EXPORT / "nginx.conf").read_text())
    assert bool(re.search(pattern, path)) == passed


def test_the_front_takes_a_batch_of_long_texts_and_no_deep_nesting():
    [kilobytes] = re.findall(r"client_max_body_size (\d+)k;", (EXPORT / "nginx.conf").read_text())
    rows = {"signature_name": "answers", "inputs": {"question": ["word " * 128] * 32, "answer": ["word " * 128] * 32}}
    assert len(json.dumps(rows)) < 1024 * int(kilobytes) < len("[" * 100_000)


def test_the_health_check_says_what_it_saw(started):
    with rest_server(started()) as address:
        assert _health(address).returncode == 0
        assert (
            _health(address, "quickstart/labels/stable", "quickstart/labels/canary", "quickstart/versions/1").stderr
            == ""
        )
        for models, told in {
            ("other",): "other: HTTP/1.1 404 Not Found",
            ("quickstart", "quickstart/versions/7"): "quickstart/versions/7: HTTP/1.1 404 Not Found",
            ("quickstart/labels/newest", "quickstart"): "quickstart/labels/newest: HTTP/1.1 400 Bad Request",
        }.items():
            done = _health(address, *models)
            assert (done.returncode, done.stdout, done.stderr) == (1, "", f"health.sh: {told}\n")
    assert _health(address).stderr == f"health.sh: no server at {address}\n"


def test_the_readme_lists_every_file():
    listed = re.findall(r"^\| `([a-z_-]+\.[a-z]+)` ", (EXPORT / "README.md").read_text(), re.MULTILINE)
    assert sorted([*listed, "README.md"]) == sorted(path.name for path in EXPORT.iterdir() if path.is_file())
