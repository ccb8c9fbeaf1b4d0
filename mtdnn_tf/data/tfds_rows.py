"""Rows of prepared tensorflow-datasets, in the order in which they lie on the disk."""

from __future__ import annotations

import functools
import operator
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from mtdnn_tf.config import SourceConfig
from mtdnn_tf.data.lines import shortened
from mtdnn_tf.data.pipelines import without_tuner
from mtdnn_tf.data.row_slices import in_common
from mtdnn_tf.data.rows import Table
from mtdnn_tf.errors import UserError, unknown_name

# <builder>[:<version>][:<split>]; a split starts with a letter (train, train[:10%]), a version with a digit or a star.
_PATH = re.compile(
    r"tfds:(?P<builder>([a-z0-9]+://)?[^:]+(:[\d*][\d.*]*)?)(:(?P<split>[A-Za-z_].*))?", re.ASCII | re.DOTALL
)
_BATCH = 1024


def read_tfds(source: SourceConfig) -> Table:
    """Open one split of a dataset: `tfds:<builder>[:<split>]`, or `tfds:/folder/of/builder[/1.0.0][:<split>]`.

    Only scalar features become columns, nested ones by dotted names (`translation.en`); classes are given by name, and -1 (as
    in GLUE's test splits) as no label. A text that is not valid UTF-8 stays bytes, so that only a task that reads it minds.
    A dataset that is not prepared yet is downloaded and prepared where there is a network.

    Raises:
        UserError: here or while rows are taken: an unknown dataset or split, nothing prepared and no network, damaged data.
    """
    name, split = split_path(source)
    builder = _builder(name, source.data_dir)
    if split is None:
        raise UserError(f"tfds:{name}: no split named; add one as in `tfds:{name}:{next(iter(builder.info.splits))}`")
    origin = f"tfds:{name}:{split}"
    dataset = _dataset(builder, origin, split)
    specs = dict(_flat(dataset.element_spec))
    scalars = {name: path for name, (path, spec) in specs.items() if _is_scalar(spec)}
    features = {name: _at(builder.info.features, path) for name, path in scalars.items()}
    rows = _rows(origin, features, dataset.map(lambda row: {name: _at(row, path) for name, path in scalars.items()}))
    return Table(
        origin,
        rows,
        tuple(scalars),
        len(scalars),
        by_name=True,
        no_label=frozenset({"", "-1", "-1.0"}),
        unreadable=frozenset(specs) - frozenset(scalars),
    )


def dataset_files(source: SourceConfig) -> list[str]:
    """Return the paths of a prepared dataset's files, in alphabetical order.

    Raises:
        UserError: as `read_tfds`.
    """
    folder = _builder(split_path(source)[0], source.data_dir).data_path
    return sorted(str(path) for path in folder.iterdir())


def shared_records(one: SourceConfig, other: SourceConfig) -> int:
    """Return how many records of a dataset two slices of it have in common.

    Raises:
        UserError: as `read_tfds`.
    """
    name = split_path(one)[0]
    builder = _builder(name, one.data_dir)
    found: list[list[tuple[str, range]]] = []
    for source in (one, other):
        split = split_path(source)[1]
        try:
            parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(builder.info.splits)
        except Exception as error:  # split expressions are parsed here
            raise UserError(f"tfds:{name}:{split}: {_reason(error)}") from None
        sizes = {part.splitname: builder.info.splits[part.splitname].num_examples for part in parts}
        found.append([(part.splitname, range(sizes[part.splitname])[part.from_ : part.to]) for part in parts])
    own, theirs = found
    return sum(in_common(mine, other) for name, mine in own for other_name, other in theirs if name == other_name)


def _builder(name: str, data_dir: str | None) -> Any:
    return _opened_builder(name) if _is_folder(name) else _prepared_builder(name, data_dir)


def split_path(source: SourceConfig) -> tuple[str, str | None]:
    """Return builder (with version, if any) and split of a source; the split stands in its path or in `split`.

    Raises:
        UserError: the path has another form, or names another split than `split`.
    """
    path = source.path if source.path.startswith("tfds:") else f"tfds:{source.path}"
    match = _PATH.fullmatch(path)
    if match is None:
        raise UserError(f"{path}: must be tfds:<builder> or tfds:<builder>:<split>, as in tfds:glue/rte:train")
    name, split = match["builder"], match["split"]
    if split and source.split and split != source.split:
        raise UserError(f"{path}: the path names split {split!r}, but `split` is {source.split!r}; keep one of them")
    return os.path.expanduser(name), split or source.split


def _is_folder(name: str) -> bool:
    return os.path.isabs(name) or "://" in name


def _opened_builder(folder: str) -> Any:
    try:
        return tfds.builder_from_directory(_version_folder(folder))
    except Exception as error:  # whatever a file system or a foreign feature description raises
        raise UserError(
            f"tfds:{folder}: no prepared dataset ({_reason(error)}); name the builder's folder, or a version's with dataset_info.json in it"
        ) from None


def _version_folder(folder: str) -> str:
    """Return the folder of the newest version in a builder's folder; any other folder as it is."""
    versions = [name for name in tf.io.gfile.listdir(folder) if tfds.core.Version.is_valid(name.strip("/"))]
    newest = max((tfds.core.Version(name.strip("/")) for name in versions), default=None)
    return folder if newest is None else os.path.join(folder, str(newest))


def _prepared_builder(name: str, data_dir: str | None) -> Any:
    where = f"tfds:{name}"
    try:
        builder = tfds.builder(name, data_dir=data_dir and os.path.expanduser(data_dir), try_gcs=False)
    except tfds.core.DatasetNotFoundError:
        raise UserError(_unknown_dataset(name)) from None
    except Exception as error:  # builders are foreign code: unknown configurations and versions raise what they like
        raise UserError(f"{where}: cannot be opened ({_reason(error)}){_configurations(name)}") from None
    if not builder.is_prepared():
        _prepare(builder, where)
    return builder


def _unknown_dataset(name: str) -> str:
    dataset = re.split("[/:]", name)[0]
    message = unknown_name(f"tfds:{name}", "dataset", dataset, tfds.list_builders())
    return (
        message.split(" Known:")[0]
        + " See tfds.list_builders(), or name a prepared folder: tfds:/path/to/builder/1.0.0."
    )


def _configurations(name: str) -> str:
    known = tfds.builder_cls(re.split("[/:]", name)[0]).builder_configs
    return f"; configurations: {shortened(', '.join(known), 300)}" if known else ""


def _prepare(builder: Any, where: str) -> None:
    folder = builder.data_path
    todo = f"run `tfds build {where.removeprefix('tfds:')}` where there is a network and name its folder in `data_dir`"
    if not _has_network():
        raise UserError(f"{where}: not prepared in {folder}, and there is no network to download it; {todo}")
    try:
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except Exception as error:  # downloads and foreign parsers raise whatever they like
        raise UserError(f"{where}: cannot be prepared in {folder} ({_reason(error)}); {todo}") from None


def _has_network() -> bool:
    """Ask once and shortly: without a network, tensorflow-datasets itself retries for minutes."""
    request = urllib.request.Request("https://storage.googleapis.com", method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=5):
            return True
    except urllib.error.HTTPError:  # an answer, though an unfriendly one
        return True
    except OSError:
        return False


def _dataset(builder: Any, origin: str, split: str) -> tf.data.Dataset:
    known = list(builder.info.splits)
    if split.isidentifier() and split not in [*known, "all"]:
        raise UserError(unknown_name(origin, "split", split, known))
    try:
        # One file after the other: rows keep the order of the disk, and record numbers mean something.
        config = tfds.ReadConfig(interleave_cycle_length=1)
        count = builder.info.splits[split].num_examples
        dataset = builder.as_dataset(split=split, shuffle_files=False, read_config=config)
    except Exception as error:  # split expressions are parsed here
        raise UserError(f"{origin}: {_reason(error)} Splits: {', '.join(known)}.") from None
    if count < 1:
        raise UserError(f"{origin}: this slice holds no row; expected at least one")
    if not isinstance(dataset.element_spec, dict):
        raise UserError(f"{origin}: its rows are not dictionaries of features; only such datasets can be read")
    return dataset


def _is_scalar(spec: Any) -> bool:
    return isinstance(spec, tf.TensorSpec) and spec.shape.rank == 0


def _flat(spec: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[tuple[str, ...], Any]]]:
    """Yield (dotted name, (path, spec)) of every feature, those that hold others too."""
    if path:
        yield ".".join(path), (path, spec)
    if isinstance(spec, dict):
        for name, inner in spec.items():
            yield from _flat(inner, (*path, name))


def _at(nested: Any, path: tuple[str, ...]) -> Any:
    return functools.reduce(operator.getitem, path, nested)


def _rows(origin: str, features: dict[str, Any], dataset: tf.data.Dataset) -> Iterator[tuple[int, dict[str, Any]]]:
    record = 0
    batches = without_tuner(dataset.batch(_BATCH)).as_numpy_iterator()
    while True:
        try:
            batch = next(batches, None)
        except tf.errors.OpError as error:
            raise UserError(
                f"{origin}:{record + 1}: the data are damaged here or soon after ({_reason(error)}); prepare them again"
            ) from None
        if batch is None:
            return
        columns = {name: _readable(features[name], values) for name, values in batch.items()}
        for values in zip(*columns.values(), strict=True):
            record += 1
            yield record, dict(zip(columns, values, strict=True))


def _readable(feature: Any, values: np.ndarray) -> list[Any]:
    if isinstance(feature, tfds.features.ClassLabel):
        known = range(feature.num_classes or 0)
        return [feature.int2str(value) if value in known else str(value) for value in values]
    return [_decoded(value) if isinstance(value, bytes) else value for value in values]


def _decoded(value: bytes) -> str | bytes:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value


def _reason(error: BaseException) -> str:
    # Its own report of a failure begins with all arguments, paths included.
    lines = re.sub(r'^Failed to construct dataset .*?\}": ', "", str(error).strip()).splitlines()
    return shortened(lines[0], 200) if lines else type(error).__name__
