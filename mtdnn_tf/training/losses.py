"""One loss function per name: logits and a batch in, the batch's mean loss out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import tensorflow as tf

Batch = Mapping[str, tf.Tensor]
Loss = Callable[[tf.Tensor, Batch], tf.Tensor]


def cross_entropy(logits: tf.Tensor, batch: Batch) -> tf.Tensor:
    """Mean negative log likelihood of the label (paper, Eq. 6).

    Args:
        logits: `[batch, classes] float32`; un-normalised log probabilities (the SAN head's output is such too).
        batch: `label` `[batch] float32`, class ids.

    Returns:
        `[] float32`.
    """
    labels = tf.cast(batch["label"], tf.int32)
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))


def mean_squared_error(logits: tf.Tensor, batch: Batch) -> tf.Tensor:
    """Mean of (y - Sim)^2 with raw targets, no squashing (paper, Eq. 7).

    Args:
        logits: `[batch, 1] float32`.
        batch: `label` `[batch] float32`, in the task's own range.

    Returns:
        `[] float32`.
    """
    return tf.reduce_mean(tf.square(batch["label"] - logits[:, 0]))


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
    queries = tf.reduce_max(group) + 1
    highest = tf.stop_gradient(tf.math.unsorted_segment_max(scores, group, queries))  # [queries]
    shifted = scores - tf.gather(highest, group)
    log_total = tf.math.log(tf.math.unsorted_segment_sum(tf.exp(shifted), group, queries))
    log_probability = shifted - tf.gather(log_total, group)  # [batch]
    relevant = tf.math.unsorted_segment_sum(relevance, group, queries)
    per_query = -tf.math.divide_no_nan(
        tf.math.unsorted_segment_sum(relevance * log_probability, group, queries), relevant
    )
    counted = tf.reduce_sum(tf.cast(relevant > 0, tf.float32))
    return tf.math.divide_no_nan(tf.reduce_sum(per_query), counted)


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "mean_squared_error": mean_squared_error,
    "list_softmax": list_softmax,
}
