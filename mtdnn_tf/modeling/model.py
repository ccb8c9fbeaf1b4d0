"""The multi-task network as one functional Keras model: a shared encoder, one named output for each task."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtdnn_tf.config import DataConfig, ExperimentConfig, ModelConfig
from mtdnn_tf.data.batches import INPUTS
from mtdnn_tf.errors import UserError, unknown_name
from mtdnn_tf.modeling.backbone import draw_dropout_in_float32
from mtdnn_tf.modeling.encoders import Encoder
from mtdnn_tf.modeling.head import Head
from mtdnn_tf.modeling.heads import build_head
from mtdnn_tf.modeling.sharing import SHARING_MODES, Sharing, TaskToken, View, check_sharing
from mtdnn_tf.seeds import derive_seed
from mtdnn_tf.tasks import TaskSpec


def build_model(
    encoder: Encoder,
    tasks: Sequence[TaskSpec],
    sharing: str | None = None,
    *,
    config: ExperimentConfig | None = None,
    pooler: str | None = None,
    dropout: float | None = None,
    san_steps: int | None = None,
    san_prediction_dropout: float | None = None,
    seed: int | None = None,
) -> keras.Model:
    """Build the network of Liu et al. (2019), Figure 1, or one that shares otherwise.

    Args:
        encoder: shared by all tasks; the model holds its backbone as the layer `encoder`.
        tasks: each becomes an output; those with `head_of` use another task's and get none.
        sharing: of `SHARING_MODES`.
        config: what the arguments left out are taken from (`model`, `training.seed`), as the command `train` does; None: the defaults
            of `ModelConfig`, and seed 0.
        pooler: what linear heads see: `pretrained` (the encoder's tanh pooler) or `none` (the [CLS] position itself). The mean of
            `stack_pooling` takes no part of it.
        dropout: of heads whose task names none.
        san_steps: K of the SAN heads.
        san_prediction_dropout: how often a SAN step is left out of the mean in training.
        seed: heads are drawn from it and the task's name: adding a task changes no other head.

    Returns:
        Inputs `token_ids`, `segment_ids`, `padding_mask`, `[batch, length] int32`; outputs {task: logits `[batch, C] float32`}.
        The layer named like a task is its head. A head with `extra_inputs` adds them to the inputs.

    Raises:
        UserError: an unknown name, two tasks of one name, a head that does not suit its task, or no task at all.
    """
    given = {
        "sharing": sharing,
        "pooler": pooler,
        "dropout": dropout,
        "san_steps": san_steps,
        "san_prediction_dropout": san_prediction_dropout,
    }
    set_here: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    options = replace(config.model if config else ModelConfig(), **set_here)
    if seed is None:
        seed = config.training.seed if config else 0
    check_sharing(options.sharing, options.pooler)
    owners = [task for task in tasks if task.head_of is None]
    names = [task.name for task in owners]
    if not names or len(set(names)) < len(names):
        raise UserError(f"tasks: needs one or more tasks of different names, received {', '.join(names) or 'none'}")
    inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in INPUTS}
    draw_dropout_in_float32(encoder.backbone)
    views = SHARING_MODES[options.sharing](
        Sharing(
            encoder.backbone,
            dict(inputs),
            names,
            options.pooler,
            lambda owner: _initial_token(encoder, owner, seed),
        )
    )
    outputs = {}
    for task in owners:
        head = build_head(
            task,
            dropout=options.dropout,
            san_steps=options.san_steps,
            san_prediction_dropout=options.san_prediction_dropout,
            width=encoder.backbone.intermediate_dim,
            seed=seed,
        )
        head.attach(encoder.backbone)
        if task.name in ("encoder", *inputs, *head.extra_inputs):
            raise UserError(f"tasks.{task.name}: this name is taken by a part of the model; choose another")
        extra = {
            name: keras.Input((None,), dtype="int32", name=name) for name in head.extra_inputs if name not in inputs
        }
        inputs |= extra
        named = {name: inputs[name] for name in head.extra_inputs}
        outputs[task.name] = head(*views[task.name], inputs["segment_ids"], inputs["padding_mask"], **named)
    return keras.Model(inputs, outputs, name="mtdnn")


def _initial_token(encoder: Encoder, owner: str, seed: int) -> np.ndarray:
    return encoder.backbone.initial_token(encoder.tokenizer.cls_id, derive_seed(seed, "first_tokens", owner))


def restart_first_tokens(model: keras.Model, encoder: Encoder, kept: Collection[str], seed: int = 0) -> None:
    """Give first tokens what `build_model` would give them with the encoder's weights as they are now.

    Args:
        model: its encoder is that of `encoder`.
        encoder: whose weights were loaded after the model was built.
        kept: parts that stay as they are, as in `first_tokens/rte`.
        seed: of `build_model`.
    """
    for token in first_tokens(model):
        if f"first_tokens/{token.owner}" not in kept:
            token.embedding.assign(_initial_token(encoder, token.owner, seed))


def remember_length(model: keras.Model, max_length: int) -> None:
    """Let a model know the length in tokens that the texts it is trained on are cut to."""
    model.trained_length = max_length


def trained_length(model: keras.Model, encoder: Encoder) -> int:
    """Return the length in tokens to cut texts at: as in training; of a model that was not trained here 128, or what the encoder takes."""
    return getattr(model, "trained_length", None) or min(DataConfig.max_length, encoder.max_positions)


def input_spec(model: keras.Model) -> dict[str, tf.TensorSpec]:
    """Return the signature of a model's inputs: those of `INPUTS`, and what its heads take besides."""
    return {name: tf.TensorSpec([None, None], tf.int32, name=name) for name in model.input}


def task_model(model: keras.Model, name: str) -> keras.Model:
    """Return the part of the model that one task uses; weights are shared, the output is its logits `[batch, C] float32`.

    Raises:
        UserError: the model has no such task.
    """
    if name not in model.output:
        raise UserError(unknown_name("task_model", "task", name, model.output))
    return keras.Model(model.input, model.output[name], name=f"mtdnn_{name}")


def shared_model(model: keras.Model, name: str | None = None) -> keras.Model:
    """Return the part below a task's head (None: the first one): outputs the sequence `[batch, length, d]` and the vector `[batch, d]`."""
    sequence, vector = head_views(model)[name or heads_of(model)[0].name]
    return keras.Model(model.input, [sequence, vector], name="mtdnn_shared")


def head_views(model: keras.Model) -> dict[str, View]:
    """Return the Keras tensors that each head sees; where tasks part on top of the encoder, all heads see the same two."""
    return {head.name: View(*head.input[:2]) for head in heads_of(model)}


def view_model(model: keras.Model, names: Sequence[str]) -> keras.Model:
    """Return the part below several tasks' heads: outputs {task: {"sequence": `[batch, length, d]`, "vector": `[batch, d]`}}."""
    views = head_views(model)
    return keras.Model(model.input, {name: views[name]._asdict() for name in names}, name="mtdnn_views")


def parameter_counts(model: keras.Model) -> dict[str, int]:
    """Return the number of weights of each part: `encoder`, `first_tokens/<task>` where there are any, and `heads/<task>`."""
    return {name: layer.count_params() for name, layer in named_parts(model).items()}


def named_parts(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """Return the layers that hold the weights, by the name that checkpoints keep them under."""
    tokens = {f"first_tokens/{token.owner}": token for token in first_tokens(model)}
    return {"encoder": model.get_layer("encoder"), **tokens, **{f"heads/{head.name}": head for head in heads_of(model)}}


def first_tokens(model: keras.Model) -> list[TaskToken]:
    """Return the layers of the tasks' own tokens, in any order; none where tasks part on top."""
    return [layer for layer in model.layers if isinstance(layer, TaskToken)]


def heads_of(model: keras.Model) -> list[Head]:
    """Return the heads."""
    return [layer for layer in model.layers if isinstance(layer, Head)]
