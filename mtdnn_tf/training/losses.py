"""Loss functions: one per name, logits and a batch in, the batch's mean loss out (`batch_mean`: on several replicas, too).

`task_loss` makes one of them the loss of a task, with its class weights and the scale of its scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import tensorflow as tf

from mtdnn_tf.errors import UserError
from mtdnn_tf.task_types import MASKED_COUNT, MASKED_LOSS, NEXT_LOGITS
from mtdnn_tf.tasks import TaskSpec

Batch = Mapping[str, tf.Tensor]
Loss = Callable[[tf.Tensor, Batch], tf.Tensor]


def batch_mean(values: tf.Tensor, counted: tf.Tensor | None) -> tf.Tensor:
    """Return the mean of the values that count, over the whole batch.

    Where several replicas have a part of it each, this is the replica's share: the shares of all replicas add up to the mean.

    Args:
        values: `[n] float32`.
        counted: `[n] float32`, 1 for values that count, 0 for others; None: all count, and this is the whole batch.

    Returns:
        `[] float32`; 0 where nothing counts.
    """
    if counted is None:
        return tf.reduce_mean(values)
    return _share(tf.reduce_sum(tf.where(counted > 0, values, 0.0)), tf.reduce_sum(counted))


def _share(total: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Return this replica's total over the count of all replicas; 0 where nothing counts."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync > 1:
        count = context.all_reduce(tf.distribute.ReduceOp.SUM, count)
    return tf.math.divide_no_nan(total, count)


def cross_entropy(logits: tf.Tensor, batch: Batch) -> tf.Tensor:
    """Mean negative log likelihood of the label (paper, Eq. 6).

    Args:
        logits: `[batch, classes] float32`; un-normalised log probabilities (the SAN head's output is such too).
        batch: `label` `[batch] float32`, class ids; `class_weight` `[batch] float32`, of each row's class, where classes have weights.

    Returns:
        `[] float32`.
    """
    labels = tf.cast(batch["label"], tf.int32)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    if "class_weight" in batch:
        losses *= batch["class_weight"]
    return batch_mean(losses, batch.get("sample_weight"))


def mean_squared_error(logits: tf.Tensor, batch: Batch) -> tf.Tensor:
    """Mean of (y - Sim)^2 with raw targets, no squashing (paper, Eq. 7).

    Args:
        logits: `[batch, 1] float32`.
        batch: `label` `[batch] float32`, in the same units as the logits (see `task_loss`).

    Returns:
        `[] float32`.
    """
    return batch_mean(tf.square(batch["label"] - logits[:, 0]), batch.get("sample_weight"))


def list_softmax(logits: tf.Tensor, batch: Batch) -> tf.Tensor:
    """Negative log likelihood of the relevant candidate among its query's candidates (paper, Eq. 5 and 8, gamma 1).

    Lists may have any lengths. With graded or several relevant candidates the target is their relevance, normalised
    within the query. Queries without a relevant candidate say nothing and are left out of the mean.

    Args:
        logits: `[batch, 1] float32`, the relevance scores, all candidates of a query in one batch.
        batch: `label` `[batch] float32` relevance; `group` `[batch] int32`, the query's index within the batch.

    Returns:
        `[] float32`.
    """
    scores, relevance, group = logits[:, 0], batch["label"], batch["group"]
    relevance *= batch.get("sample_weight", 1.0)
    queries = tf.shape(group)[0]  # at most as many as rows: a shape that XLA knows
    highest = tf.stop_gradient(tf.math.unsorted_segment_max(scores, group, queries))  # [queries]
    shifted = scores - tf.gather(highest, group)
    log_total = tf.math.log(tf.math.unsorted_segment_sum(tf.exp(shifted), group, queries))
    log_probability = shifted - tf.gather(log_total, group)  # [batch]
    relevant = tf.math.unsorted_segment_sum(relevance, group, queries)
    per_query = -tf.math.divide_no_nan(
        tf.math.unsorted_segment_sum(relevance * log_probability, group, queries), relevant
    )
    return batch_mean(per_query, tf.cast(relevant > 0, tf.float32))


def pointwise(logits: tf.Tensor, batch: Batch) -> tf.Tensor:
    """Mean cross-entropy of each candidate by itself, P(relevant) = sigmoid(Rel): what a classifier of pairs learns.

    The alternative that the ranking loss is compared with (paper, 3.1 and Table 3, QNLI). All candidates count, those of
    queries without a relevant one, too.

    Args:
        logits: `[batch, 1] float32`, the relevance scores.
        batch: `label` `[batch] float32` relevance; more than 0 is relevant.

    Returns:
        `[] float32`.
    """
    relevant = tf.cast(batch["label"] > 0, tf.float32)
    losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=relevant, logits=logits[:, 0])
    return batch_mean(losses, batch.get("sample_weight"))


def pretraining(outputs: tf.Tensor, batch: Batch) -> tf.Tensor:
    """Mean loss of the masked tokens plus mean loss of the next sentences (Devlin et al. 2019, A.2).

    Args:
        outputs: `[batch, 5] float32`, of `PretrainingHead`.
        batch: `label` `[batch] float32`: 0 where the second segment follows the first, 1 where it does not.

    Returns:
        `[] float32`, in nats.
    """
    counted = batch.get("sample_weight", tf.ones_like(batch["label"])) > 0
    sums, counts = (tf.where(counted, outputs[:, column], 0.0) for column in (MASKED_LOSS, MASKED_COUNT))
    masked = _share(tf.reduce_sum(sums), tf.reduce_sum(counts))
    return masked + cross_entropy(outputs[:, NEXT_LOGITS], batch)


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "mean_squared_error": mean_squared_error,
    "list_softmax": list_softmax,
    "pointwise": pointwise,
    "pretraining": pretraining,
}


def task_loss(task: TaskSpec) -> Loss:
    """Return the loss function of a task.

    Regression with a scale of its own (`TaskSpec.score_map`): scores and labels are brought into the head's units, about -1 to 1,
    so that the loss is as large as that of other tasks, whatever the unit of the scores.

    Class weights w: the mean over the batch of w[label] * cross-entropy, divided by the number of rows, as Keras does, and not by
    the sum of the weights. So the loss of a batch is the sum of the shares of its parts: replicas, accumulated batches and one
    large batch give the same gradient, and the mean over an epoch is the weighted mean over the data.

    Raises:
        UserError: the task's class weights are `balanced`, and not yet numbers (see `with_class_weights`).
    """
    loss, score_map, weights = LOSSES[task.loss], task.score_map, task.class_weights
    if isinstance(weights, str):
        raise UserError(
            f"tasks.{task.name}.class_weights: {weights!r} needs the training rows; compile and fit the trainer with the mixture first"
        )
    if score_map is not None:

        def of_scores(logits: tf.Tensor, batch: Batch) -> tf.Tensor:
            centre, half_width = score_map
            in_units = {**batch, "label": (batch["label"] - centre) / half_width}
            return loss((logits - centre) / half_width, in_units)

        return of_scores
    if weights is not None:
        by_class = tf.constant([weights.get(label, 1.0) for label in task.labels], tf.float32)

        def weighted(logits: tf.Tensor, batch: Batch) -> tf.Tensor:
            return loss(logits, {**batch, "class_weight": tf.gather(by_class, tf.cast(batch["label"], tf.int32))})

        return weighted
    return loss


def balanced_weights(labels: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Return class weights by label, under which each class counts as much as any other in the training rows.

    Weight of a class: rows / (classes * rows of the class), as scikit-learn's `balanced`; `classes` are those that have rows. The
    mean over the rows is 1. A class without rows gets 1: no loss depends on it.

    Args:
        labels: of the training rows, `[rows] int32` class ids.
        names: of the classes, in id order.
    """
    counts = np.bincount(labels, minlength=len(names))
    classes = int(np.count_nonzero(counts))
    return {
        name: float(len(labels) / (classes * count)) if count else 1.0
        for name, count in zip(names, counts, strict=True)
    }


def with_class_weights(task: TaskSpec, labels: np.ndarray | None) -> TaskSpec:
    """Return the task with `balanced` class weights as numbers, and every label named; `labels` are those of its training rows."""
    if task.class_weights is None or labels is None:
        return task
    if isinstance(task.class_weights, str):
        return replace(task, class_weights=balanced_weights(labels, task.labels))
    return replace(task, class_weights={label: task.class_weights.get(label, 1.0) for label in task.labels})
