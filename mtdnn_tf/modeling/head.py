"""What all task heads have in common."""

from __future__ import annotations

from typing import Any, ClassVar

import keras

from mtdnn_tf.modeling.backbone import EncoderBackbone
from mtdnn_tf.seeds import derive_seed
from mtdnn_tf.tasks import TaskSpec

_HIDDEN_STD = 0.02  # BERT's; also what the first MT-DNN drew its linear layers from


class Head(keras.layers.Layer):
    """What all heads have in common: float32 whatever the encoder's precision, the task's dropout, seeds by task name.

    A head is called with `sequence` `[batch, length, d]`, `vector` `[batch, d]` (the sentence), `segment_ids` and
    `padding_mask` `[batch, length] int32`, and returns logits `[batch, outputs] float32`; of regression, scores in the task's own
    units (`TaskSpec.score_map`).
    """

    extra_inputs: ClassVar[tuple[str, ...]] = ()  # of batches, `[batch, any] int32`: keyword arguments of a call

    def __init__(self, task: TaskSpec, *, dropout: float, seed: int, **kwargs: Any) -> None:
        """Take the task, its dropout rate and the run's seed."""
        super().__init__(name=task.name, dtype="float32", **kwargs)
        self.task = task
        self.rate = dropout
        self._seed = seed

    @property
    def outputs(self) -> int:
        """The number of logits: one for each label; one for regression and ranking."""
        return len(self.task.labels) or 1

    def _in_task_units(self, outputs: Any) -> Any:
        """Return the head's outputs as scores, where the task's scores have another scale than the head."""
        score_map = self.task.score_map
        return outputs if score_map is None else score_map.centre + score_map.half_width * outputs

    def attach(self, backbone: EncoderBackbone) -> None:
        """Take what the head needs of the encoder; called once, before it is built.

        Raises:
            UserError: the head does not suit the encoder.
        """

    def _part_seed(self, part: str) -> int:
        return derive_seed(self._seed, "heads", self.task.name, part)

    def _dense(self, units: int, name: str) -> keras.layers.Dense:
        kernel = keras.initializers.RandomNormal(stddev=_HIDDEN_STD, seed=self._part_seed(name))
        return keras.layers.Dense(units, kernel_initializer=kernel, dtype="float32", name=name)

    def _dropout(self, name: str, noise_shape: tuple[int | None, ...] | None = None) -> keras.layers.Dropout:
        return keras.layers.Dropout(
            self.rate, noise_shape=noise_shape, seed=self._part_seed(name), dtype="float32", name=name
        )
