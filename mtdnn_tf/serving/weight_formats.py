"""How an exported encoder's weights are stored, and what is computed with them: float32, bfloat16, or int8 with scales."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

_LARGEST = 127  # of int8, on either side of zero


class Matrix(tf.Module):
    """What a kernel multiplies with: a variable, or, frozen, a constant of each graph that it is read in."""

    def __init__(self, values: np.ndarray, dtype: tf.DType, frozen: bool) -> None:
        """Round the values to the format, once and for all."""
        super().__init__()
        self._array = tf.cast(values, dtype).numpy() if frozen else None
        self._variable = None if frozen else constant(values, dtype)

    def read(self) -> tf.Variable | tf.Tensor:
        """Return the values; in a graph, a frozen matrix is a node of its own at every call."""
        return self._variable if self._array is None else tf.constant(self._array)


class FloatKernel(tf.Module):
    """A matrix `[inputs, outputs]` in the floating-point format that products with it are computed in."""

    def __init__(self, values: np.ndarray, dtype: tf.DType, frozen: bool = False) -> None:
        """Round the values to the format, once and for all."""
        super().__init__()
        self.values = Matrix(values, dtype, frozen)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Return `[rows, outputs]` of `[rows, inputs]`, both of the kernel's dtype."""
        return tf.matmul(x, self.values.read())


class Int8Kernel(tf.Module):
    """A matrix `[inputs, outputs]` in int8, with a float32 scale for each output: its largest value is 127 there."""

    def __init__(self, values: np.ndarray, dtype: tf.DType, frozen: bool = False) -> None:
        """Round each column to 255 even steps, symmetric about zero; products are computed in `dtype`."""
        super().__init__()
        steps, scale = quantised(values, axis=0)
        self.values, self.scale = Matrix(steps, tf.int8, frozen), constant(scale, dtype)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Return `[rows, outputs]` of `[rows, inputs]`; the scales are applied to the product, which is smaller than the kernel."""
        return tf.matmul(x, tf.cast(self.values.read(), x.dtype)) * self.scale


class FloatTable(tf.Module):
    """Vectors by id, `[ids, width]`, in a floating-point format."""

    def __init__(self, values: np.ndarray, dtype: tf.DType) -> None:
        """Round the values to the format."""
        super().__init__()
        self.values = constant(values, dtype)

    def __call__(self, ids: tf.Tensor) -> tf.Tensor:
        """Return `[..., width] float32` of ids `[...]`."""
        return tf.cast(tf.gather(self.values, ids), tf.float32)


class Int8Table(tf.Module):
    """Vectors by id, `[ids, width]`, in int8, with a float32 scale for each vector."""

    def __init__(self, values: np.ndarray, dtype: tf.DType) -> None:
        """Round each vector to 255 even steps; vectors come out as float32 whatever `dtype` is."""
        super().__init__()
        steps, scale = quantised(values, axis=1)
        self.values, self.scale = constant(steps, tf.int8), constant(scale, tf.float32)

    def __call__(self, ids: tf.Tensor) -> tf.Tensor:
        """Return `[..., width] float32` of ids `[...]`; only the vectors asked for are scaled."""
        return tf.cast(tf.gather(self.values, ids), tf.float32) * tf.gather(self.scale, ids)


@dataclass(frozen=True)
class WeightFormat:
    """One value of `export.weights`.

    Attributes:
        kernel: stores a kernel and multiplies with it.
        table: stores an embedding table and looks up in it.
        size: bytes of a weight.
        compute: dtype of the products and of what is between them; residual stream, LayerNorm and heads are float32.
        rounding: the relative error that one product brings; 0: none beyond float32's. bfloat16 keeps 8 bits of a value. A step of
            int8 is 2^-7 of the largest weight of an output, and twice that or more of a usual one.
    """

    kernel: type[FloatKernel] | type[Int8Kernel]
    table: type[FloatTable] | type[Int8Table]
    size: int
    compute: tf.DType
    rounding: float

    def tolerance(self, layers: int) -> float:
        """Return how far an answer may be from the float32 model's, relative to 1 + the value.

        Each layer adds two rounded products to the residual stream. Their errors are independent, so that they grow as the
        square root of their number; the farthest of many values is about four deviations out.
        """
        return 4 * self.rounding * math.sqrt(2 * layers)


WEIGHT_FORMATS = {
    "float32": WeightFormat(FloatKernel, FloatTable, 4, tf.float32, 0.0),
    "bfloat16": WeightFormat(FloatKernel, FloatTable, 2, tf.bfloat16, 2.0**-8),
    "int8": WeightFormat(Int8Kernel, Int8Table, 1, tf.float32, 2.0**-6),
}


def quantised(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Return `values` in steps of int8, and the size of the steps, `values` being near their product.

    Args:
        values: a matrix, float32.
        axis: along which values share a step; of size 1 in the sizes that are returned.
    """
    largest = np.abs(values).max(axis=axis, keepdims=True)
    scale = np.where(largest > 0, largest, 1.0).astype(np.float32) / _LARGEST
    return np.rint(values / scale).clip(-_LARGEST, _LARGEST).astype(np.int8), scale


def constant(values: np.ndarray, dtype: tf.DType) -> tf.Variable:
    """Return a variable that is written with the model and never trained."""
    return tf.Variable(tf.cast(values, dtype), trainable=False)
