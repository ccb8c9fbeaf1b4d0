"""Well-known tasks ready to use: GLUE, SNLI, SciTail, FDU-MTL's reviews; what they are, and how their files are laid out.

Label orders and task dropout as in the paper and the code of 2019; metrics as on the GLUE leaderboard; text columns named
like the features of tensorflow-datasets. Labels are mapped by name: sources disagree on the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import PurePath

from mtdnn_tf.config import SourceConfig, TaskConfig
from mtdnn_tf.config_paths import TFDS


@dataclass(frozen=True)
class Layout:
    """Which columns of a file are the task's, by header name, or by 0-based position where there is no header."""

    text: tuple[str | int, ...]
    label: str | int = "label"
    header: bool = True


@dataclass(frozen=True)
class ReadyMade:
    """A task and its published files."""

    task: TaskConfig
    layout: Layout
    layouts: Mapping[str, Layout] = field(default_factory=dict)  # splits that are laid out differently
    labels: Mapping[str, str] = field(default_factory=dict)  # what stands in the files, where it is no label name
    ignore_labels: tuple[str, ...] = ()
    tfds_splits: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # by builder, where not the usual ones


_NLI = ("contradiction", "neutral", "entailment")
_ENTAILMENT = ("not_entailment", "entailment")
_PREMISE = ("premise", "hypothesis")
_SENTENCES = ("sentence1", "sentence2")
_F1 = {"metrics": ("accuracy", "f1", "accuracy_f1"), "main_metric": "accuracy_f1"}
_NO_GOLD = ("-", "-1")  # no majority among the annotators: in the files, and in tensorflow-datasets
_NLI_LAYOUT = Layout(_SENTENCES, "gold_label")


def _classes(text: tuple[str, ...], labels: tuple[str, ...], **more: object) -> TaskConfig:
    return replace(TaskConfig(type="classification", text=text, labels=labels), **more)  # type: ignore[arg-type]


def _digits(*names: str) -> dict[str, str]:
    return {str(digit): name for digit, name in enumerate(names)}


def _mnli(part: str, **more: object) -> ReadyMade:
    splits = {"train": "train", "dev": f"validation_{part}", "test": f"test_{part}"}
    task = _classes(_PREMISE, _NLI, **more)
    return ReadyMade(task, _NLI_LAYOUT, ignore_labels=("-",), tfds_splits={"glue/mnli": splits})


READY_MADE: dict[str, ReadyMade] = {
    "cola": ReadyMade(
        _classes(
            ("sentence",), ("unacceptable", "acceptable"), metrics=("matthews",), main_metric="matthews", dropout=0.05
        ),
        Layout((3,), 1, header=False),
        layouts={"test": Layout(("sentence",))},
        labels=_digits("unacceptable", "acceptable"),
    ),
    "sst2": ReadyMade(
        _classes(("sentence",), ("negative", "positive")),
        Layout(("sentence",)),
        labels=_digits("negative", "positive"),
    ),
    "mrpc": ReadyMade(
        _classes(_SENTENCES, ("not_equivalent", "equivalent"), **_F1),
        Layout(("#1 String", "#2 String"), "Quality"),
        labels=_digits("not_equivalent", "equivalent"),
    ),
    "stsb": ReadyMade(
        TaskConfig(
            type="regression",
            text=_SENTENCES,
            range=(0.0, 5.0),
            metrics=("pearson", "spearman", "pearson_spearman"),
            main_metric="pearson_spearman",
        ),
        Layout(_SENTENCES, "score"),
    ),
    "qqp": ReadyMade(
        _classes(("question1", "question2"), ("not_duplicate", "duplicate"), **_F1),
        Layout(("question1", "question2"), "is_duplicate"),
        labels=_digits("not_duplicate", "duplicate"),
    ),
    "mnli": _mnli("matched", dropout=0.3),
    "mnli_mismatched": _mnli("mismatched", head_of="mnli"),
    "qnli": ReadyMade(_classes(("question", "sentence"), _ENTAILMENT), Layout(("question", "sentence"))),
    "rte": ReadyMade(_classes(_SENTENCES, _ENTAILMENT), Layout(_SENTENCES)),
    "wnli": ReadyMade(_classes(_SENTENCES, _ENTAILMENT), Layout(_SENTENCES), labels=_digits(*_ENTAILMENT)),
    "ax": ReadyMade(
        _classes(_PREMISE, _NLI, head_of="mnli", metrics=("matthews", "accuracy"), main_metric="matthews"),
        Layout(_SENTENCES),
    ),
    "snli": ReadyMade(_classes(_PREMISE, _NLI), _NLI_LAYOUT, ignore_labels=_NO_GOLD),
    "scitail": ReadyMade(_classes(_PREMISE, ("neutral", "entails")), Layout(_SENTENCES)),
    "fdu_mtl": ReadyMade(  # any of its sixteen (Liu, Qiu and Huang 2017)
        _classes(("text",), ("negative", "positive")),
        Layout((1,), 0, header=False),
        labels=_digits("negative", "positive"),
    ),
}

_TFDS_SPLITS = {"train": "train", "dev": "validation", "test": "test"}


def with_defaults(task: TaskConfig, ready: ReadyMade) -> TaskConfig:
    """Return the task with what the user left open taken from the ready-made one."""
    unset = {item.name for item in fields(task) if getattr(task, item.name) is None}
    return replace(task, **{name: getattr(ready.task, name) for name in unset})


def complete_source(
    source: SourceConfig, split: str, text: tuple[str, ...], ready: ReadyMade | None = None
) -> SourceConfig:
    """Return the source with what the user left open about its layout filled in.

    Args:
        source: as the user wrote it.
        split: train, dev or test.
        text: the task's own names of its text columns.
        ready: the ready-made task whose files it reads, if any.
    """
    if source.path.startswith(TFDS):
        return _complete_tfds(source, split, text, ready)
    return _complete_file(source, split, text, ready) if ready else source


def _complete_tfds(source: SourceConfig, split: str, text: tuple[str, ...], ready: ReadyMade | None) -> SourceConfig:
    builder, *rest = source.path.removeprefix(TFDS).split(":")  # a version, a split, or both
    if source.split is None and not any(part[:1].isalpha() for part in rest):
        splits = ready.tfds_splits.get(builder, _TFDS_SPLITS) if ready else _TFDS_SPLITS
        source = replace(source, split=splits[split])
    if ready is None:
        return source
    features = ready.task.text or ()
    renamed = {own: feature for own, feature in zip(text, features, strict=True) if own != feature}
    return replace(
        source,
        columns={**renamed, **source.columns},
        ignore_labels=source.ignore_labels or ready.ignore_labels,
    )


def _complete_file(source: SourceConfig, split: str, text: tuple[str, ...], ready: ReadyMade) -> SourceConfig:
    layout, jsonl = ready.layouts.get(split, ready.layout), _is_jsonl(source)
    # Positions mean nothing in JSON lines; and who names columns or another kind of header has other files.
    if not source.columns and source.header in (None, layout.header) and (layout.header or not jsonl):
        columns = dict(zip(text, layout.text, strict=True)) | {"label": layout.label}
        source = replace(source, header=None if jsonl else layout.header, columns=columns)
    return replace(
        source, labels=source.labels or ready.labels, ignore_labels=source.ignore_labels or ready.ignore_labels
    )


def _is_jsonl(source: SourceConfig) -> bool:
    ending = PurePath(source.path.lower().removesuffix(".gz")).suffix
    return source.format == "jsonl" or (source.format == "auto" and ending in (".jsonl", ".json"))
