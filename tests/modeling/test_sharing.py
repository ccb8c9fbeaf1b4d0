"""The four sharing structures: what each gives on any encoder, and the parameter counts of the study they come from."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from keras import ops

import mtdnn_tf as mtdnn
from mtdnn_tf.config import OptimizerConfig
from mtdnn_tf.data.text import SPECIAL_TOKENS
from mtdnn_tf.modeling.model import first_tokens, head_views, parameter_counts, shared_model
from mtdnn_tf.modeling.sharing import SHARING_MODES
from mtdnn_tf.training.checkpoints import model_parts, optimizer_part
from mtdnn_tf.training.optimizers import build_optimizer
from mtdnn_tf.training.rates import rate_factors
from tests.modeling.test_model import INPUTS, OUTPUTS
from tests.small import TINY, TINY_WORDS

LAYERWISE = ("layerwise_implicit", "layerwise_explicit")
ENCODERS = {"bert": TINY, "words": TINY_WORDS}


@pytest.fixture
def tasks(experiment):
    return mtdnn.load_tasks(mtdnn.load_config(experiment))


def load(kind, **options):
    vocabulary = (*SPECIAL_TOKENS, *(f"word{number}" for number in range(95)))
    return mtdnn.load_encoder(ENCODERS[kind], seed=1, vocabulary=vocabulary if kind == "words" else None, **options)


def build(kind, tasks, sharing, **options):
    return mtdnn.build_model(load(kind), tasks, sharing, seed=1, **options)


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("sharing", SHARING_MODES)
def test_every_mode_works_on_every_encoder_and_padding_changes_no_answer(tasks, kind, sharing):
    model = build(kind, tasks, sharing)
    outputs = model(INPUTS)
    for name in OUTPUTS:
        sequence, vector = shared_model(model, name)(INPUTS)
        assert sequence.shape == (2, 8, 32)
        assert vector.shape == (2, 32)
        np.testing.assert_allclose(mtdnn.task_model(model, name)(INPUTS), outputs[name], atol=1e-5)
    longer = {name: np.pad(value, [(0, 0), (0, 3)]) for name, value in INPUTS.items()}
    longer["token_ids"][:, 8:] = 9  # whatever stands there
    for name, value in model(longer).items():
        np.testing.assert_allclose(value, outputs[name], atol=1e-5)


@pytest.mark.parametrize(("sharing", "pooler"), list(zip(LAYERWISE, ["pretrained", "none"], strict=True)))
def test_a_task_token_starts_as_the_cls_token_of_a_pretrained_encoder(tasks, sharing, pooler):
    """One task alone: before any step its token is [CLS], so that the model is the stacked one."""
    alone = build("bert", tasks[:1], sharing, pooler=pooler)
    stacked = build("bert", tasks[:1], "stack_cls", pooler=pooler)
    for mine, theirs in zip(shared_model(alone)(INPUTS), shared_model(stacked)(INPUTS), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_implicit_token_acts_on_its_own_task_alone(tasks, kind):
    model = build(kind, tasks, "layerwise_implicit")
    before = {name: value.numpy() for name, value in model(INPUTS).items()}
    _token(model, "close").assign_add(np.linspace(-1, 1, 32))
    after = model(INPUTS)
    changed = {name for name in before if not np.allclose(before[name], after[name])}
    assert changed == {"close"}


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_explicit_token_is_seen_by_all_tasks(tasks, kind):
    model = build(kind, tasks, "layerwise_explicit")
    before = {name: value.numpy() for name, value in model(INPUTS).items()}
    _token(model, "close").assign_add(np.linspace(-1, 1, 32))
    after = model(INPUTS)
    assert all(not np.allclose(before[name], after[name], atol=1e-7) for name in before)


def _token(model, owner):
    return next(token.embedding for token in first_tokens(model) if token.owner == owner)


def test_explicit_tasks_read_their_own_columns_and_the_same_words(tasks):
    model = build("bert", tasks, "layerwise_explicit")
    seen = {name: shared_model(model, name)(INPUTS)[0].numpy() for name in OUTPUTS}
    for name in OUTPUTS:
        np.testing.assert_array_equal(seen[name][:, 1:], seen["mood"][:, 1:])
    _token(model, "pick").assign_add(np.linspace(-1, 1, 32))
    moved = {name: shared_model(model, name)(INPUTS)[0].numpy() - seen[name] for name in OUTPUTS}
    own = {name: np.abs(value[:, 0]).max() for name, value in moved.items()}
    assert max(own, key=own.get) == "pick"


def test_pooling_is_the_mean_over_real_tokens(tasks):
    model = build("bert", tasks, "stack_pooling")
    sequence, vector = shared_model(model)(INPUTS)
    np.testing.assert_allclose(vector[0], np.mean(sequence[0, :6], axis=0), atol=1e-6)
    np.testing.assert_allclose(vector[1], np.mean(sequence[1], axis=0), atol=1e-6)


# Names of Keras' layers of operations, of this package's layers and their parts, and of variables.
NASTY = (
    *("cast", "sum", "maximum", "true_divide", "multiply", "concatenate", "get_item", "get_item_1"),
    *("transformer_layer_0", "transformer_layer_7", "token_embedding", "pooled_dense", "final_norm", "embedding_map"),
    *("mtdnn", "functional", "logits", "dropout", "kernel", "gamma", "seed_0", "optimizer"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "sharing"), [*(("bert", sharing) for sharing in SHARING_MODES), ("words", "layerwise_explicit")]
)
def test_tasks_may_be_called_as_parts_of_the_model(tasks, kind, sharing):
    """The model builds, rates follow the layers, and checkpoints keep every variable apart."""
    named = [dataclasses.replace(tasks[0], name=name, head="linear") for name in NASTY]
    model = build(kind, named, sharing)
    assert set(model.output) == set(NASTY)
    encoder = model.get_layer("encoder")
    config = OptimizerConfig(layer_decay=0.5, embedding_rate=0.1, head_rate=10.0)
    variables = model.trainable_variables
    factors = dict(zip(map(id, variables), rate_factors(variables, encoder, config), strict=True))
    if kind == "bert":
        tables = [
            encoder.token_embedding,
            encoder.position_embedding,
            encoder.segment_embedding,
            encoder.embeddings_layer_norm,
        ]
        expected = [(0.025, table) for table in tables] + [(1.0, encoder.pooled_dense)]
    else:
        expected = [(0.025, encoder.token_embedding), (0.25, encoder.embedding_map), (0.25, encoder.learned_positions)]
        expected += [(1.0, encoder.final_norm)]
    expected += [(0.5, encoder.transformer_layers[0]), (1.0, encoder.transformer_layers[1])]
    expected += [(10.0, model.get_layer(name)) for name in NASTY] + [(10.0, token) for token in first_tokens(model)]
    for factor, layer in expected:
        for variable in layer.trainable_variables:
            assert factors.pop(id(variable)) == pytest.approx(factor), variable.path
    assert not factors
    optimizer = build_optimizer(config, 10)
    optimizer.place(encoder)
    optimizer.build(variables)
    held = {**model_parts(model, named), "optimizer": optimizer_part(optimizer)}
    slots = sum(len(part) for name, part in held.items() if name == "optimizer")
    assert slots == len(optimizer.variables)
    weights = [variable for name, part in held.items() if name != "optimizer" for variable in part.values()]
    assert {id(variable.value) for variable in model.variables} == {id(variable) for variable in weights}


def test_pooling_over_words_leaves_cls_out(tasks):
    model = build("words", tasks, "stack_pooling")
    sequence, vector = shared_model(model)(INPUTS)
    np.testing.assert_allclose(vector[0], np.mean(sequence[0, 1:6], axis=0), atol=1e-6)
    other = {**INPUTS, "token_ids": INPUTS["token_ids"].copy()}
    other["token_ids"][:, 0] = 77
    np.testing.assert_array_equal(shared_model(model)(other)[1], vector)


def test_an_mlp_head_is_two_layers(tasks):
    """Relu(x W + a) V + b, on the mean."""
    task = dataclasses.replace(tasks[0], head="mlp")
    model = build("bert", [task], "stack_pooling")
    head, vector = model.get_layer("mood"), shared_model(model)(INPUTS)[1].numpy()
    kernel, bias, last, shift = (weight.numpy() for weight in head.weights)
    assert kernel.shape == (32, 64)  # d, the encoder's d_ff
    expected = np.maximum(vector @ kernel + bias, 0) @ last + shift
    np.testing.assert_allclose(model(INPUTS)["mood"], expected, atol=1e-6)


def test_mlp_is_the_default_head_of_pooling(experiment):
    stacked = mtdnn.load_tasks(mtdnn.load_config(experiment))
    assert {task.name: task.head for task in stacked}["mood"] == "linear"
    pooled = mtdnn.load_tasks(mtdnn.load_config(experiment, ["model.sharing=stack_pooling"]))
    assert {task.name: task.head for task in pooled} == {"mood": "mlp", "follows": "san", "close": "mlp", "pick": "mlp"}


@pytest.mark.parametrize("sharing", SHARING_MODES)
def test_stacked_heads_see_one_thing_and_layerwise_heads_their_own(tasks, sharing):
    views = head_views(build("bert", tasks, sharing))
    assert len({id(view.vector) for view in views.values()}) == (4 if sharing in LAYERWISE else 1)


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("sharing", LAYERWISE)
def test_adding_a_task_moves_no_token_of_another(tasks, kind, sharing):
    some, more = (build(kind, chosen, sharing) for chosen in (tasks[1:3], tasks))
    known = {token.owner: token.embedding for token in first_tokens(more)}
    for token in first_tokens(some):
        np.testing.assert_array_equal(token.embedding, known[token.owner])


@pytest.mark.parametrize("kind", ENCODERS)
def test_attention_among_first_tokens_is_that_of_the_last_layer(kind):
    """With all weights of query and key 0, every position gets the same share: 1 of (tokens and real words)."""
    backbone = load(kind).backbone
    attention = backbone.transformer_layers[-1]
    attention = attention._self_attention_layer if kind == "bert" else attention.attention
    for part in (attention._query_dense, attention._key_dense):
        part.kernel.assign(ops.zeros_like(part.kernel))
        part.bias.assign(ops.zeros_like(part.bias))
    tokens = np.random.default_rng(1).normal(size=[2, 3, 32]).astype(np.float32)
    shares = backbone.first_token_attention(INPUTS, tokens)
    assert shares.shape == (2, 2, 3, 3)
    np.testing.assert_allclose(shares[0], 1 / (3 + 5), atol=1e-6)
    np.testing.assert_allclose(shares[1], 1 / (3 + 7), atol=1e-6)


@pytest.mark.parametrize("kind", ENCODERS)
def test_attention_among_first_tokens_is_what_the_layer_itself_says(kind):
    backbone = load(kind).backbone
    tokens = np.random.default_rng(1).normal(size=[2, 3, 32]).astype(np.float32)
    *lower, last = backbone.transformer_layers
    if kind == "bert":
        x, mask = backbone._embedded(INPUTS, tokens, training=False)
        for layer in lower:
            x = layer(x, padding_mask=mask)
        attention = last._self_attention_layer
    else:
        x, mask = backbone._through(lower, INPUTS, tokens, training=False)
        x, attention = last.attention_norm(x), last.attention
    _, scores = attention(x, x, attention_mask=ops.cast(mask, "bool")[:, None, :], return_attention_scores=True)
    np.testing.assert_allclose(backbone.first_token_attention(INPUTS, tokens), scores[:, :, :3, :3], atol=1e-6)


# Sun (2019): parameters without embeddings, of a 4-layer encoder with d = 300, d_ff = 512. An encoder has 2,772,548: in a layer
# 4 (300 x 300 + 300) + (300 x 512 + 512) + (512 x 300 + 300) + 2 x 600, the final norm's 600, the map's 300 x 300 + 300. A head
# of 300 -> 2 has 602, also under pooling, whose text describes one with a hidden layer; a vector 300.
STUDY = {
    "single task": ("stack_pooling", 1, 2_773_150),
    "stack_pooling": ("stack_pooling", 16, 2_782_180),
    "stack_cls": ("stack_cls", 16, 2_782_480),
    "layerwise_implicit": ("layerwise_implicit", 16, 2_786_980),
    "layerwise_explicit": ("layerwise_explicit", 16, 2_786_980),
}


@pytest.mark.parametrize("row", STUDY)
def test_parameters_are_as_many_as_in_the_study(tasks, row):
    sharing, count, expected = STUDY[row]
    encoder = mtdnn.load_encoder("words://", vocabulary=SPECIAL_TOKENS)
    sixteen = [dataclasses.replace(tasks[0], name=f"task{number}", head="linear") for number in range(count)]
    counts = parameter_counts(mtdnn.build_model(encoder, sixteen, sharing))
    tables = [encoder.backbone.token_embedding, encoder.backbone.learned_positions]
    assert sum(counts.values()) - sum(table.count_params() for table in tables) == expected
