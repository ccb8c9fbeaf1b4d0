"""The files of export/: read by the parsers of those who take them, and its programs against a server that answers."""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading

import pytest
import tensorflow as tf
import yaml
from google.protobuf import text_format
from tensorflow_serving.apis import model_pb2, predict_pb2

from mtdnn_tf.serving.warmup import BATCH_SIZES
from tests.serving import config_files
from tests.serving.config_files import EXPORT
from tests.serving.model_server import grpc_server, rest_server
from tests.serving.server import LoadedModel, NeverAnsweredError, RefusedError

IMAGE = "tensorflow/serving:2.20.0"
# What quickstart's model is asked in export/, by what the small model of the tests calls it.
CALLED = {"sentiment": "mood", "entailment": "follows", "sentiment/classify": "mood/classify"}
STARTS = {
    "compose": lambda: config_files.compose()["command"],
    "kubernetes": lambda: config_files.container()["args"],
}
SERVERS = {"rest": rest_server, "grpc": grpc_server}


def _program(name):
    spec = importlib.util.spec_from_file_location(name, EXPORT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def models_folder(exported, tmp_path_factory):
    """The folder that a server sees as /models, with two versions of the model."""
    folder = tmp_path_factory.mktemp("models")
    for number in ("1", "2"):
        shutil.copytree(exported[3]["text"], folder / "quickstart" / number)
    return folder


@pytest.fixture(scope="module")
def load():
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
def started(models_folder, load):
    """Start a server as compose or Kubernetes do."""
    return lambda name="compose": config_files.start(STARTS[name](), models_folder, load)


@pytest.fixture
def rest(started):
    with rest_server(started()) as address:
        yield address


@pytest.fixture
def grpc(started):
    with grpc_server(started()) as address:
        yield address


def test_warmed_up_sizes_are_those_that_batches_are_filled_up_to():
    parameters = config_files.batching_parameters()
    # The server's own rules: ascending, and the last is the largest batch.
    assert tuple(parameters.allowed_batch_sizes) == tuple(sorted(parameters.allowed_batch_sizes)) == BATCH_SIZES
    assert parameters.max_batch_size.value == BATCH_SIZES[-1]


def test_the_compose_file_mounts_what_it_names():
    service = config_files.compose()
    assert f":-{IMAGE}}}" in service["image"]
    assert ".:/config:ro" in service["volumes"]
    named = [word for word in (*service["command"], *service["healthcheck"]["test"]) if "/config/" in word]
    assert len(named) == 4
    for word in named:
        assert (EXPORT / word.rpartition("/config/")[2]).is_file()


def test_the_kubernetes_manifest_mounts_and_scrapes_what_is_there():
    claim, deployment, service = config_files.kubernetes()
    pod, container = deployment["spec"]["template"], config_files.container()
    assert container["image"] == IMAGE
    assert pod["metadata"]["labels"] == service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    assert {port["targetPort"] for port in service["spec"]["ports"]} == {port["name"] for port in container["ports"]}
    monitoring = text_format.Parse(
        (EXPORT / "monitoring.config").read_text(), config_files.message("MonitoringConfig")
    ).prometheus_config
    assert monitoring.enable
    assert pod["metadata"]["annotations"]["prometheus.io/path"] == monitoring.path
    assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    assert volumes["models"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    polls = {"model_config_file_poll_wait_seconds"}
    assert set(config_files.flags(container["args"])) == set(config_files.flags(STARTS["compose"]())) - polls
    kustomization = yaml.safe_load((EXPORT / "kustomization.yaml").read_text())
    [generated] = kustomization["configMapGenerator"]
    assert generated["name"] == volumes["config"]["configMap"]["name"]
    words = [*container["args"], *container["readinessProbe"]["exec"]["command"]]
    assert {word.rpartition("/")[2] for word in words if "/config/" in word} == set(generated["files"])
    assert all((EXPORT / name).is_file() for name in [*generated["files"], *kustomization["resources"]])


def _shell(*words, server=""):
    return subprocess.run(
        words, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, "SERVER": server}
    )


def _health(server, *models):
    return _shell("bash", str(EXPORT / "health.sh"), *models, server=server)


def _probe(probe, server):
    """Return whether a probe of kubernetes.yaml or the health check of docker-compose.yaml succeeds."""
    if "httpGet" in probe:
        assert probe["httpGet"]["port"] == "rest"
        done = _shell("curl", "--silent", "--fail", "--max-time", "1", f"http://{server}{probe['httpGet']['path']}")
    else:
        words = probe["exec"]["command"] if "exec" in probe else probe["test"][1:]
        done = _shell(*[word.replace("/config", str(EXPORT)) for word in words], server=server)
    return done.returncode == 0


PROBES = {
    "compose": lambda: config_files.compose()["healthcheck"],
    "startup": lambda: config_files.container()["startupProbe"],
    "readiness": lambda: config_files.container()["readinessProbe"],
    "liveness": lambda: config_files.container()["livenessProbe"],
}


@pytest.mark.parametrize("name", PROBES)
def test_probes_succeed_while_the_model_answers_and_not_when_its_threads_are_taken(started, name):
    server = started()
    server.threads["rest"] = 2
    with rest_server(server) as address:
        assert _probe(PROBES[name](), address)
        for _ in range(2):  # requests without rows, which the batching server never answers
            words = ["--data", '{"signature_name": "mood", "inputs": {"text": []}}']
            done = _shell("curl", "--max-time", "0.2", *words, f"http://{address}/v1/models/quickstart:predict")
            assert done.returncode == 28  # curl's own timeout
        assert not _probe(PROBES[name](), address)
    assert not _probe(PROBES[name](), address)


@pytest.mark.parametrize("label", ["stable", "canary"])
@pytest.mark.parametrize("name", STARTS)
def test_callers_of_both_labels_are_answered_after_a_start(started, name, label):
    request = predict_pb2.PredictRequest(inputs={"text": tf.make_tensor_proto(["fine"])})
    request.model_spec.name, request.model_spec.version_label = "quickstart", label
    request.model_spec.signature_name = "mood"
    assert started(name).find(request.model_spec).predict(request).outputs["label"].string_val


@pytest.mark.parametrize("protocol", SERVERS)
@pytest.mark.parametrize("name", STARTS)
def test_sixteen_callers_at_once_are_answered(started, name, protocol, monkeypatch, capsys):
    """With the server's own number of threads, eight on two cores, the other eight are refused or wait."""
    server, together = started(name), threading.Barrier(16)
    predict = LoadedModel.predict

    def wait_for_all(model, request):
        together.wait(timeout=20)
        return predict(model, request)

    monkeypatch.setattr(LoadedModel, "predict", wait_for_all)
    with SERVERS[protocol](server) as address:
        words = ["quickstart", "sentiment", "text=fine", f"--protocol={protocol}", f"--host={address}"]
        printed = _run("load_test", [*words, "--clients=16", "--requests=1", "--warmup=0"], monkeypatch, capsys)
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

    return config_files.model_config(edit)


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
    for words in (["premise=a", "premise=b", "hypothesis=c"], ["premise"], []):
        with pytest.raises(SystemExit) as ended:
            _run(name, ["quickstart", "entailment", *words, "--host=localhost:1"], monkeypatch, capsys)
        assert ended.value.code == 2


EMPTY_ROWS = [
    {},
    {"text": []},
    {"question": [], "answer": []},
    {"question": ["who?"], "answer": []},
    {"a": ["b"], "c": ["d", "e"]},
]


@pytest.mark.parametrize("columns", EMPTY_ROWS, ids=str)
def test_clients_send_no_request_without_rows(columns):
    with pytest.raises(ValueError, match="must hold"):
        _program("rest_client").ask(None, "localhost:1", "quickstart", "answers", columns)
    with pytest.raises(ValueError, match="must hold"):
        _program("grpc_client").build_request("quickstart", "answers", columns)


@pytest.mark.parametrize(("protocol", "told"), [("rest", "no answer from localhost"), ("grpc", "DEADLINE_EXCEEDED")])
def test_clients_give_up_on_a_server_that_never_answers(started, protocol, told, monkeypatch, capsys):
    """As it does where requests without rows came before."""

    def never(model, request):
        raise NeverAnsweredError

    monkeypatch.setattr(LoadedModel, "predict", never)
    with SERVERS[protocol](started()) as address:
        words = ["quickstart", "sentiment", "text=fine", f"--host={address}", "--timeout=0.3"]
        with pytest.raises(SystemExit, match=f"error: .*{told}") as ended:
            _run(f"{protocol}_client", words, monkeypatch, capsys)
        assert "\n" not in ended.value.code
        words += [f"--protocol={protocol}", "--clients=2", "--requests=1", "--warmup=0"]
        with pytest.raises(SystemExit, match="error: "):
            _run("load_test", words, monkeypatch, capsys)
        assert "requests 0  errors 2" in capsys.readouterr().out


@pytest.mark.parametrize("batched", [True, False])
def test_metadata_comes_over_rest(started, exported, batched, monkeypatch, capsys):
    server = started()
    if not batched:
        monkeypatch.setattr(server.versions[1], "batching", None)
    expected = json.loads((exported[3]["text"] / "assets" / "metadata.json").read_text())
    with rest_server(server) as address:
        words = ["quickstart", "metadata", "any_text=", f"--host={address}"]
        assert json.loads(json.loads(_run("rest_client", words, monkeypatch, capsys))["output"][0]) == expected
        words = ["--data", '{"signature_name": "metadata", "instances": ["", "any"]}']
        done = _shell("curl", "--silent", *words, f"http://{address}/v1/models/quickstart:predict")
        assert [json.loads(text) for text in json.loads(done.stdout)["predictions"]] == [expected] * 2


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


def test_the_shell_example_gets_answers(rest):
    done = _shell("sh", str(EXPORT / "ask.sh"), rest)
    assert done.returncode == 0, done.stderr
    assert '"state": "AVAILABLE"' in done.stdout
    assert done.stdout.count('"probabilities"') == 2
    assert '"predictions"' in done.stdout
    assert '"results"' in done.stdout


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
