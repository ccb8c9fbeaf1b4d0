"""The token cache: the same rows, found again, made again when anything changes, safe with others at work."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import mtdnn_tf as mtdnn
from mtdnn_tf.config import DataConfig
from mtdnn_tf.data import cache
from mtdnn_tf.data.cache import tokenized_split
from mtdnn_tf.data.text import Tokenizer
from tests.small import TINY


@pytest.fixture(scope="module")
def tokenizer():
    return mtdnn.load_encoder(TINY).tokenizer


@pytest.fixture
def tasks(experiment):
    return {task.name: task for task in mtdnn.load_tasks(mtdnn.load_config(experiment))}


@pytest.fixture
def data(tmp_path):
    return DataConfig(max_length=32, cache_dir=str(tmp_path / "cache"))


@pytest.fixture
def readings(monkeypatch):
    """The splits that are read from their sources."""
    seen = []
    read = cache.read_examples
    monkeypatch.setattr(cache, "read_examples", lambda task, split: seen.append(task.name) or read(task, split))
    return seen


def _same(one, other):
    for field in dataclasses.fields(one):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype, field.name
            np.testing.assert_array_equal(left, right)
        else:
            assert left == right, field.name


@pytest.mark.parametrize("name", ["mood", "follows", "close", "pick"])
def test_a_cached_split_is_the_split(tasks, tokenizer, data, readings, name, monkeypatch):
    monkeypatch.setattr(cache, "_ROWS_PER_RECORD", 2)
    monkeypatch.setattr(cache, "_RECORDS_PER_SHARD", 3)
    plain = tokenized_split(tasks[name], "train", tokenizer, dataclasses.replace(data, cache_dir=""))
    written = tokenized_split(tasks[name], "train", tokenizer, data)
    assert len(readings) == 2
    found = tokenized_split(tasks[name], "train", tokenizer, data)
    assert len(readings) == 2
    _same(plain, written)
    _same(plain, found)
    [entry] = Path(data.cache_dir).iterdir()
    assert len(list(entry.glob("tokens-*-of-0000*.tfrecord"))) > 1


def _changed(change, tasks, tokenizer, data):
    task = tasks["mood"]
    source = task.sources["train"]
    if change == "a word":
        path = Path(source.path)
        path.write_text(path.read_text(encoding="utf-8").replace("milk", "silk"), encoding="utf-8")
    if change == "max_length":
        data = dataclasses.replace(data, max_length=31)
    if change == "labels":
        task = dataclasses.replace(task, labels=task.labels[::-1])
    if change == "max_examples":
        task = dataclasses.replace(task, max_examples=5)
    if change == "sample_seed":
        task = dataclasses.replace(task, sample_seed=5)
    if change == "pair_order":
        task = dataclasses.replace(task, pair_order="hypothesis_first")
    if change == "columns":
        task = dataclasses.replace(task, sources={"train": dataclasses.replace(source, columns={"label": "label"})})
    if change == "vocabulary":
        tokenizer = Tokenizer([*tokenizer.vocab, "##zzz"], tokenizer.lowercase)
    if change == "case":
        tokenizer = Tokenizer(tokenizer.vocab, not tokenizer.lowercase)
    return task, tokenizer, data


CHANGES = [
    "a word",
    "max_length",
    "labels",
    "max_examples",
    "sample_seed",
    "pair_order",
    "columns",
    "vocabulary",
    "case",
]


@pytest.mark.parametrize("change", CHANGES)
def test_it_is_made_again_when_anything_changes(tasks, tokenizer, data, readings, change):
    tokenized_split(tasks["mood"], "train", tokenizer, data)
    task, tokenizer, data = _changed(change, tasks, tokenizer, data)
    again = tokenized_split(task, "train", tokenizer, data)
    assert readings == ["mood", "mood"]
    _same(again, tokenized_split(task, "train", tokenizer, dataclasses.replace(data, cache_dir="")))


def test_batch_size_and_seed_do_not_matter_to_it(tasks, tokenizer, data, readings):
    tokenized_split(tasks["mood"], "train", tokenizer, data)
    tokenized_split(tasks["mood"], "train", tokenizer, dataclasses.replace(data, batch_size=3, buckets=(8, 32)))
    assert readings == ["mood"]


@pytest.mark.parametrize("damage", ["torn shard", "flipped byte", "missing shard", "no meta", "bad meta"])
def test_a_damaged_entry_is_told_and_made_again(tasks, tokenizer, data, readings, damage, capsys):
    whole = tokenized_split(tasks["mood"], "train", tokenizer, data)
    [entry] = Path(data.cache_dir).iterdir()
    [shard], meta = entry.glob("*.tfrecord"), entry / "meta.json"
    content = shard.read_bytes()
    if damage == "torn shard":
        shard.write_bytes(content[:-5])
    elif damage == "flipped byte":
        shard.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
    elif damage == "missing shard":
        shard.unlink()
    elif damage == "no meta":
        meta.unlink()
    else:
        meta.write_text("{", encoding="utf-8")
    _same(whole, tokenized_split(tasks["mood"], "train", tokenizer, data))
    assert readings == ["mood", "mood"]
    told = capsys.readouterr().err
    assert told == "" if damage == "no meta" else ("damaged and is made again" in told and told.count("\n") == 1)
    _same(whole, tokenized_split(tasks["mood"], "train", tokenizer, data))
    assert len(readings) == 2


def test_a_bad_source_leaves_no_entry(tasks, tokenizer, data):
    Path(tasks["mood"].sources["train"].path).write_text("text\tlabel\nfine\tperhaps\n", encoding="utf-8")
    with pytest.raises(mtdnn.UserError, match=r"mood\.tsv:2: "):
        tokenized_split(tasks["mood"], "train", tokenizer, data)
    assert not Path(data.cache_dir).exists()


def test_whole_experiments_use_it(experiment, tmp_path, readings):
    mixtures = []
    for _ in range(2):
        config = mtdnn.load_config(experiment, [f"data.cache_dir={tmp_path / 'shared'}"])
        mixtures.append(mtdnn.build_mixture(mtdnn.load_tasks(config), mtdnn.load_encoder(TINY), config))
    assert sorted(readings) == ["close", "follows", "mood", "pick"]
    for one, other in zip(*(mixture.epoch_dataset(0) for mixture in mixtures), strict=True):
        np.testing.assert_array_equal(one["token_ids"], other["token_ids"])


FILL = """
import sys, mtdnn_tf as mtdnn
from mtdnn_tf.data import cache
from mtdnn_tf.data.cache import tokenized_split
config = mtdnn.load_config(sys.argv[1], ["data.cache_dir=" + sys.argv[2]])
cache._ROWS_PER_RECORD = cache._RECORDS_PER_SHARD = 1
tasks, tokenizer = mtdnn.load_tasks(config), mtdnn.load_encoder(config.encoder.source).tokenizer
print("ready", flush=True)
while True:
    for task in tasks:
        split = tokenized_split(task, "train", tokenizer, config.data)
        print(task.name, len(split.token_ids), flush=True)
    if len(sys.argv) > 3:
        break
    import pathlib, shutil
    for entry in pathlib.Path(sys.argv[2]).glob("[!.]*"):
        shutil.rmtree(entry, ignore_errors=True)
"""


def _fill(*arguments):
    return subprocess.Popen([sys.executable, "-c", FILL, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def test_runs_that_share_it_and_one_that_is_killed_leave_it_whole(experiment, tmp_path):
    """One process fills and empties the cache until it is killed; two others read it meanwhile and after."""
    folder = tmp_path / "cache"
    restless = _fill(experiment, folder)
    assert restless.stdout.readline() == "ready\n"
    readers = [_fill(experiment, folder, "once") for _ in range(2)]
    outputs = [reader.communicate(timeout=200)[0] for reader in readers]
    os.kill(restless.pid, signal.SIGKILL)
    restless.communicate()
    last, _ = _fill(experiment, folder, "once").communicate(timeout=200)
    assert [reader.returncode for reader in readers] == [0, 0]
    assert outputs == [last, last]
    assert last.count("\n") == 5
    assert not list(folder.glob(".*")), time.time()
