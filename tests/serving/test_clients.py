"""Clients, load generator and shell example of export/, against a server that answers as TensorFlow Serving does."""

from __future__ import annotations

import ast
import json
import re
import sys

import pytest
import tensorflow as tf

from tests.serving import kit
from tests.serving.kit import EXPORT
from tests.serving.model_server import rest_server
from tests.serving.server import LoadedModel, NeverAnsweredError

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


PAIR = ["premise=the dog runs", "hypothesis=an animal runs", "premise=é", "hypothesis=中国"]


@pytest.fixture(scope="module")
def expected(exported):
    rows = {"premise": ["the dog runs", "é"], "hypothesis": ["an animal runs", "中国"]}
    signature = tf.saved_model.load(str(exported[3]["text"])).signatures["follows"]
    return {key: value.numpy() for key, value in signature(**{k: tf.constant(v) for k, v in rows.items()}).items()}


@pytest.mark.parametrize("label", [[], ["--label=stable"]])
def test_the_rest_client_prints_what_the_model_answers(rest, expected, label, monkeypatch, capsys):
    words = ["quickstart", "entailment", *PAIR, f"--host={rest}", *label]
    answer = json.loads(kit.run("rest_client", words, monkeypatch, capsys))
    assert set(answer) == set(expected)
    assert answer["label"] == [text.decode() for text in expected["label"]]
    assert answer["probabilities"] == [pytest.approx(row.tolist(), abs=1e-5) for row in expected["probabilities"]]


@pytest.mark.parametrize("label", [[], ["--label=canary"]])
def test_the_grpc_client_prints_what_the_model_answers(grpc, expected, label, monkeypatch, capsys):
    words = ["quickstart", "entailment", *PAIR, f"--host={grpc}", *label]
    lines = dict(line.split(" ", 1) for line in kit.run("grpc_client", words, monkeypatch, capsys).splitlines())
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
        kit.run(f"{protocol}_client", [*words, f"--host={host}"], monkeypatch, capsys)


@pytest.mark.parametrize("name", ["rest_client", "grpc_client"])
def test_clients_refuse_half_pairs_before_they_ask(name, monkeypatch, capsys):
    for words in (["premise=a", "premise=b", "hypothesis=c"], ["premise"], []):
        with pytest.raises(SystemExit) as ended:
            kit.run(name, ["quickstart", "entailment", *words, "--host=localhost:1"], monkeypatch, capsys)
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
        kit.program("rest_client").ask(None, "localhost:1", "quickstart", "answers", columns)
    with pytest.raises(ValueError, match="must hold"):
        kit.program("grpc_client").build_request("quickstart", "answers", columns)


@pytest.mark.parametrize(("protocol", "told"), [("rest", "no answer from localhost"), ("grpc", "DEADLINE_EXCEEDED")])
def test_clients_give_up_on_a_server_that_never_answers(started, protocol, told, monkeypatch, capsys):
    """As it does where requests without rows came before."""

    def never(model, request):
        raise NeverAnsweredError

    monkeypatch.setattr(LoadedModel, "predict", never)
    with kit.SERVERS[protocol](started()) as address:
        words = ["quickstart", "sentiment", "text=fine", f"--host={address}", "--timeout=0.3"]
        with pytest.raises(SystemExit, match=f"error: .*{told}") as ended:
            kit.run(f"{protocol}_client", words, monkeypatch, capsys)
        assert "\n" not in ended.value.code
        words += [f"--protocol={protocol}", "--clients=2", "--requests=1", "--warmup=0"]
        with pytest.raises(SystemExit, match="error: "):
            kit.run("load_test", words, monkeypatch, capsys)
        assert "requests 0  errors 2" in capsys.readouterr().out


@pytest.mark.parametrize("batched", [True, False])
def test_metadata_comes_over_rest(started, exported, batched, monkeypatch, capsys):
    server = started()
    if not batched:
        monkeypatch.setattr(server.versions[1], "batching", None)
    expected = json.loads((exported[3]["text"] / "assets" / "metadata.json").read_text())
    with rest_server(server) as address:
        words = ["quickstart", "metadata", "any_text=", f"--host={address}"]
        assert json.loads(json.loads(kit.run("rest_client", words, monkeypatch, capsys))["output"][0]) == expected
        words = ["--data", '{"signature_name": "metadata", "instances": ["", "any"]}']
        done = kit.shell("curl", "--silent", *words, f"http://{address}/v1/models/quickstart:predict")
        assert [json.loads(text) for text in json.loads(done.stdout)["predictions"]] == [expected] * 2


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_the_load_generator_counts_what_it_sends(protocol, request, tmp_path, monkeypatch, capsys):
    host = request.getfixturevalue(protocol)
    words = ["quickstart", "sentiment", "text=a good day", f"--protocol={protocol}", f"--host={host}", "--rows=2"]
    words += ["--clients=3", "--requests=4", "--warmup=1", f"--json={tmp_path / 'load.json'}"]
    printed = kit.run("load_test", words, monkeypatch, capsys)
    found = json.loads((tmp_path / "load.json").read_text())
    assert (found["clients"], found["requests"], found["errors"]) == (3, 12, 0)
    assert 0 < found["p50_ms"] <= found["p90_ms"] <= found["p99_ms"] <= found["max_ms"]
    assert found["rows_per_second"] == pytest.approx(2 * found["requests_per_second"])
    assert re.search(r"p50_ms \d+\.\d  p90_ms", printed)


def test_the_load_generator_fails_where_requests_do(rest, monkeypatch, capsys):
    words = ["quickstart", "other", "text=a", f"--host={rest}", "--clients=2", "--requests=1", "--warmup=0"]
    with pytest.raises(SystemExit, match="not found in signature def"):
        kit.run("load_test", words, monkeypatch, capsys)
    assert "requests 0  errors 2" in capsys.readouterr().out


def test_percentiles_are_values_that_were_seen():
    percentile = kit.program("load_test").percentile
    hundred = [float(value) for value in range(100, 0, -1)]
    assert [percentile(hundred, share) for share in (0.5, 0.9, 0.99)] == [50, 90, 99]
    assert percentile([3.0], 0.99) == 3
    assert percentile([1.0, 2.0], 0.5) == 1


def test_the_shell_example_gets_answers(rest):
    done = kit.shell("sh", str(EXPORT / "ask.sh"), rest)
    assert done.returncode == 0, done.stderr
    assert '"state": "AVAILABLE"' in done.stdout
    assert done.stdout.count('"probabilities"') == 2
    assert '"predictions"' in done.stdout
    assert '"results"' in done.stdout
