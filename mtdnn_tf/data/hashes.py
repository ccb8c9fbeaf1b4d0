"""Hashes of the files that examples are read from."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from mtdnn_tf.config import SourceConfig
from mtdnn_tf.errors import UserError
from mtdnn_tf.files import matching_files, sha256
from mtdnn_tf.tasks import TaskSpec


def source_hashes(tasks: Sequence[TaskSpec]) -> dict[str, str]:
    """Return the first 12 hexadecimal digits of the sha256 of every data file of the tasks, by path.

    Of a dataset of tensorflow-datasets these are the files that it was prepared in, where they lie on this machine's disks.
    """
    paths = {path for task in tasks for source in task.sources.values() for path in _files_of(source)}
    return {path: _digest(Path(path)) for path in sorted(paths) if Path(path).is_file()}


def _files_of(source: SourceConfig) -> list[str]:
    if not source.is_dataset:
        return matching_files(source.path)
    from mtdnn_tf.data.tfds_rows import dataset_files  # with TensorFlow, which who starts runs does without

    try:
        return dataset_files(source)
    except UserError:  # not there any more
        return []


def _digest(path: Path) -> str:
    stat = path.stat()
    return _digest_as_of(path, stat.st_size, stat.st_mtime_ns)


@functools.cache  # runs of a study have files in common, which its reports and its archive ask for again
def _digest_as_of(path: Path, size: int, changed: int) -> str:
    return sha256(path)[:12]
