"""One loss function per name: logits and a batch in, the batch's mean loss out (`batch_mean`: on several replicas, too)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import tensorflow as tf

from mtdnn_tf.task_types import MASKED_COUNT, MASKED_LOSS, NEXT_LOGITS

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
        batch: `label` `[batch] float32`, class ids.

    Returns:
        `[] float32`.
    """
    labels = tf.cast(batch["label"], tf.int32)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    return batch_mean(losses, batch.get("sample_weight"))


def mean_squared_error(logits: tf.Tensor, batch: Batch) -> tf.Tensor:
    """Mean of (y - Sim)^2 with raw targets, no squashing (paper, Eq. 7).

    Args:
        logits: `[batch, 1] float32`.
        batch: `label` `[batch] float32`, in the task's own range.

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
