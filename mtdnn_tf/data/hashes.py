"""Hashes of the files that examples are read from."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

from mtdnn_tf.config import SourceConfig
from mtdnn_tf.errors import UserError
from mtdnn_tf.files import matching_files, sha256
from mtdnn_tf.tasks import TaskSpec


def source_hashes(tasks: Sequence[TaskSpec], with_datasets: bool = True) -> dict[str, str]:
    """Return the first 12 hexadecimal digits of the sha256 of every data file of the tasks, by path.

    Args:
        tasks: whose files are wanted, of all splits.
        with_datasets: of a dataset of tensorflow-datasets, too, the files that it was prepared in, where they lie on this machine's
            disks; finding them imports TensorFlow.
    """
    sources = [source for task in tasks for source in task.sources.values() if with_datasets or not source.is_dataset]
    paths = {path for source in sources for path in _files_of(source)}
    return {path: _digest(Path(path)) for path in sorted(paths) if Path(path).is_file()}


def other_data(there: Mapping[str, str], here: Mapping[str, str]) -> str:
    """Return which file is the first that two selections of hashes differ in, and how; nothing where they are the same.

    Args:
        there: of an earlier time or another machine.
        here: as files are now.
    """
    for path in sorted(there.keys() | here.keys()):
        one, other = there.get(path, "no such file"), here.get(path, "no such file")
        if one != other:
            return f"sha256 of {path}: {one}; here, now: {other}"
    return ""


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
