"""Dynamic loss scaling: small gradients kept from vanishing in float16, steps that overflow left out."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

FIRST_SCALE = 2.0**15
LOWEST_SCALE = 1.0
HIGHEST_SCALE = 2.0**24  # gradients of any use overflow in float16 long before
GROWTH_STEPS = 2000


class LossScale:
    """What the loss is multiplied by before it is differentiated, and how that follows the gradients.

    After a step whose gradients are not finite the scale is halved, and the step is left out: no weight, slot or count of updates
    changes. After `growth_steps` good steps in a row it is doubled (Micikevicius et al. 2018, section 3.2). Gradients are divided
    by the scale before anything else is done with them, so that norms and clipping don't know of it.

    Keras' `LossScaleOptimizer` puts the division inside `apply`, after the trainer's clipping.
    """

    def __init__(self, first: float = FIRST_SCALE, growth_steps: int = GROWTH_STEPS) -> None:
        """Take the first scale and the number of good steps after which it grows."""
        self.growth_steps = growth_steps
        self.value = tf.Variable(first, dtype=tf.float32, trainable=False, name="loss_scale")
        self._good_steps = tf.Variable(0, dtype=tf.int32, trainable=False, name="good_steps")  # since it last changed
        self._skipped = tf.Variable(0, dtype=tf.int32, trainable=False, name="skipped_steps")

    @property
    def skipped(self) -> int:
        """The number of steps of the run that were left out."""
        return int(self._skipped)

    def apply_if_finite(self, values: tf.Tensor, apply: Callable[[], object]) -> None:
        """Call `apply` if all values are finite numbers, and move the scale; to be called once a step, compiled or not."""

        def good() -> tf.Tensor:
            apply()
            grows = self._good_steps.assign_add(1) >= self.growth_steps
            self.value.assign(tf.where(grows, tf.minimum(2.0 * self.value, HIGHEST_SCALE), self.value))
            self._good_steps.assign(tf.where(grows, 0, self._good_steps))
            return tf.constant(True)

        def bad() -> tf.Tensor:
            self.value.assign(tf.maximum(0.5 * self.value, LOWEST_SCALE))
            self._good_steps.assign(0)
            self._skipped.assign_add(1)
            return tf.constant(False)

        tf.cond(tf.reduce_all(tf.math.is_finite(values)), good, bad)

    def part(self) -> dict[str, tf.Variable]:
        """Return what a checkpoint must hold, by name."""
        return {"scale": self.value, "good_steps": self._good_steps, "skipped_steps": self._skipped}
