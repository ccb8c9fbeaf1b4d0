"""Gradient surgery: conflicting gradients of several tasks made to agree before they are added up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf


def gram_matrix(gradients: Sequence[Mapping[int, tf.Tensor]]) -> np.ndarray:
    """Return the dot products of several gradients, each given by variable; absent variables count as 0.

    Returns:
        `[n, n] float64`.
    """
    size = len(gradients)
    gram = np.zeros([size, size])
    for row in range(size):
        for column in range(row + 1):
            # In the variables' order, not a set's: sums of floats depend on it, and so would a resumed run.
            shared = [key for key in gradients[row] if key in gradients[column]]
            products = [tf.reduce_sum(gradients[row][key] * gradients[column][key]) for key in shared]
            gram[row, column] = gram[column, row] = float(tf.add_n(products)) if products else 0.0
    return gram


def project_conflicts(gram: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return by how much each gradient counts in the sum after PCGrad (Yu et al. 2020, Algorithm 1).

    Each gradient in turn loses what it has against the others, taken in random order: where its dot product with g_j is
    negative, its component along g_j goes. What comes out is a combination of the given gradients, so the dot products decide.

    Args:
        gram: dot products of the gradients, `[n, n]`.
        random: draws the orders.

    Returns:
        `[n] float64`: the surgically changed gradients add up to sum_j result[j] g_j.
    """
    size = len(gram)
    total = np.zeros(size)
    for task in range(size):
        combination = np.zeros(size)  # the gradient of this task, as it is changed, in terms of the given ones
        combination[task] = 1.0
        for other in random.permutation(size):
            dot = combination @ gram[:, other]
            if other != task and dot < 0.0:
                combination[other] -= dot / gram[other, other]
        total += combination
    return total
