"""What the types of task have in common: which heads, losses and metrics they take, and which are their defaults."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TaskType:
    """One type of task. Of heads and losses the first is the default."""

    heads: tuple[str, ...]
    losses: tuple[str, ...]
    known_metrics: tuple[str, ...]  # those that make sense for it
    metrics: tuple[str, ...]  # default
    main_metric: str
    arities: tuple[int, ...]  # how many text columns it may have
    pair_head: str | None = None  # default head for two texts, where it differs
    has_labels: bool = False


TASK_TYPES: dict[str, TaskType] = {
    "classification": TaskType(
        heads=("linear", "mlp", "san"),
        losses=("cross_entropy",),
        known_metrics=("accuracy", "f1", "matthews", "accuracy_f1"),
        metrics=("accuracy",),
        main_metric="accuracy",
        arities=(1, 2),
        pair_head="san",  # paper, Eq. 3 and 4
        has_labels=True,
    ),
    "regression": TaskType(
        heads=("linear", "mlp"),
        losses=("mean_squared_error",),
        known_metrics=("pearson", "spearman", "pearson_spearman"),
        metrics=("pearson", "spearman", "pearson_spearman"),
        main_metric="pearson_spearman",
        arities=(1, 2),
    ),
    "ranking": TaskType(
        heads=("linear", "mlp"),
        losses=("list_softmax", "pointwise"),
        known_metrics=("accuracy_at_1", "mrr", "map", "ndcg"),
        metrics=("accuracy_at_1", "mrr", "map", "ndcg"),
        main_metric="mrr",
        arities=(2,),
    ),
}

SHARING_HEADS = {"stack_pooling": "mlp"}  # what a sharing mode takes in place of its types' default heads

# Types whose examples are made of running text: no columns, no labels, and no answers to single texts.
DOCUMENT_TYPES: dict[str, TaskType] = {
    "pretraining": TaskType(
        heads=("pretraining",),
        losses=("pretraining",),
        known_metrics=("masked_loss", "masked_accuracy", "next_accuracy"),
        metrics=("masked_loss", "masked_accuracy", "next_accuracy"),
        main_metric="masked_accuracy",
        arities=(),
    ),
}

# Columns of what pre-training gives for each row: logits of the next sentence, and of its masked tokens the summed loss, number, hits.
NEXT_LOGITS = slice(0, 2)
MASKED_LOSS, MASKED_COUNT, MASKED_RIGHT = 2, 3, 4

PAIR_HEADS = ("san",)  # read two texts against each other
BINARY_METRICS = ("f1", "accuracy_f1")  # of the second of two labels
LOWER_IS_BETTER = ("masked_loss",)  # in nats, where all others are shares of 1, shown in percent


def _names(lists: list[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for names in lists for name in names))


_ALL_TYPES = {**TASK_TYPES, **DOCUMENT_TYPES}

# The registries (HEADS, LOSSES, METRICS) hold exactly these: a test asserts it.
KNOWN_HEADS = _names([kind.heads for kind in _ALL_TYPES.values()])
KNOWN_LOSSES = _names([kind.losses for kind in _ALL_TYPES.values()])
KNOWN_METRICS = _names([kind.known_metrics for kind in _ALL_TYPES.values()])


def shown_score(metric: str, value: float) -> float:
    """Return a score as people read it: in percent, but for losses."""
    return value if metric in LOWER_IS_BETTER else 100 * value


# What a task with `head_of` has of its own, of class weights none. All else is that of the head's owner: how rows are read, what
# the answers mean, and how the head is trained.
OF_BORROWER = ("name", "text", "metrics", "main_metric", "head_of", "sources", "class_weights")

# Names that a task would share with a signature, a layer of the model or an entry of the scores.
RESERVED_NAMES = (
    "all_single",
    "all_pairs",
    "serving_default",
    "encode",
    "metadata",
    "encoder",
    "token_ids",
    "segment_ids",
    "padding_mask",
    "average",
    "glue_score",
)
