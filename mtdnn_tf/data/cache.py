"""Tokenised splits kept on disk as sharded TFRecord, found again by a hash of all that they depend on."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mtdnn_tf.config import DataConfig, SourceConfig
from mtdnn_tf.data.batches import TokenizedTask, tokenize_task
from mtdnn_tf.data.pipelines import PARALLEL_CALLS, without_tuner
from mtdnn_tf.data.pretraining import tokenize_documents
from mtdnn_tf.data.sources import cut_from_the_same, read_examples
from mtdnn_tf.data.text import Tokenizer
from mtdnn_tf.data.tfds_rows import dataset_files
from mtdnn_tf.files import atomic_directory
from mtdnn_tf.task_types import DOCUMENT_TYPES
from mtdnn_tf.tasks import TaskSpec

_VERSION = 1  # of the layout of an entry, and of what makes rows of texts: raise it when either changes
_ROWS_PER_RECORD = 1024
_RECORDS_PER_SHARD = 64
_META = "meta.json"
_WHOLE_NUMBERS = ("token_ids", "lengths", "first_lengths", "groups")
_TASK_FIELDS = ("name", "type", "text", "labels", "range", "pair_order", "max_examples", "sample_seed")


def tokenized_split(task: TaskSpec, split: str, tokenizer: Tokenizer, data: DataConfig) -> TokenizedTask:
    """Read and tokenise one split of a task, or take it from `data.cache_dir` where nothing it depends on has changed.

    Running text is not kept there.

    An entry is written beside its place and renamed, so that any number of runs may share a cache, and one that is killed
    leaves nothing half-written. A damaged entry is told and made again.

    Raises:
        UserError: the split has no source, or the source is bad (see `read_examples`); the cache cannot be written.
    """
    if task.type in DOCUMENT_TYPES:
        return tokenize_documents(task, split, tokenizer, data.max_length)
    if not data.cache_dir or split not in task.sources:
        return tokenize_task(read_examples(task, split), task, tokenizer, data.max_length)
    what = _dependencies(task, split, tokenizer, data.max_length)
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:20]
    folder = Path(data.cache_dir) / f"{task.name}_{split}_{key}"
    found = _read(folder, task, tokenizer, data.max_length) if (folder / _META).is_file() else None
    if found is not None:
        return found
    tokenized = tokenize_task(read_examples(task, split), task, tokenizer, data.max_length)
    _write(folder, tokenized, what)
    return tokenized


def _dependencies(task: TaskSpec, split: str, tokenizer: Tokenizer, max_length: int) -> dict[str, Any]:
    source = task.sources[split]
    spec = asdict(task)
    others = cut_from_the_same(task, split)
    return {
        "version": _VERSION,
        "split": split,
        "max_length": max_length,
        "task": {name: spec[name] for name in _TASK_FIELDS},
        "source": asdict(source),
        "content": _content_hash(source),
        "tokenizer": tokenizer.fingerprint,
        # Reading refuses splits that share rows; an entry stands for such a reading.
        **({"others": [asdict(task.sources[other]) for other in others]} if others else {}),
    }


def _content_hash(source: SourceConfig) -> str:
    """Return the hash of the bytes that a source reads; of what cannot be opened, whose reader says why, an empty one."""
    paths = dataset_files(source) if source.is_dataset else [source.path]
    digest = hashlib.sha256()
    for path in paths:
        digest.update(os.path.basename(path).encode())
        if os.path.isfile(path):
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _write(folder: Path, tokenized: TokenizedTask, what: dict[str, Any]) -> None:
    records = [_record(tokenized, start) for start in range(0, len(tokenized.lengths), _ROWS_PER_RECORD)]
    shards = [records[start : start + _RECORDS_PER_SHARD] for start in range(0, len(records), _RECORDS_PER_SHARD)]
    names = [f"tokens-{index:05d}-of-{len(shards):05d}.tfrecord" for index in range(len(shards))]
    meta = {
        "rows": len(tokenized.lengths),
        "tokens": len(tokenized.token_ids),
        "label_dtype": None if tokenized.labels is None else str(tokenized.labels.dtype),
        "has_groups": tokenized.groups is not None,
        "skipped": list(tokenized.skipped),
        "shards": names,
        "made_of": what,
    }
    with atomic_directory(folder, replace=True) as temporary:
        for name, shard in zip(names, shards, strict=True):
            with tf.io.TFRecordWriter(str(temporary / name)) as writer:
                for record in shard:
                    writer.write(record)
        (temporary / _META).write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")


def _record(tokenized: TokenizedTask, start: int) -> bytes:
    """Return some rows as one serialised `tf.train.Example`: their ids one after the other, and a number each of the rest."""
    rows = slice(start, start + _ROWS_PER_RECORD)
    splits = tokenized.row_splits[start : start + _ROWS_PER_RECORD + 1]
    whole: dict[str, Any] = {
        "token_ids": tokenized.token_ids[splits[0] : splits[-1]],
        "lengths": np.diff(splits),
        "first_lengths": tokenized.first_lengths[rows],
        "groups": [] if tokenized.groups is None else tokenized.groups[rows],
    }
    features = {name: tf.train.Feature(int64_list=tf.train.Int64List(value=values)) for name, values in whole.items()}
    labels: Any = [] if tokenized.labels is None else tokenized.labels[rows]
    features["labels"] = tf.train.Feature(float_list=tf.train.FloatList(value=labels))
    message: bytes = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(
        deterministic=True
    )
    return message


def _read(folder: Path, task: TaskSpec, tokenizer: Tokenizer, max_length: int) -> TokenizedTask | None:
    """Return what an entry holds, or None where it is damaged, or was replaced while it was read."""
    try:
        meta = json.loads((folder / _META).read_text(encoding="utf-8"))
        arrays = _arrays([str(folder / name) for name in meta["shards"]])
        if (meta["rows"], meta["tokens"]) != (len(arrays["lengths"]), len(arrays["token_ids"])):
            raise ValueError("rows are missing")
        dtype = meta["label_dtype"]
        return TokenizedTask(
            task=task,
            token_ids=arrays["token_ids"].astype(np.int32),
            row_splits=np.concatenate([[0], np.cumsum(arrays["lengths"])]).astype(np.int64),
            first_lengths=arrays["first_lengths"].astype(np.int32),
            labels=None if dtype is None else arrays["labels"].astype(dtype),
            groups=arrays["groups"].astype(np.int32) if meta["has_groups"] else None,
            max_length=max_length,
            pad_id=tokenizer.pad_id,
            skipped=tuple(meta["skipped"]),
        )
    except (OSError, ValueError, KeyError, TypeError, tf.errors.OpError) as error:
        reason = re.sub(r"\s+", " ", str(error))[:200]
        print(f"{folder}: this cache entry is damaged and is made again ({reason})", file=sys.stderr)
        return None


def _arrays(paths: list[str]) -> dict[str, np.ndarray]:
    features: dict[str, Any] = {name: tf.io.RaggedFeature(tf.int64) for name in _WHOLE_NUMBERS}
    features["labels"] = tf.io.RaggedFeature(tf.float32)
    parts = list(_parsed(paths, features))
    return {name: np.concatenate([part[name].numpy() for part in parts]) for name in features}


def _parsed(paths: list[str], features: dict[str, Any]) -> Iterator[dict[str, Any]]:
    records = tf.data.TFRecordDataset(paths, num_parallel_reads=1)  # one after the other: rows keep their order
    yield from without_tuner(records.map(lambda record: tf.io.parse_single_example(record, features), PARALLEL_CALLS))
