"""How tf.data's pipelines run here: with fixed parallelism, instead of that which tf.data's tuner would find."""

from __future__ import annotations

import tensorflow as tf

PARALLEL_CALLS = 4  # of a map
_AHEAD = 8  # batches made before they are asked for


def without_tuner(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Return the dataset, to be run without the tuner.

    The tuner's thread sleeps for twice as long after each look, up to a minute, and an iterator waits for it when it is deleted. In
    TensorFlow 2.21 the wake-up call comes a moment before the word that it is time to stop: a thread that is quick enough looks,
    finds nothing and sleeps on.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def made_ahead(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Return the batches, the next few of which are made while one is used; without the tuner."""
    return without_tuner(batches.prefetch(_AHEAD))
