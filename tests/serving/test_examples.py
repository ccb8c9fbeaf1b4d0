"""The programs in export/examples, each run where this package cannot be imported, beside what the model itself answers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.serving.examples import EXAMPLES, lines, run


@pytest.fixture(scope="module")
def signatures(exported):
    return {kind: tf.saved_model.load(str(path)).signatures for kind, path in exported[3].items()}


def test_the_readme_lists_every_example():
    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`examples/(\w+\.py)`", readme)) == {path.name for path in EXAMPLES.glob("*.py")}


def test_no_example_takes_anything_from_the_library():
    for path in EXAMPLES.glob("*.py"):
        assert not re.search(r"^\s*(import|from) mtdnn_tf", path.read_text(encoding="utf-8"), re.MULTILINE)


def test_by_task(exported, signatures):
    path = exported[3]["text"]
    assert "follows (classification): premise=... hypothesis=..." in lines("ask_by_task.py", path)
    printed = lines(
        "ask_by_task.py", path, "follows", "premise=é", "premise=b", "hypothesis=an animal runs", "hypothesis="
    )
    found = dict(line.split(" ", 1) for line in printed)
    expected = signatures["text"]["follows"](
        premise=tf.constant(["é", "b"]), hypothesis=tf.constant(["an animal runs", ""])
    )
    np.testing.assert_allclose(json.loads(found["probabilities"]), expected["probabilities"], atol=1e-6)
    done = run("ask_by_task.py", path, "follows", "premise=a")
    assert done.returncode == 1
    assert done.stderr.endswith("error: follows takes hypothesis, premise; received premise\n")


def test_inside_a_keras_model(exported, signatures):
    texts = ["a good day", "bad milk"]
    printed = lines("keras_model.py", exported[3]["text"], "mood", *texts)
    expected = signatures["text"]["mood"](text=tf.constant(texts))["probabilities"].numpy()
    for line, text, probabilities in zip(printed, texts, expected, strict=True):
        label = ["negative", "positive"][probabilities.argmax()] if probabilities.max() >= 0.75 else "unsure"
        assert line == f"{label}\t{probabilities.max():.3f}\t{text}"


def test_a_classifier_on_frozen_embeddings(exported):
    loss, *rows = lines("train_on_embeddings.py", exported[3]["text"])
    before, after = map(float, re.fullmatch(r"loss (\S+) -> (\S+)", loss).groups())
    assert after < before / 2
    own = [line.split("\t")[0] for line in rows]
    assert sum(a == b for a, b in zip(own, ["delivery"] * 4 + ["payment"] * 4 + ["software"] * 4, strict=True)) >= 10


def test_a_table_through_tf_data(exported, signatures, tmp_path):
    table = tmp_path / "rows.tsv"
    rows = [("the dog runs", f"an animal runs {number}" if number % 3 else "") for number in range(130)]
    table.write_text("".join(f"{first}\t{second}\n" for first, second in rows), encoding="utf-8")
    printed = lines("score_table.py", exported[3]["text"], "follows", table)
    first, second = (tf.constant(column) for column in zip(*rows, strict=True))
    expected = signatures["text"]["follows"](premise=first, hypothesis=second)
    assert [line.split("\t")[0].encode() for line in printed] == expected["label"].numpy().tolist()
    found = [[float(value) for value in line.split("\t")[1:]] for line in printed]
    np.testing.assert_allclose(found, expected["probabilities"], atol=2e-6)
    table.write_text("a\tb\nonly one\n", encoding="utf-8")
    done = run("score_table.py", exported[3]["text"], "follows", table)
    assert done.returncode == 1
    told = f"error: {table}: every line must hold premise, hypothesis, separated by tabs; this one does not: line 2"
    assert done.stderr.splitlines()[-1] == told


def _vocabulary(path):
    return (path / "assets" / "vocab.txt").read_text(encoding="utf-8").split("\n")


def test_the_c_api(exported, signatures):
    path = exported[3]["ids"]
    library = Path(tf.__file__).with_name("libtensorflow_cc.so.2")
    tokens = "[CLS] a b c [SEP] d nothing [SEP]"
    options = ("--library", library)
    hidden = ("tensorflow", "keras", "tensorflow_text")
    version, printed = lines("c_api.py", path, "follows", tokens, *options, hidden=hidden)
    assert version == f"TensorFlow {tf.__version__}, by its C API"
    vocabulary = _vocabulary(path)
    ids = [vocabulary.index(token if token in vocabulary else "[UNK]") for token in tokens.split()]
    expected = signatures["ids"]["follows"](
        token_ids=tf.constant([ids]),
        segment_ids=tf.constant([[0] * 5 + [1] * 3]),
        padding_mask=tf.ones([1, 8], tf.int32),
    )
    found = json.loads(printed)
    assert set(found) == {"label_id", "logits", "probabilities"}
    np.testing.assert_allclose(found["logits"], expected["logits"], atol=1e-6)
    done = run("c_api.py", path, "follows", "a " * 200, *options, hidden=hidden)
    assert done.returncode == 1
    assert "the length must be from 1 to 128 tokens; received] [200]" in done.stderr


def test_tensorflow_lite(exported, tmp_path):
    output = tmp_path / "follows.tflite"
    texts = tmp_path / "texts"
    texts.write_text("the dog runs an animal runs\n\nrain " + "falls " * 90 + "\n", encoding="utf-8")
    [printed] = lines("to_tflite.py", exported[3]["ids"], "follows", output, texts, hidden=("tensorflow_text",))
    size, difference = re.search(r": (\d+) bytes; greatest difference (\S+)$", printed).groups()
    assert int(size) == output.stat().st_size
    assert float(difference) < 1e-4


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.real_data
def test_tensorflow_lite_with_real_weights(minilm, exported, data_root, tmp_path):
    import mtdnn_tf as mtdnn

    encoder = mtdnn.load_encoder(minilm)
    tasks = exported[1]
    path = mtdnn.export_saved_model(mtdnn.build_model(encoder, tasks, seed=1), tasks, encoder, tmp_path / "ids", "ids")
    texts = tmp_path / "texts"
    texts.write_text("\n".join(_sentences(data_root)) + "\n", encoding="utf-8")
    [printed] = lines("to_tflite.py", path, "follows", tmp_path / "x.tflite", texts, hidden=("tensorflow_text",))
    assert float(printed.rsplit(" ", 1)[1]) < 1e-4


def _sentences(data_root):
    rows = (data_root / "glue" / "SST-2" / "dev.tsv").read_text(encoding="utf-8").splitlines()[1:65]
    return [row.split("\t")[0] for row in rows]
