"""Stage one as a user runs it: an encoder is pre-trained, goes on where it was cut off, and is what later runs start from."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import mtdnn_tf as mtdnn
from mtdnn_tf.config import PretrainingConfig, SourceConfig
from mtdnn_tf.data.batches import evaluation_batches
from mtdnn_tf.data.pretraining import tokenize_documents
from mtdnn_tf.evaluation.runs import load_run, task_named
from mtdnn_tf.experiment import run_experiment
from mtdnn_tf.planning import make_plan, plan_table
from mtdnn_tf.pretraining import run_pretraining, unigram_loss
from mtdnn_tf.tasks import TaskSpec, dump_tasks, read_tasks
from mtdnn_tf.training import checkpoints
from tests.conftest import REPOSITORY
from tests.killing import assert_same_run, weights
from tests.small import write_experiment
from tests.studies.in_process import run_here

TOPICS = {
    "sea": ("fish", "ship", "wave", "salt"),
    "bread": ("oven", "flour", "crust", "loaf"),
    "sky": ("star", "moon", "cloud", "sun"),
}
YAML = """
encoder: {source: "random://layers=1,hidden=16,heads=2,intermediate=32,positions=48"}
tasks:
  text: {type: pretraining, train: "train_*.txt", dev: dev.jsonl}
data: {max_length: 48, batch_size: 4, eval_batch_size: 8}
optimizer: {name: adamw, learning_rate: 3.0e-3}
mixing: {strategy: uniform, steps_per_epoch: 6}
training: {epochs: 2, log_every: 4, checkpoint_every: 3, keep_checkpoints: 100}
"""


def _text(topic, seed):
    draw = np.random.default_rng(seed)
    return " ".join(f"The {topic} has a {draw.choice(TOPICS[topic])}." for _ in range(20))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretraining")
    for topic in TOPICS:
        (folder / f"train_{topic}.txt").write_text(_text(topic, 1))
    (folder / "dev.jsonl").write_text("".join(json.dumps({"text": _text(topic, 2)}) + "\n" for topic in TOPICS))
    (folder / "pre.yaml").write_text(YAML)
    return folder


def _config(folder, *overrides):
    return mtdnn.load_config(folder / "pre.yaml", overrides)


@pytest.fixture(scope="module")
def trained(folder):
    """The outcome, the baseline and the directory of a whole run."""
    return (*run_pretraining(_config(folder), folder / "run", verbose=0), folder / "run")


def test_a_run_leaves_scores_and_the_baseline(trained):
    outcome, baseline, folder = trained
    assert set(outcome.scores["text"]) == {"masked_loss", "masked_accuracy", "next_accuracy"}
    assert outcome.scores["average"] == outcome.scores["text"]["masked_accuracy"]
    assert json.loads((folder / "baseline.json").read_text()) == pytest.approx(
        {"masked_loss": baseline.masked_loss, "next_accuracy": baseline.next_accuracy}
    )
    assert 0.5 <= baseline.next_accuracy < 1
    losses = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in losses if line["event"] == "train"] == [4, 6, 8, 12]
    report = (folder / "report.html").read_text()
    assert f"{outcome.scores['text']['masked_loss']:.2f}" in report
    assert f'masked_loss without context</td><td class="number">{baseline.masked_loss:.2f}' in report


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sharing", "layerwise_implicit"),
        ("sharing", "layerwise_explicit"),
        ("sharing", "stack_pooling"),
        ("pooler", "none"),
    ],
)
def test_what_would_not_be_written_is_not_trained(folder, tmp_path, key, value):
    with pytest.raises(mtdnn.UserError, match=rf"model\.{key}: must be .* in pre-training.* Received: '{value}'"):
        run_pretraining(_config(folder, f"model.{key}={value}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flag", ["--split=train", "--without_train_rows", "--score_files={folder}"])
def test_rows_of_files_are_not_asked_of_running_text(trained, tmp_path, flag):
    before = sorted(trained[2].iterdir())
    with pytest.raises(mtdnn.UserError, match=rf"tasks\.text: is of the type pretraining: .*{flag.partition('=')[0]}"):
        run_here(["mtdnn_tf.evaluate", f"--model_dir={trained[2]}", flag.format(folder=tmp_path / "files")])
    assert sorted(trained[2].iterdir()) == before


def test_the_encoder_is_the_best_models(trained):
    outcome, _, folder = trained
    table = weights(folder / "best")["encoder/token_embedding:embeddings/.ATTRIBUTES/VARIABLE_VALUE"]
    for source in (folder / "encoder", folder):
        encoder = mtdnn.load_encoder(str(source))
        np.testing.assert_array_equal(encoder.backbone.token_embedding.embeddings, table)
        assert encoder.tokenizer.fingerprint == outcome.run.encoder.tokenizer.fingerprint


def test_a_later_run_starts_from_it(trained, tmp_path):
    config = mtdnn.load_config(
        write_experiment(tmp_path), [f"encoder.source={trained[2] / 'encoder'}", "training.epochs=1"]
    )
    mood = mtdnn.config.replace(config, tasks={"mood": config.tasks["mood"]})
    outcome = run_experiment(mood, tmp_path / "run", verbose=0)
    assert set(outcome.scores) == {"mood", "average"}


def test_heads_go_with_a_run_that_continues(trained, folder, tmp_path, capsys):
    config = _config(folder, f"training.init_from={trained[2]}", "training.epochs=1", "optimizer.learning_rate=1.0e-12")
    outcome, _ = run_pretraining(config, tmp_path / "run", verbose=0)
    assert "loaded encoder, heads/text" in capsys.readouterr().out
    assert outcome.scores["text"] == pytest.approx(trained[0].scores["text"], abs=1e-5)


def test_a_run_that_was_cut_off_goes_on_bit_for_bit(trained, folder, tmp_path, monkeypatch):
    take_step = mtdnn.MultiTaskTrainer._take_step

    def cut(self, progress, group):
        if progress.global_step == 11:
            raise KeyboardInterrupt
        take_step(self, progress, group)

    with monkeypatch.context() as patch:
        patch.setattr(mtdnn.MultiTaskTrainer, "_take_step", cut)
        with pytest.raises(KeyboardInterrupt):
            run_pretraining(_config(folder), tmp_path / "run", verbose=0)
    assert checkpoints.latest(tmp_path / "run" / "checkpoints").name == "step-000000009"
    run_pretraining(_config(folder), tmp_path / "run", verbose=0)
    assert_same_run(trained[2], tmp_path / "run")
    one, other = ((path / "encoder" / "model.safetensors").read_bytes() for path in (trained[2], tmp_path / "run"))
    assert one == other


def test_it_learns(folder, tmp_path):
    """Which words are common, and that texts differ, is learnt in some hundred steps: the loss falls below the baseline."""
    overrides = ("mixing.steps_per_epoch=150", "training.epochs=1", "training.checkpoint_every=0")
    outcome, baseline = run_pretraining(_config(folder, *overrides), tmp_path / "run", verbose=0)
    assert outcome.scores["text"]["masked_loss"] < baseline.masked_loss - 0.1


def test_a_plan_tells_its_steps(folder):
    plan = make_plan(_config(folder), timed=False)
    assert plan["total_steps"] == 12
    assert plan["parameters"]["heads/text"] > 0
    assert plan["warnings"] == []
    assert "pretraining" in plan_table(plan)


def test_tasks_are_written_and_read(trained):
    [task] = trained[0].run.tasks
    assert task.pretraining == PretrainingConfig()
    (trained[2] / "copy.yaml").write_text(dump_tasks([task]))
    assert read_tasks(trained[2] / "copy.yaml") == (task,)
    (trained[2] / "copy.yaml").unlink()


def test_the_baseline_is_the_entropy_of_the_training_frequencies(folder):
    tokenizer = mtdnn.load_encoder("random://layers=1,hidden=16").tokenizer
    sources = {"dev": SourceConfig(str(folder / "dev.jsonl"))}
    task = TaskSpec("text", "pretraining", (), pretraining=PretrainingConfig(), sources=sources)
    dev = tokenize_documents(task, "dev", tokenizer, 48)
    train = np.array([7, 7, 7, 9], np.int32)
    masked = np.concatenate([batch["masked_ids"].numpy().ravel() for batch in evaluation_batches(dev, 5, (48,))[0]])
    masked = masked[masked >= 0]
    probabilities = np.full(tokenizer.vocab_size, 1.0)
    probabilities[[7, 9]] = 4.0, 2.0
    expected = -np.mean(np.log(probabilities[masked] / (tokenizer.vocab_size + 4)))
    assert unigram_loss(train, dev) == pytest.approx(expected)


BAD = {
    "text": ("tasks.text.text=[text]", r"tasks\.text\.text: has no effect on a task of the type pretraining"),
    "max_examples": ("tasks.text.max_examples=5", r"tasks\.text\.max_examples: has no effect"),
    "labels": ("tasks.text.labels=[a, b]", r"tasks\.text\.labels: pretraining has no label names"),
    "head": ("tasks.text.head=linear", r"tasks\.text\.head: 'linear' does not suit pretraining"),
    "share": ("tasks.text.pretraining.masked_share=0", r"masked_share: must be more than 0 and at most 1"),
    "metric": ("tasks.text.main_metric=masked_loss", r"'masked_loss' is better when it is lower"),
    "best": ("training.best_metric=text/masked_loss", r"training\.best_metric: unknown score 'text/masked_loss'"),
    "service": ("data.service=grpc://localhost:1", r"data\.service: makes no batches of running text"),
    "held out": ("tasks.text.dev=train_sea.txt", r"tasks\.text\.dev: .*train_sea\.txt is also trained on"),
    "words": (
        "encoder.source='words://hidden=16,heads=2'",
        r"^encoder\.source: pre-training needs a BERT encoder; received one",
    ),
    "no dev file": ("tasks.text.dev=nothing_*.txt", r"nothing_\*\.txt: no file has such a name"),
}


IGNORED = {
    "rows": "'[:5]'",
    "split": "train",
    "data_dir": "data",
    "header": "false",
    "labels": "{a: b}",
    "ignore_labels": "[a]",
    "gather": "true",
}


@pytest.mark.parametrize("key", IGNORED)
def test_keys_of_sources_that_running_text_cannot_obey_are_refused(folder, key):
    config = _config(folder, f"tasks.text.dev.{key}={IGNORED[key]}")
    with pytest.raises(
        mtdnn.UserError, match=rf"^tasks\.text\.dev\.{key}: has no effect on .* pretraining; remove it$"
    ):
        mtdnn.load_tasks(config)


@pytest.mark.parametrize(
    "overrides",
    [
        ["tasks.text.dev.columns={label: x}"],
        ["tasks.text.columns={label: x}"],
        ["tasks.text.train.columns={text: body}", "tasks.text.train.format=wikipedia"],
    ],
)
def test_columns_that_are_not_read_are_refused(folder, overrides):
    with pytest.raises(mtdnn.UserError, match=r"^tasks\.text\.(dev|train)\.columns\.(label|text): is not read"):
        mtdnn.load_tasks(_config(folder, *overrides))
    [task] = mtdnn.load_tasks(_config(folder, "tasks.text.columns={text: body}", "tasks.text.dev.format=jsonl"))
    assert task.sources["dev"].columns == {"text": "body"}


@pytest.mark.parametrize("case", BAD)
def test_what_makes_no_sense_is_told(folder, tmp_path, monkeypatch, case):
    monkeypatch.chdir(folder)
    override, message = BAD[case]
    with pytest.raises(mtdnn.UserError, match=message):
        run_pretraining(_config(folder, override), tmp_path / "run", verbose=0)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_it_takes_a_run_of_its_own(folder, tmp_path):
    path = write_experiment(tmp_path)
    with pytest.raises(
        mtdnn.UserError, match=r"takes one task, of the type pretraining; received mood \(classification\)"
    ):
        run_pretraining(mtdnn.load_config(path), tmp_path / "run")
    mixed = mtdnn.load_config(path).tasks | _config(folder).tasks
    config = mtdnn.config.replace(_config(folder), tasks=mixed, mixing=mtdnn.config.MixingConfig())
    with pytest.raises(mtdnn.UserError, match=r"tasks\.text: pre-training takes a run of its own"):
        run_experiment(config, tmp_path / "run")
    with pytest.raises(mtdnn.UserError, match=r"tasks\.mood\.pretraining: has no effect"):
        mtdnn.load_tasks(mtdnn.load_config(path, ["tasks.mood.pretraining.whole_words=true"]))


def test_training_tells_which_command_it_is_before_anything_is_done(folder, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mtdnn_tf.train", f"--config={folder / 'pre.yaml'}", f"--model_dir={tmp_path / 'run'}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    [line] = done.stderr.splitlines()
    assert "tasks.text: running text (type: pretraining) is trained by `python -m mtdnn_tf.pretrain`" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", ["dev", "test"])
def test_every_way_of_reading_it_looks_whether_text_is_held_out(folder, split):
    config = _config(folder, f"tasks.text.{split}={folder / 'train_s*.txt'}")
    tokenizer = mtdnn.load_encoder("random://layers=1,hidden=16").tokenizer
    with pytest.raises(mtdnn.UserError, match=rf"tasks\.text\.{split}: .*train_sea\.txt is also trained on"):
        mtdnn.build_mixture(mtdnn.load_tasks(config), tokenizer, config)


def test_it_answers_no_texts_and_is_not_served(trained, tmp_path):
    run = load_run(trained[2])
    with pytest.raises(
        mtdnn.UserError, match=r"tasks\.text: is of the type pretraining: it answers no texts.*/encoder"
    ):
        task_named(run.tasks, "text")
    with pytest.raises(mtdnn.UserError, match=r"tasks\.text: is of the type pretraining: it has nothing to serve"):
        mtdnn.export_saved_model(run.model, run.tasks, run.encoder, tmp_path / "served", "ids")


def test_the_command_prints_scores_beside_the_baseline(trained, folder):
    done = subprocess.run(
        [sys.executable, "-m", "mtdnn_tf.pretrain", "--config=pre.yaml", "--model_dir=run"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "this run is already trained" in done.stdout
    assert f"without context: masked_loss {trained[1].masked_loss:.2f}" in done.stdout
    assert "--set=encoder.source=run/encoder" in done.stdout


@pytest.mark.slow
def test_two_devices_take_the_steps_of_one(folder, tmp_path):
    settings = ("encoder.dropout=0", "runtime.encoder=reference", "training.log_every=1", "training.epochs=1")
    losses = []
    for devices, more in ((1, ()), (2, ("runtime.strategy=mirrored",))):
        command = [sys.executable, "-m", "tests.nine_tasks", str(folder / "pre.yaml"), str(tmp_path / str(devices))]
        subprocess.run([*command, str(devices), *settings, *more], check=True, capture_output=True)
        lines = (tmp_path / str(devices) / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["losses"]["text"] for line in lines if '"train"' in line])
    assert len(losses[0]) == 6
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


CONFIGS = sorted((REPOSITORY / "configs" / "pretraining").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_configurations_can_be_read(path, monkeypatch, tmp_path):
    monkeypatch.setenv("MTDNN_TEXT", str(tmp_path))
    [task] = mtdnn.load_tasks(mtdnn.load_config(path))
    assert task.type == "pretraining"
    assert set(task.sources) == {"train", "dev"}
