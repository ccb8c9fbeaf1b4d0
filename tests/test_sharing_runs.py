"""Whole runs of the layerwise structures and of encoders on words: trained, opened again, taken over, read off."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import mtdnn_tf as mtdnn
from mtdnn_tf.cli import select_tasks
from mtdnn_tf.data.text import SPECIAL_TOKENS
from mtdnn_tf.evaluation.evaluate import SplitScorer
from mtdnn_tf.evaluation.runs import Run, build_run_model
from mtdnn_tf.evaluation.seen_rows import scores_without_train_rows
from mtdnn_tf.evaluation.task_attention import task_attention, write_task_attention
from mtdnn_tf.experiment import prepare_runtime, run_experiment
from mtdnn_tf.modeling.model import first_tokens
from mtdnn_tf.planning import make_plan
from mtdnn_tf.resuming import take_over
from mtdnn_tf.training.checkpoints import State, load_model, model_parts, save
from tests.small import TINY, TINY_WORDS

SHORT = ["training.epochs=1", "data.max_length=24"]


def run(experiment, model_dir, *overrides, tasks=("mood", "close")):
    config = select_tasks(mtdnn.load_config(experiment, [*SHORT, *overrides]), list(tasks))
    return run_experiment(config, model_dir, verbose=0)


def tokens_of(model):
    return {token.owner: token.embedding.numpy() for token in first_tokens(model)}


@pytest.fixture(scope="module")
def explicit(tmp_path_factory):
    """A run of two tasks on words, with explicit task tokens."""
    from tests.small import write_experiment

    folder = tmp_path_factory.mktemp("explicit")
    experiment = write_experiment(folder)
    model_dir = folder / "run"
    overrides = ("model.sharing=layerwise_explicit", f'encoder.source="{TINY_WORDS}"')
    return experiment, model_dir, overrides, run(experiment, model_dir, *overrides)


def test_a_run_on_words_is_opened_again_without_its_texts(explicit, tmp_path):
    experiment, model_dir, _, outcome = explicit
    words = (model_dir / "vocab.txt").read_text(encoding="utf-8").split("\n")
    assert words[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    texts, hidden = experiment.parent / "mood.tsv", tmp_path / "mood.tsv"
    texts.rename(hidden)
    try:
        opened = mtdnn.load_run(model_dir)
    finally:
        hidden.rename(texts)
    assert tokens_of(opened.model).keys() == {"mood", "close"}
    for mine, theirs in zip(opened.model.weights, outcome.run.model.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_finished_run_is_not_repeated_and_other_words_are_refused(explicit, capsys):
    experiment, model_dir, overrides, _ = explicit
    run(experiment, model_dir, *overrides)
    assert "already trained" in capsys.readouterr().out
    texts = experiment.parent / "mood.tsv"
    before = texts.read_text(encoding="utf-8")
    texts.write_text(before + "a new word\tpositive\n", encoding="utf-8")
    try:
        with pytest.raises(mtdnn.UserError, match=r"vocab\.txt: the texts, or the run .*, hold other words now"):
            run(experiment, model_dir, *overrides)
    finally:
        texts.write_text(before, encoding="utf-8")


def test_a_run_that_starts_from_another_knows_its_words(explicit, tmp_path):
    """Vectors are taken over row by row: other words in other texts, or another order, would make them those of other words."""
    experiment, model_dir, overrides, outcome = explicit
    for row in ("good", "new"):
        (tmp_path / "mood.tsv").write_text(
            f"text\tlabel\n{row} bad bad bad\tnegative\n{row}\tpositive\n", encoding="utf-8"
        )
        texts = f"tasks.mood.train={tmp_path / 'mood.tsv'}"
        started = run(
            experiment,
            tmp_path / row,
            *overrides,
            f"training.init_from={model_dir}",
            texts,
            "optimizer.learning_rate=1e-12",
        )
        assert (tmp_path / row / "vocab.txt").read_bytes() == (model_dir / "vocab.txt").read_bytes()
        mine, theirs = (of.run.encoder.backbone.token_embedding.embeddings.numpy() for of in (started, outcome))
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_other_words_than_those_of_the_run_before_are_refused(explicit, tmp_path):
    experiment, model_dir, (sharing, source), _ = explicit
    words = (model_dir / "vocab.txt").read_text(encoding="utf-8").splitlines()
    (tmp_path / "words.txt").write_text("\n".join([*words[:5], *reversed(words[5:])]) + "\n", encoding="utf-8")
    source = source.removesuffix('"') + f',vocab={tmp_path / "words.txt"}"'
    with pytest.raises(mtdnn.UserError, match=r"words\.txt holds other words than the run of training\.init_from"):
        run(experiment, tmp_path / "run", sharing, source, f"training.init_from={model_dir}")
    assert not (tmp_path / "run").exists()


def test_attention_among_tasks_is_written_by_row(explicit, tmp_path):
    opened = explicit[3].run
    found = task_attention(opened.model, opened.tasks, opened.encoder.tokenizer, opened.config.data)
    assert found.names == ("mood", "close")
    assert found.texts == (12, 9)
    assert ((found.shares > 0) & (found.shares < 1)).all()
    assert (found.shares.sum(axis=1) < 1).all()  # the rest goes to the words
    as_json, as_html = write_task_attention(tmp_path, found)
    np.testing.assert_allclose(json.loads(as_json.read_text())["attention"], found.shares, atol=1e-6)
    assert as_html.read_text().count("<rect") == 4


def test_attention_among_tasks_needs_explicit_tokens(experiment):
    tasks = mtdnn.load_tasks(mtdnn.load_config(experiment))
    encoder = mtdnn.load_encoder("random://layers=1,hidden=16,heads=2,intermediate=16")
    for sharing in ("stack_cls", "layerwise_implicit"):
        model = mtdnn.build_model(encoder, tasks, sharing)
        with pytest.raises(mtdnn.UserError, match="layerwise_explicit"):
            task_attention(model, tasks, encoder.tokenizer, mtdnn.load_config(experiment).data)


def test_rows_that_were_trained_on_are_left_out(explicit, tmp_path):
    experiment, _, overrides, outcome = explicit
    test = tmp_path / "test.tsv"
    test.write_text("text\tlabel\nA  good day\tpositive\nnever seen\tpositive\ntea\tnegative\n", encoding="utf-8")
    config = select_tasks(mtdnn.load_config(experiment, [*overrides, f"tasks.mood.test={test}"]), ["mood", "close"])
    tasks = mtdnn.load_tasks(config)
    scorer = SplitScorer(outcome.run.model, tasks, outcome.run.encoder.tokenizer, config.data, "test")
    scorer()
    found = scores_without_train_rows(scorer, tasks)
    assert found["left_out"] == {"mood": 1}
    right = scorer.logits["mood"][1:].argmax(axis=1) == [1, 0]
    assert found["tasks"]["mood"]["accuracy"] == found["average"] == right.mean()


@pytest.mark.parametrize("encoder", ["auto", pytest.param("reference", marks=pytest.mark.slow)])
def test_an_implicit_run_moves_its_tasks_tokens_and_is_taken_over_by_name(experiment, tmp_path, encoder):
    overrides = ("model.sharing=layerwise_implicit", f"runtime.encoder={encoder}")
    first = run(experiment, tmp_path / "first", *overrides, tasks=("mood",))
    start = mtdnn.build_model(
        mtdnn.load_encoder(first.run.config.encoder.source), first.run.tasks, "layerwise_implicit"
    )
    learned, begun = tokens_of(first.run.model)["mood"], tokens_of(start)["mood"]
    assert np.abs(learned - begun).max() > 1e-4
    tasks = mtdnn.load_tasks(mtdnn.load_config(experiment))
    more = mtdnn.build_model(mtdnn.load_encoder(first.run.config.encoder.source), tasks, "layerwise_implicit")
    report = load_model(tmp_path / "first" / "best", more, tasks, partial=True)
    assert {"encoder", "first_tokens/mood", "heads/mood"} == set(report.loaded)
    assert {"first_tokens/close", "heads/close"} <= set(report.new)
    np.testing.assert_array_equal(tokens_of(more)["mood"], learned)


def _taken_over(experiment, folder, *overrides):
    """Save a model whose every weight is moved, start a run from it; return both, and the run's tokens as they were built."""
    config = select_tasks(mtdnn.load_config(experiment, [*SHORT, *overrides]), ["mood"])
    model, tasks, _ = build_run_model(config)
    for weight in model.weights:
        weight.assign_add(0.1 * np.random.default_rng(0).standard_normal(weight.shape).astype(np.float32))
    save(folder / "first" / "best", model_parts(model, tasks), State(1, 0, 1))
    overrides = [*SHORT, *overrides, f"training.init_from={folder / 'first'}"]
    config = select_tasks(mtdnn.load_config(experiment, overrides), ["mood", "close"])
    run = Run(*build_run_model(config), config, folder / "second")
    built = tokens_of(run.model)
    take_over(run, fresh=False)
    return model, run, built


def _encoder_weights(model):
    return [weight.numpy() for weight in model.get_layer("encoder").weights]


STRIPPED = "training.init_heads=stripped"


@pytest.mark.parametrize("heads", ["kept", "stripped"])
def test_task_tokens_that_are_not_taken_over_start_from_the_encoder_that_is(experiment, tmp_path, capsys, heads):
    first, run, built = _taken_over(
        experiment, tmp_path, "model.sharing=layerwise_implicit", f"training.init_heads={heads}"
    )
    for mine, theirs in zip(_encoder_weights(run.model), _encoder_weights(first), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    backbone = first.get_layer("encoder")
    of_cls = backbone.initial_token(run.encoder.tokenizer.cls_id, 0)
    found = tokens_of(run.model)
    np.testing.assert_array_equal(found["close"], of_cls)
    np.testing.assert_array_equal(found["mood"], tokens_of(first)["mood"] if heads == "kept" else of_cls)
    assert np.abs(built["close"] - of_cls).max() > 0.01
    said = capsys.readouterr().out
    assert ("loaded encoder, first_tokens/mood, heads/mood" if heads == "kept" else "loaded encoder; what") in said


def test_the_first_token_that_all_tasks_share_goes_with_a_stripped_encoder(experiment, tmp_path, capsys):
    words = tmp_path / "words.txt"
    words.write_text("".join(f"{word}\n" for word in (*SPECIAL_TOKENS, "good", "bad")), encoding="utf-8")
    first, run, _ = _taken_over(experiment, tmp_path, f'encoder.source="{TINY_WORDS},vocab={words}"', STRIPPED)
    np.testing.assert_array_equal(tokens_of(run.model)["CLS"], tokens_of(first)["CLS"])
    assert "loaded encoder, first_tokens/CLS; what" in capsys.readouterr().out
    head, theirs = run.model.get_layer("mood").weights[0], first.get_layer("mood").weights[0]
    assert np.abs(head.numpy() - theirs.numpy()).max() > 0.01


def test_task_tokens_on_words_are_stripped_too(experiment, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("".join(f"{word}\n" for word in (*SPECIAL_TOKENS, "good", "bad")), encoding="utf-8")
    sharing = "model.sharing=layerwise_explicit"
    _, run, built = _taken_over(experiment, tmp_path, f'encoder.source="{TINY_WORDS},vocab={words}"', STRIPPED, sharing)
    for owner, token in tokens_of(run.model).items():
        np.testing.assert_array_equal(token, built[owner])


LAYERWISE = pytest.mark.parametrize("sharing", ["layerwise_implicit", "layerwise_explicit"])
ENCODERS = pytest.mark.parametrize("encoder", [TINY, TINY_WORDS], ids=["bert", "words"])


def _metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
@LAYERWISE
@ENCODERS
def test_a_run_with_task_tokens_goes_on_in_the_middle_of_an_epoch_with_the_same_bits(
    experiment, tmp_path, sharing, encoder
):
    overrides = (
        f"model.sharing={sharing}", f'encoder.source="{encoder}"', "training.checkpoint_every=2", "training.keep_checkpoints=100",
        "training.log_every=1", "runtime.deterministic=true",
    )  # fmt: skip
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    first = run(experiment, whole, *overrides)
    shutil.copytree(whole, cut)
    for later in sorted((cut / "checkpoints").iterdir())[1:]:
        shutil.rmtree(later)
    for name in ("best", "scores.json", "MODEL_CARD.md"):
        path = cut / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    second = run(experiment, cut, *overrides)
    for mine, theirs in zip(second.run.model.weights, first.run.model.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs, err_msg=mine.path)
    assert [line["losses"] for line in _metrics(cut) if line["event"] == "train"] == [
        line["losses"] for line in _metrics(whole) if line["event"] == "train"
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras, of bfloat16 values
@LAYERWISE
@ENCODERS
def test_task_tokens_train_in_bfloat16_as_in_float32(experiment, tmp_path, sharing, encoder):
    losses = {}
    for precision in ("float32", "mixed_bfloat16"):
        overrides = (
            f"model.sharing={sharing}", f'encoder.source="{encoder}"', f"runtime.precision={precision}", "training.log_every=1",
            "encoder.dropout=0", "model.dropout=0",
        )  # fmt: skip
        source = [] if encoder == TINY else [f'encoder.source="{encoder},embedding_dropout=0"']
        config = select_tasks(mtdnn.load_config(experiment, [*SHORT, *overrides, *source]), ["mood", "close"])
        prepare_runtime(config)
        try:
            run_experiment(config, tmp_path / precision, verbose=0)
        finally:
            keras.config.set_dtype_policy("float32")
        steps = [line for line in _metrics(tmp_path / precision) if line["event"] == "train"]
        losses[precision] = [loss for step in steps for loss in step["losses"].values()]
    np.testing.assert_allclose(losses["mixed_bfloat16"], losses["float32"], rtol=0.05, atol=0.02)


@pytest.mark.slow
@LAYERWISE
@ENCODERS
def test_task_tokens_learn_the_same_on_two_devices(experiment, tmp_path, sharing, encoder):
    """Each in a process of its own: devices are set up once."""
    still = (
        "encoder.dropout=0",
        "model.dropout=0",
        "model.san_prediction_dropout=0",
        "training.log_every=1",
        "runtime.encoder=reference",
    )
    source = encoder if encoder == TINY else f"{encoder},embedding_dropout=0"
    settings = (*SHORT, *still, f"model.sharing={sharing}", f'encoder.source="{source}"')
    losses = []
    for devices, more in ((1, ()), (2, ("runtime.strategy=mirrored",))):
        folder = tmp_path / str(devices)
        command = [
            sys.executable,
            "-m",
            "tests.nine_tasks",
            str(experiment),
            str(folder),
            str(devices),
            *settings,
            *more,
        ]
        subprocess.run(command, check=True, cwd=Path(__file__).parents[1], capture_output=True)
        losses.append([line["losses"] for line in _metrics(folder) if line["event"] == "train"])
    assert len(losses[0]) > 4
    for ours, theirs in zip(*losses, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


@LAYERWISE
def test_a_run_with_task_tokens_can_be_planned(experiment, sharing):
    config = select_tasks(mtdnn.load_config(experiment, [*SHORT, f"model.sharing={sharing}"]), ["mood", "close"])
    plan = make_plan(config)
    assert plan["minutes"] > 0
    assert set(plan["tasks"]) == {"mood", "close"}
