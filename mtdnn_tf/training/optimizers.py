"""Rules that update weights: Adamax as in the paper and with bias correction, Adam, AdamW, LAMB."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from mtdnn_tf.config import OptimizerConfig
from mtdnn_tf.errors import UserError, unknown_name
from mtdnn_tf.modeling.backbone import EncoderBackbone
from mtdnn_tf.training.rates import WarmupSchedule, rate_factors

Factors = Callable[[Sequence[keras.Variable], EncoderBackbone], Sequence[float]]
Moved = tuple[tf.Tensor, tf.Tensor, tf.Tensor]  # a variable's value and its two slots

BETA_1, BETA_2 = 0.9, 0.999
_LARGE = 2**14  # elements, from which on a kernel of its own is worth calling
NOT_DECAYED = ("bias", "gamma", "beta")


class Rule(keras.optimizers.Optimizer):
    """What all rules share: two slots and a count of updates for each variable, its share of the learning rate, and its decay.

    Keras' own rules correct their bias by the steps of the run; a head that is rarely trained would be treated as old.

    Where a gradient is NaN, weights and slots stay as they are: so a step that is not finite says that it must not be applied. On
    several devices no condition can stand around `apply`, which leaves the replicas' context.
    """

    slots: ClassVar[tuple[str, str]] = ("mean", "maximum")

    def __init__(
        self,
        learning_rate: Any,
        weight_decay: float = 0.01,
        decay_all: bool = True,
        factors: Factors | None = None,
    ) -> None:
        """Set up the rule.

        Args:
            learning_rate: a number or a schedule.
            weight_decay: each rule says where it enters.
            decay_all: whether biases and normalisation decay too.
            factors: from variables and encoder to what each one's learning rate is multiplied by; None: 1.
        """
        # Keras' own weight_decay stays off.
        super().__init__(learning_rate=learning_rate, name=type(self).__name__.lower())
        self.decay, self.decay_all = weight_decay, decay_all
        self.schedule = learning_rate
        self._factors_of = factors
        self._encoder: Callable[[], EncoderBackbone | None] = lambda: None
        self.fused = False  # whether large variables are updated by one compiled kernel each: for CPUs
        self._kernel = tf.function(self._scaled, jit_compile=True, autograph=False)
        self._scale = tf.constant(1.0)

    def place(self, encoder: EncoderBackbone) -> None:
        """Take the encoder by whose layers learning rates differ; before `build`."""
        self._encoder = lambda: encoder  # a function: Keras would track the layers of what it sees

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Create the slots of all variables."""
        if self.built:
            return
        factors = self._build_factors(variables)
        super().build(variables)
        self._first, self._second = self.add_optimizer_variables(variables, list(self.slots))
        self._updates = [
            self.add_variable(shape=(), dtype="float32", name=f"{variable.path.replace('/', '_')}_updates")
            for variable in variables
        ]
        self._factors = factors
        self._decays = [self.decay if self.decays(variable) else 0.0 for variable in variables]

    def _build_factors(self, variables: Sequence[keras.Variable]) -> list[float]:
        if self._factors_of is None:
            return [1.0] * len(variables)
        encoder = self._encoder()
        if encoder is None:
            raise UserError(
                "optimizer: layer_decay, embedding_rate and head_rate depend on the encoder; give it by `place` before `build`"
            )
        return list(self._factors_of(variables, encoder))

    def decays(self, variable: keras.Variable) -> bool:
        """Return whether weight decay applies to the variable."""
        return self.decay_all or variable.name not in NOT_DECAYED

    def apply_scaled(
        self, gradients: Sequence[tf.Tensor], variables: Sequence[keras.Variable], scale: tf.Tensor
    ) -> None:
        """Apply gradients times a number, which costs no pass over them of its own; not inside `strategy.run`."""
        unscaled, self._scale = self._scale, scale
        try:
            self.apply(gradients, variables)
        finally:
            self._scale = unscaled

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        """Leave gradients as they are: the step has summed them over replicas, before it clipped them (Keras would after)."""
        return grads_and_vars

    def update_step(self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor) -> None:
        """Apply one update to one variable."""
        index = self._get_variable_index(variable)
        updates, first, second = self._updates[index], self._first[index], self._second[index]
        gradient = tf.convert_to_tensor(gradient)
        first_element = tf.reshape(gradient, [-1])[0] * self._scale
        updates.assign_add(tf.where(tf.math.is_nan(first_element), 0.0, 1.0))
        rate, decay = learning_rate * self._factors[index], tf.constant(self._decays[index])
        move = self._kernel if self.fused and math.prod(variable.shape) >= _LARGE else self._scaled
        arguments = (self._scale, variable, gradient, first, second, rate, decay, updates)
        value, *slots = move(*map(tf.convert_to_tensor, arguments))
        variable.assign(value)
        first.assign(slots[0])
        second.assign(slots[1])

    def _scaled(
        self,
        scale: tf.Tensor,
        value: tf.Tensor,
        gradient: tf.Tensor,
        first: tf.Tensor,
        second: tf.Tensor,
        *others: tf.Tensor,
    ) -> Moved:
        gradient *= scale
        moved = self._moved(value, gradient, first, second, *others)
        lost = tf.math.is_nan(gradient)
        value, first, second = (
            tf.where(lost, old, new) for old, new in zip((value, first, second), moved, strict=True)
        )
        return value, first, second

    def _moved(
        self,
        value: tf.Tensor,
        gradient: tf.Tensor,
        first: tf.Tensor,
        second: tf.Tensor,
        rate: tf.Tensor,
        decay: tf.Tensor,
        updates: tf.Tensor,
    ) -> Moved:
        """Return the new values of a variable and its slots; `updates` counts this update."""
        raise AssertionError("a rule says how it moves")


class PaperAdamax(Rule):
    """Adamax as MT-DNN was trained with: no bias correction, decay added to the update.

    m = b1 m + (1 - b1) g;  u = max(b2 u, |g| + eps);  p -= lr (m / (u + eps) + decay p), with eps = 1e-6.
    The released code decays every parameter, biases and normalisation included; `decay_all=False` spares them.
    """

    epsilon = 1e-6

    def _moved(
        self,
        value: tf.Tensor,
        gradient: tf.Tensor,
        first: tf.Tensor,
        second: tf.Tensor,
        rate: tf.Tensor,
        decay: tf.Tensor,
        updates: tf.Tensor,
    ) -> Moved:
        mean = BETA_1 * first + (1.0 - BETA_1) * gradient
        maximum = tf.maximum(BETA_2 * second, tf.abs(gradient) + self.epsilon)
        return value - rate * (mean / (maximum + self.epsilon) + decay * value), mean, maximum


class CorrectedAdamax(Rule):
    """Adamax with bias correction and decoupled decay, as later releases have it (Kingma and Ba 2015, Algorithm 2).

    p *= 1 - lr decay;  m = b1 m + (1 - b1) g;  u = max(b2 u, |g| + eps);  p -= lr / (1 - b1^t) m / u, with eps = 1e-8 and
    t the number of updates of this variable, not of the whole run.
    """

    epsilon = 1e-8

    def _moved(
        self,
        value: tf.Tensor,
        gradient: tf.Tensor,
        first: tf.Tensor,
        second: tf.Tensor,
        rate: tf.Tensor,
        decay: tf.Tensor,
        updates: tf.Tensor,
    ) -> Moved:
        mean = BETA_1 * first + (1.0 - BETA_1) * gradient
        maximum = tf.maximum(BETA_2 * second, tf.abs(gradient) + self.epsilon)
        corrected = rate / (1.0 - tf.pow(BETA_1, updates))
        return value * (1.0 - rate * decay) - corrected * mean / maximum, mean, maximum


class Adam(Rule):
    """Adam (Kingma and Ba 2015, Algorithm 1) with decoupled decay (AdamW: Loshchilov and Hutter 2019, Algorithm 2).

    m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  p -= lr (m^ / (sqrt(v^) + eps) + decay p), m^ = m / (1 - b1^t) and
    v^ = v / (1 - b2^t), with eps = 1e-6 and t the number of updates of this variable.
    """

    slots: ClassVar[tuple[str, str]] = ("mean", "square")
    epsilon = 1e-6

    def _moved(
        self,
        value: tf.Tensor,
        gradient: tf.Tensor,
        first: tf.Tensor,
        second: tf.Tensor,
        rate: tf.Tensor,
        decay: tf.Tensor,
        updates: tf.Tensor,
    ) -> Moved:
        direction, mean, square = self._direction(gradient, first, second, updates)
        return value - rate * (direction + decay * value), mean, square

    def _direction(self, gradient: tf.Tensor, first: tf.Tensor, second: tf.Tensor, updates: tf.Tensor) -> Moved:
        mean = BETA_1 * first + (1.0 - BETA_1) * gradient
        square = BETA_2 * second + (1.0 - BETA_2) * tf.square(gradient)
        unbiased = tf.sqrt(square / (1.0 - tf.pow(BETA_2, updates)))
        return mean / (1.0 - tf.pow(BETA_1, updates)) / (unbiased + self.epsilon), mean, square


class Lamb(Adam):
    """LAMB (You et al. 2020, Algorithm 2): Adam's update with decay, scaled for each variable to the norm of its weights."""

    def _moved(
        self,
        value: tf.Tensor,
        gradient: tf.Tensor,
        first: tf.Tensor,
        second: tf.Tensor,
        rate: tf.Tensor,
        decay: tf.Tensor,
        updates: tf.Tensor,
    ) -> Moved:
        direction, mean, square = self._direction(gradient, first, second, updates)
        update = direction + decay * value
        weights, length = tf.norm(value), tf.norm(update)
        trust = tf.where((weights > 0.0) & (length > 0.0), tf.math.divide_no_nan(weights, length), 1.0)
        return value - rate * trust * update, mean, square


# From the configuration to the class, and whether everything decays where `decay_all` is left open.
RULES: dict[str, Callable[[OptimizerConfig], tuple[type[Rule], bool]]] = {
    "adamax": lambda config: (CorrectedAdamax, False) if config.bias_correction else (PaperAdamax, True),
    "adamw": lambda config: (Adam, False),
    "adam": lambda config: (Adam, False),
    "lamb": lambda config: (Lamb, False),
}


def build_optimizer(config: OptimizerConfig, total_steps: int) -> keras.optimizers.Optimizer:
    """Return the optimizer of a run; clipping is the trainer's.

    Args:
        config: the section `optimizer`.
        total_steps: updates of the whole run, all epochs together: `mixture.total_updates`. The learning rate follows its schedule
            over so many; `MultiTaskTrainer.fit` refuses to train beyond its end.

    Raises:
        UserError: the optimizer or the schedule is unknown, or an option that has no effect on it is set.
    """
    if config.name not in RULES:
        raise UserError(unknown_name("optimizer.name", "optimizer", config.name, RULES))
    if config.bias_correction and config.name != "adamax":
        raise UserError(f"optimizer.bias_correction: {config.name} always corrects; the choice is adamax's")
    schedule = WarmupSchedule(config.learning_rate, total_steps, config.warmup, config.schedule, config.power)
    rule, decay_all = RULES[config.name](config)
    has_factors = (config.layer_decay, config.embedding_rate, config.head_rate) != (1.0, 1.0, 1.0)
    return rule(
        schedule,
        weight_decay=0.0 if config.name == "adam" else config.weight_decay,
        decay_all=decay_all if config.decay_all is None else config.decay_all,
        factors=(lambda variables, encoder: rate_factors(variables, encoder, config)) if has_factors else None,
    )


def clipping_scale(gradients: Sequence[tf.Tensor], limit: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Return what gradients are multiplied by so that their global norm is at most `limit` (0: any), and that norm, `[] float32`.

    To be called after gradients were summed over replicas: Keras' own clipping would act before
    (https://github.com/tensorflow/tensorflow/issues/33929).
    """
    norm = tf.linalg.global_norm(gradients)
    return (limit / tf.maximum(norm, limit) if limit else tf.constant(1.0)), norm
