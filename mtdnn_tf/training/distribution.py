"""Training on several devices: what each replica does, what they add up, and who writes.

The same schedule runs everywhere. Each process reads the whole batch and cuts its replicas' parts out of it
(`replica_batches`); a loss is each replica's share of the mean over the whole batch (`losses`), and gradients are summed over
replicas before they are clipped. So `data.batch_size` is the size of the whole batch, and a run on any number of devices takes
the steps of a run on one, but for dropout, whose masks differ from replica to replica.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtdnn_tf.errors import UserError
from mtdnn_tf.training.replica_batches import Arrays, as_arrays, cut_batch

Step = Callable[..., Any]  # batch, weight -> a structure of tensors
_WEIGHT_SPEC = tf.TensorSpec([], tf.float32, name="weight")
_TPU_ROWS = 8  # parts of a batch are filled up to a multiple: what a TPU does with them anyway


class Distribution:
    """One device in one process. `Replicas` does the same on several."""

    num_replicas = 1  # of all workers
    is_chief = True  # the process that writes
    share = (0, 1)  # this worker's number, and how many there are

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which the model's and the optimizer's variables are made."""
        return contextlib.nullcontext()

    def prepare_model(self, model: keras.Model) -> None:
        """Make dropout differ between replicas; to be called once, before any step."""

    def sum_over_replicas(self, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        """Return the sums over all replicas; within a compiled step."""
        return tensors

    def compile_step(
        self, step: Step, signature: Mapping[str, tf.TensorSpec]
    ) -> Callable[[Mapping[str, tf.Tensor], float], Any]:
        """Return the compiled function of a whole batch and a weight; what it returns must be the same on every replica."""
        compiled = tf.function(step, input_signature=[dict(signature), _WEIGHT_SPEC]).get_concrete_function()
        return lambda batch, weight: compiled(batch, tf.constant(weight, tf.float32))

    def compile_rows(
        self, function: Callable[[Any], tf.Tensor], signature: Mapping[str, tf.TensorSpec]
    ) -> Callable[[Mapping[str, tf.Tensor]], np.ndarray]:
        """Return the compiled function of a batch, `[rows, ...]` in and out, which this worker's replicas share between them."""
        compiled = tf.function(function, input_signature=[dict(signature)]).get_concrete_function()
        return lambda batch: compiled({name: batch[name] for name in signature}).numpy()

    def on_replicas(self, function: Callable[[], None]) -> None:
        """Call a function on each replica."""
        function()

    def sum_over_workers(self, array: np.ndarray) -> np.ndarray:
        """Return the sum of all workers' arrays, which have one shape; every worker must call it."""
        return array

    def on_chief(self, function: Callable[[], Any]) -> Any:
        """Call a function on the chief alone; every worker gets what it returned (plain values, as in JSON).

        Raises:
            UserError: the chief's call raised it; on every worker.
        """
        return function()

    def copy_from_chief(self, variables: Sequence[tf.Variable]) -> None:
        """Give variables the values that they have on the chief; every worker must call it."""

    def check_agreement(self, facts: Mapping[str, str]) -> None:
        """Compare what must be the same on all workers: a hash by what it is of.

        Raises:
            UserError: it differs; on every worker.
        """


class Replicas(Distribution):
    """The replicas of a `tf.distribute` strategy, on this machine and perhaps on others."""

    def __init__(
        self, strategy: tf.distribute.Strategy, share: tuple[int, int] = (0, 1), static_shapes: bool = False
    ) -> None:
        """Take the strategy, this worker's number of how many, and whether parts of batches keep to few shapes (TPUs)."""
        self._strategy = strategy
        self.num_replicas = strategy.num_replicas_in_sync
        self.share, self.is_chief = share, share[0] == 0
        self._static_shapes = static_shapes
        self._sums: dict[np.dtype, _Compiled] = {}  # over workers, by dtype

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """See `Distribution`."""
        scope: contextlib.AbstractContextManager[Any] = self._strategy.scope()
        return scope

    def prepare_model(self, model: keras.Model) -> None:
        """See `Distribution`. Masks are a function of the seed, the step and the replica's number; checkpoints are as ever."""
        for generator in _seed_generators(model):
            generator.next = functools.partial(_next_seed_of_replica, generator.next)

    def sum_over_replicas(self, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        """See `Distribution`."""
        summed: list[tf.Tensor] = _replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tensors)
        return summed

    def compile_step(
        self, step: Step, signature: Mapping[str, tf.TensorSpec]
    ) -> Callable[[Mapping[str, tf.Tensor], float], Any]:
        """See `Distribution`; compiled when the first batch is there."""
        run = _Compiled(lambda *args: self._first(self._strategy.run(step, args=args)), self._static_shapes)
        rows = _Rows(self._static_shapes)

        def take(batch: Mapping[str, tf.Tensor], weight: float) -> Any:
            parts = cut_batch(as_arrays(batch), self.num_replicas, rows)
            return run(self._per_replica(parts), tf.constant(weight, tf.float32))

        return take

    def compile_rows(
        self, function: Callable[[Any], tf.Tensor], signature: Mapping[str, tf.TensorSpec]
    ) -> Callable[[Mapping[str, tf.Tensor]], np.ndarray]:
        """See `Distribution`."""
        strategy = self._strategy
        run = _Compiled(lambda parts: self._local(strategy.run(function, args=(parts,))), self._static_shapes)
        rows = _Rows(self._static_shapes)
        local = self.num_replicas // self.share[1]
        first = self.share[0] * local

        def answer(batch: Mapping[str, tf.Tensor]) -> np.ndarray:
            arrays = as_arrays(batch)
            parts = cut_batch(arrays, local, rows)
            counts = [int(part["sample_weight"].sum()) for part in parts]
            inputs = [{name: part[name] for name in signature} for part in parts]
            answers = run(self._per_replica(inputs, first))
            return np.concatenate([rows.numpy()[:count] for rows, count in zip(answers, counts, strict=True)])

        return answer

    def on_replicas(self, function: Callable[[], None]) -> None:
        """See `Distribution`."""
        self._strategy.run(function)

    def sum_over_workers(self, array: np.ndarray) -> np.ndarray:
        """See `Distribution`."""
        if self.share[1] == 1:
            return array
        # The first replica of each worker brings the array, the others nothing.
        local = self.num_replicas // self.share[1]
        flat = array.reshape(-1)
        contributions = self._strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(flat if context.replica_id_in_sync_group % local == 0 else np.zeros_like(flat))
        )
        if array.dtype not in self._sums:
            self._sums[array.dtype] = _Compiled(
                lambda values: self._first(self._strategy.run(self._sum, args=(values,))), self._static_shapes
            )
        result: np.ndarray = self._sums[array.dtype](contributions).numpy()
        return result.reshape(array.shape)

    def on_chief(self, function: Callable[[], Any]) -> Any:
        """See `Distribution`."""
        if self.share[1] == 1:
            return function()
        answer: dict[str, Any] = {}
        if self.is_chief:
            try:
                answer = {"value": function()}
            except UserError as error:
                answer = {"error": str(error)}
        answer = self._told_by_chief(answer)
        if "error" in answer:
            raise UserError(answer["error"])
        return answer["value"]

    def copy_from_chief(self, variables: Sequence[tf.Variable]) -> None:
        """See `Distribution`."""
        if self.share[1] == 1:
            return
        for variable in variables:
            value = variable.numpy()
            # What collectives can add up; zeros of the others leave the chief's value as it is.
            wide = value.astype(np.int64) if np.issubdtype(value.dtype, np.integer) else value
            summed = self.sum_over_workers(wide if self.is_chief else np.zeros_like(wide))
            variable.assign(summed.astype(value.dtype))

    def check_agreement(self, facts: Mapping[str, str]) -> None:
        """See `Distribution`."""
        if self.share[1] == 1:
            return
        expected = self._told_by_chief(dict(facts))
        differ = np.array([facts[name] != expected[name] for name in sorted(facts)], np.int64)
        counts = self.sum_over_workers(differ)
        if counts.any():
            names = [name for name, count in zip(sorted(facts), counts, strict=True) if count]
            raise UserError(
                f"runtime.strategy: every worker must have the same {' and '.join(names)} as the chief; "
                f"{int(counts.max())} of {self.share[1]} workers differ. Give all of them one configuration and the same files"
            )

    def _told_by_chief(self, value: dict[str, Any]) -> dict[str, Any]:
        content = np.frombuffer(json.dumps(value).encode(), np.uint8).astype(np.int32)
        length = self.sum_over_workers(np.array(len(content) if self.is_chief else 0, np.int32))
        sent = content if self.is_chief else np.zeros([int(length)], np.int32)
        told: dict[str, Any] = json.loads(self.sum_over_workers(sent).astype(np.uint8).tobytes())
        return told

    def _sum(self, value: tf.Tensor) -> tf.Tensor:
        # An argument itself is on no device; a collective needs to know the replica's.
        return _replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(value))

    def _per_replica(self, parts: Sequence[Arrays], first: int = 0) -> Any:
        """Return the parts as one value of which each replica of this worker gets its own, the first the part `first`."""

        def part(context: Any) -> dict[str, tf.Tensor]:
            return {name: tf.constant(value) for name, value in parts[context.replica_id_in_sync_group - first].items()}

        return self._strategy.experimental_distribute_values_from_function(part)

    def _local(self, value: Any) -> tuple[tf.Tensor, ...]:
        local: tuple[tf.Tensor, ...] = self._strategy.experimental_local_results(value)
        return local

    def _first(self, values: Any) -> Any:
        return tf.nest.map_structure(lambda value: self._local(value)[0], values)


class _Compiled:
    """A function of per-replica values, compiled when the first are there; unless shapes are static, for all shapes at once."""

    def __init__(self, function: Callable[..., Any], static_shapes: bool) -> None:
        self._function, self._static_shapes = function, static_shapes
        self._compiled: Any = None

    def __call__(self, *values: Any) -> Any:
        if self._compiled is None:
            self._compiled = tf.function(self._function, autograph=False)
            if not self._static_shapes:
                signature = [tf.nest.map_structure(_any_shape, value) for value in values]
                self._compiled = self._compiled.get_concrete_function(*signature)
        return self._compiled(*values)


def _any_shape(value: Any) -> Any:
    """Return the type of a tensor or of a per-replica value, its dimensions left open."""
    spec = tf.type_spec_from_value(value)
    if isinstance(spec, tf.TensorSpec):
        return tf.TensorSpec([None] * spec.shape.rank, spec.dtype)
    parts = [tf.type_spec_from_value(part) for part in value.values]
    return type(spec)(*(tf.TensorSpec([None] * part.shape.rank, part.dtype) for part in parts))


class _Rows:
    """How many rows the parts of a batch are filled up to: the most that one has, or, for static shapes, ever had."""

    def __init__(self, static_shapes: bool) -> None:
        self._static_shapes, self._most = static_shapes, 0

    def __call__(self, rows: int) -> int:
        if not self._static_shapes:
            return rows
        self._most = max(self._most, -(-rows // _TPU_ROWS) * _TPU_ROWS)
        return self._most


def _replica_context() -> Any:
    return tf.distribute.get_replica_context()


def _seed_generators(model: keras.Model) -> list[Any]:
    """Return every random generator of a model's layers; tests/training/test_distribution.py tells when Keras hides them."""
    layers = model._flatten_layers()
    return list({id(found): found for layer in layers for found in getattr(layer, "_seed_generators", ())}.values())


def _next_seed_of_replica(next_seed: Callable[..., tf.Tensor], ordered: bool = True) -> tf.Tensor:
    seed = next_seed(ordered)
    context = _replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return seed
    replica = tf.cast(context.replica_id_in_sync_group, tf.int32)
    return tf.cast(tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int32), replica), seed.dtype)


@functools.cache  # two strategies in one process do not go together: https://github.com/tensorflow/tensorflow/issues/62790
def build_distribution(name: str) -> Distribution:
    """Return what `runtime.strategy` names; `multi_worker` and `tpu` only before anything else is computed in the process.

    Args:
        name: `none` (one device), `mirrored` (all GPUs of this machine, else its CPUs), `multi_worker` (the workers that the
            environment's TF_CONFIG lists, each with all its GPUs) or `tpu` (the TPU that TPU_NAME names, else this machine's).

    Raises:
        UserError: TF_CONFIG or a TPU is missing, or TF_CONFIG is bad.
    """
    return STRATEGIES[name]()


def _mirrored() -> Distribution:
    gpus = tf.config.list_logical_devices("GPU")
    devices = [device.name for device in gpus or tf.config.list_logical_devices("CPU")]
    return Replicas(tf.distribute.MirroredStrategy(devices))


def _multi_worker() -> Distribution:
    share = _worker_share(os.environ.get("TF_CONFIG", ""))
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:  # TensorFlow computed something before
        raise UserError(
            f"runtime.strategy: 'multi_worker' must be set up first in a process; {str(error).splitlines()[0]}"
        ) from None
    return Replicas(strategy, share)


def _worker_share(text: str) -> tuple[int, int]:
    """Return this worker's number (the chief's is 0) and how many there are, as a TF_CONFIG says."""
    example = '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
    try:
        config = json.loads(text)
        kind, index = config["task"]["type"], int(config["task"]["index"])
        cluster = {name: len(hosts) for name, hosts in config["cluster"].items()}
        others = set(cluster) - {"chief", "worker"}
        if others:
            raise ValueError(f"it names {', '.join(sorted(others))}")
        if kind not in cluster or not 0 <= index < cluster[kind]:
            raise ValueError(f"its cluster has no {kind} {index}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = "it is not set" if not text else str(error) or type(error).__name__
        raise UserError(
            f"runtime.strategy: 'multi_worker' needs the environment variable TF_CONFIG with workers only, as in {example}; "
            f"{reason}. `python -m mtdnn_tf.train_workers` starts workers on one machine"
        ) from None
    chiefs = cluster.get("chief", 0)
    return (index if kind == "chief" else chiefs + index), sum(cluster.values())


def _tpu() -> Distribution:
    name = os.environ.get("TPU_NAME", "")
    if not name and not tf.config.list_physical_devices("TPU"):
        raise UserError(
            f"runtime.strategy: 'tpu' needs a TPU, and TensorFlow {tf.__version__} finds none on this machine; "
            "set TPU_NAME, install a TensorFlow with TPU support, or use 'mirrored' or 'none'"
        )
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(name or "local")
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        strategy = tf.distribute.TPUStrategy(resolver)
    except (tf.errors.OpError, ValueError, RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"runtime.strategy: 'tpu' finds no TPU under TPU_NAME={name!r}: {reason}") from None
    return Replicas(strategy, static_shapes=True)


STRATEGIES: dict[str, Callable[[], Distribution]] = {
    "none": Distribution,
    "mirrored": _mirrored,
    "multi_worker": _multi_worker,
    "tpu": _tpu,
}
"""What `runtime.strategy` may be. No parameter servers: their workers' updates come late and in any order."""
