"""One task-definition file of the original MT-DNN program (`*_task_def.yml`): its keys, its names, what they mean here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from mtdnn_tf.config_build import build, one_of, share
from mtdnn_tf.config_tree import Branch, Leaf, Node, parse_yaml, read_text
from mtdnn_tf.errors import UserError, unknown_name

# Names that the original misspells, and their correct spelling, which other programs write.
_RESPELLED = {
    "Sequence": "Seqence",
    "SequenceLabeling": "SeqenceLabeling",
    "SpanSequenceLabeling": "SpanSeqenceLabeling",
    "SequenceGeneration": "SeqenceGeneration",
    "SequenceGenerationMRC": "SeqenceGenerationMRC",
    "EncSequenceGeneration": "EncSeqenceGeneration",
}
_FORMATS = (
    *("PremiseOnly", "PremiseAndOneHypothesis", "PremiseAndMultiHypothesis", "Seqence", "Sequence", "MLM", "MRC"),
    *("CLUE_CLASSIFICATION", "CLUE_SPAN", "CLUE_SEQ", "CLUE_GEN", "ClozeChoice"),
)
_TYPES = (
    *("Classification", "Regression", "Ranking", "Span", "SpanYN", "SpanClassification", "SpanClassificationYN"),
    *("MaskLM", "ClozeChoice", *_RESPELLED.values(), *(name for name in _RESPELLED if name != "Sequence")),
)
_LOSSES = (
    *("CeCriterion", "MseCriterion", "RankCeCriterion", "SpanCeCriterion", "SeqCeCriterion", "MlmCriterion"),
    *("KlCriterion", "SymKlCriterion", "NsKlCriterion", "NsSymKlCriterion", "JSCriterion", "HLCriterion"),
)
_METRICS = (
    *("ACC", "F1", "MCC", "Pearson", "Spearman", "AUC", "SeqEval", "SeqEvalList", "EmF1", "EmF12"),
    *("F1MAC", "F1MIC", "CMAT", "NERACC"),
)
# Where raw data lie, and what later versions of that program do not look at either.
_WITHOUT_EFFECT = ("encoder_type", "actf", "task_name", "data_source_dir", "data_process_opts")


@dataclass(frozen=True)
class Definition:
    """One task as such a file defines it, names as they stand there."""

    data_format: Annotated[str, one_of(*_FORMATS)]
    task_type: Annotated[str, one_of(*_TYPES)]
    n_class: int | None = None
    labels: tuple[str | int | float | bool, ...] | None = None
    metric_meta: tuple[Annotated[str, one_of(*_METRICS)], ...] = ()
    enable_san: bool = False
    split_names: tuple[str, ...] = ("train", "dev", "test")
    dropout_p: Annotated[float, share()] | None = None
    loss: Annotated[str, one_of(*_LOSSES)] | None = None
    kd_loss: str | None = None
    adv_loss: str | None = None


@dataclass(frozen=True)
class Meaning:
    """What a task type of that program is here."""

    type: str
    formats: tuple[str, ...]
    loss: str  # the one that trains it
    metrics: Mapping[str, str]  # theirs to ours; empty: the type's own are taken


TEXT_COLUMNS = {
    "PremiseOnly": ("premise",),
    "PremiseAndOneHypothesis": ("premise", "hypothesis"),
    "PremiseAndMultiHypothesis": ("premise", "hypothesis"),
}
# A task type is added here, its layout above.
MEANINGS = {
    "Classification": Meaning(
        "classification",
        ("PremiseOnly", "PremiseAndOneHypothesis"),
        "CeCriterion",
        {"ACC": "accuracy", "F1": "f1", "MCC": "matthews"},
    ),
    "Regression": Meaning(
        "regression",
        ("PremiseOnly", "PremiseAndOneHypothesis"),
        "MseCriterion",
        {"Pearson": "pearson", "Spearman": "spearman"},
    ),
    "Ranking": Meaning("ranking", ("PremiseAndMultiHypothesis",), "RankCeCriterion", {}),
}
LOSSES = {"CeCriterion": "cross_entropy", "MseCriterion": "mean_squared_error", "RankCeCriterion": "list_softmax"}


def read_definitions(path: Path, said_in: str = "") -> dict[str, Node]:
    """Read a file, YAML or JSON, as the trees of its definitions by name. Of a key that is there twice the last counts.

    Args:
        path: the file.
        said_in: what messages about a missing file begin with.

    Raises:
        UserError: the file can't be read, or holds no mapping of names.
    """
    text = read_text(path, said_in)
    # YAML takes JSON but for its tabs, which JSON has between values only.
    text = text.replace("\t", "  ") if path.suffix == ".json" else text
    tree = parse_yaml(text, str(path), path.absolute().parent, last_wins=True)
    if not isinstance(tree, Branch) or not tree.children:
        raise UserError(f"{path}: must be a mapping from task names to definitions (data_format, task_type, ...)")
    return tree.children


def build_definition(name: str, node: Node) -> Definition:
    """Return a definition checked.

    Raises:
        UserError: file, line and key: an unknown key or name (and the closest known one), a wrong type, a missing key.
    """
    if isinstance(node, Branch):
        node = Branch({key: child for key, child in node.children.items() if key not in _WITHOUT_EFFECT}, node.origin)
    definition: Definition = build(Definition, node, name)
    return definition


def as_task(name: str, definition: Definition, node: Node) -> tuple[dict[str, Any], list[str]]:
    """Return the entry under `tasks` but for its sources, and notes on what of the definition has no effect.

    Raises:
        UserError: a type, layout or loss that this package does not train.
    """
    meaning = _meaning(name, definition, node)
    text = TEXT_COLUMNS[definition.data_format]
    task: dict[str, Any] = {"type": meaning.type, "text": list(text)}
    notes = [key for key in ("kd_loss", "adv_loss") if getattr(definition, key)]
    if meaning.type == "classification":
        labels, note = _labels(name, definition, node)
        task["labels"] = labels
        notes += note
        task["head"] = "san" if definition.enable_san and len(text) == 2 else "linear"
    if definition.dropout_p is not None:
        task["dropout"] = definition.dropout_p
    if definition.loss is not None:
        task["loss"] = LOSSES[definition.loss]
    metrics, note = _metrics(name, definition, meaning, node, len(task.get("labels", ())))
    return task | ({"metrics": metrics} if metrics else {}), [*notes, *note]


def label_names(definition: Definition) -> list[str]:
    """Return the label names in id order, as they stand in files; none where the definition has none."""
    return [_plain(label) for label in definition.labels or ()]


def _plain(value: str | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _meaning(name: str, definition: Definition, node: Node) -> Meaning:
    kind = _RESPELLED.get(definition.task_type, definition.task_type)
    layout = _RESPELLED.get(definition.data_format, definition.data_format)
    where = f"{_origin(node, 'task_type')}: {name}"
    remedy = "leave the task out with `datasets: [...]`"
    if kind not in MEANINGS:
        raise UserError(
            f"{where}: tasks of the type {kind} cannot be trained here; supported: {', '.join(MEANINGS)}; {remedy}"
        )
    meaning = MEANINGS[kind]
    if layout not in meaning.formats:
        raise UserError(
            f"{where}: {kind} with the layout {layout} cannot be trained here; it takes {' or '.join(meaning.formats)}; {remedy}"
        )
    if definition.loss not in (None, meaning.loss):
        raise UserError(
            f"{_origin(node, 'loss')}: {name}.loss: {kind} is trained with {meaning.loss} here, received "
            f"{definition.loss!r}; {remedy}"
        )
    return meaning


def _origin(node: Node, key: str) -> object:
    child = node.children.get(key, node) if isinstance(node, Branch) else node
    return child.origin if isinstance(child, (Branch, Leaf)) else node.origin


def _labels(name: str, definition: Definition, node: Node) -> tuple[list[str], list[str]]:
    labels = label_names(definition)
    if not labels and definition.n_class is None:
        raise UserError(f"{node.origin}: {name}: labels or n_class must say how many classes there are")
    if not labels:
        return [str(number) for number in range(definition.n_class or 0)], []
    differs = definition.n_class not in (None, len(labels))
    return labels, [f"n_class: {definition.n_class}, as there are {len(labels)} labels"] if differs else []


def _metrics(
    name: str, definition: Definition, meaning: Meaning, node: Node, classes: int
) -> tuple[list[str], list[str]]:
    if not meaning.metrics:
        return [], []
    kept: list[str] = []
    left_out: list[str] = []
    for metric in dict.fromkeys(definition.metric_meta):
        suits = metric in meaning.metrics and (metric != "F1" or classes == 2)
        (kept if suits else left_out).append(metric)
    if left_out and not kept:
        where = f"{_origin(node, 'metric_meta')}: {name}.metric_meta"
        raise UserError(unknown_name(where, "metric for this task", left_out[0], meaning.metrics))
    return [meaning.metrics[metric] for metric in kept], [f"metric {metric}" for metric in left_out]
