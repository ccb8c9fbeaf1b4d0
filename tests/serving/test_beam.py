"""Bulk scoring with Apache Beam: an answer for every line in its place, bad rows aside, going on after an interruption."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import time

import numpy as np
import pytest
import tensorflow as tf

from tests.serving.examples import command, lines, run

pytestmark = [
    pytest.mark.beam,
    pytest.mark.skipif(importlib.util.find_spec("apache_beam") is None, reason="no Apache Beam: make test-beam"),
]
SCRIPT = "beam_scoring.py"
BAD = {8: "expected 2 columns, found 1", 21: "invalid UTF-8: byte 2 is 0xff", 41: "expected 2 columns, found 3"}


@pytest.fixture
def table(tmp_path):
    rows = [f"the dog runs {'far ' * (number % 7)}\tan animal runs {number}".encode() for number in range(1, 51)]
    rows[7], rows[20], rows[40] = b"only one", b"a\xff\tb", b"a\tb\tc"
    rows[30], rows[33] = b"\t", "é 中\tb\0".encode() + b"\r"
    path = tmp_path / "rows.tsv"
    path.write_bytes(b"\n".join(rows))
    return path


def _shards(output):
    return {path.name: (path.stat().st_ino, path.read_bytes()) for path in (output / "shards").iterdir()}


def test_lines_are_answered_in_their_place(exported, table, tmp_path):
    path, output = exported[3]["text"], tmp_path / "out"
    lines(SCRIPT, path, "follows", table, output, "--shard_lines=9")
    answers = [json.loads(line) for line in (output / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(answers) == 50
    signature = tf.saved_model.load(str(path)).signatures["follows"]
    for number, (line, answer) in enumerate(zip(table.read_bytes().split(b"\n"), answers, strict=True), start=1):
        if number in BAD:
            assert answer == {"error": BAD[number]}
            continue
        first, second = line.rstrip(b"\r").split(b"\t")
        expected = signature(premise=tf.constant([first]), hypothesis=tf.constant([second]))
        np.testing.assert_allclose(answer["probabilities"], expected["probabilities"][0], atol=1e-5)
    bad_rows = (output / "bad_rows.tsv").read_text().splitlines()
    assert bad_rows == [f"{number}\t{reason}" for number, reason in BAD.items()]

    whole, kept = (output / "answers.jsonl").read_bytes(), _shards(output)
    assert sorted(kept) == sorted(f"{n:06d}.{name}" for n in range(6) for name in ("answers.jsonl", "bad_rows.tsv"))
    (output / "shards" / "000002.answers.jsonl").unlink()
    (output / "answers.jsonl").unlink()
    printed = lines(SCRIPT, path, "follows", table, output, "--shard_lines=9")
    assert printed[0] == "6 shards, 5 of them there already"
    again = _shards(output)
    assert {name for name in kept if again[name] != kept[name]} <= {"000002.answers.jsonl", "000002.bad_rows.tsv"}
    assert (output / "answers.jsonl").read_bytes() == whole


def test_an_interrupted_run_goes_on(exported, tmp_path):
    path, output, table = exported[3]["text"], tmp_path / "out", tmp_path / "rows.tsv"
    table.write_text("".join(f"good bread {number} {'milk ' * 30}\n" for number in range(20_000)), encoding="utf-8")
    arguments = (SCRIPT, path, "mood", table, output, "--shard_lines=400")
    process = subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while len(list(output.glob("shards/*.answers.jsonl"))) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    before = {name: value for name, value in _shards(output).items() if name.endswith(".answers.jsonl")}
    assert not (output / "answers.jsonl").exists()
    assert 3 <= len(before) < 50
    printed = lines(*arguments)
    assert printed[0] == f"50 shards, {len(before)} of them there already"
    after = _shards(output)
    assert all(after[name] == value for name, value in before.items())
    assert len((output / "answers.jsonl").read_bytes().splitlines()) == 20_000


def test_answers_to_something_else_are_not_mixed_in(exported, table, tmp_path):
    path, output = exported[3]["text"], tmp_path / "out"
    lines(SCRIPT, path, "follows", table, output)
    done = run(SCRIPT, path, "close", table, output)
    assert done.returncode == 1
    assert "holds answers with another task, columns; name another folder" in done.stderr
    done = run(SCRIPT, path, "moods", table, output)
    assert "the model has no task 'moods'; it has mood, follows, close, pick" in done.stderr
