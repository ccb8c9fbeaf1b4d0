"""BERT's two pre-training heads in one layer: the masked tokens and the next sentence (Devlin et al. 2019, section 3.1)."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from mtdnn_tf.data.masking import MASKED_FIELDS
from mtdnn_tf.modeling.backbone import EncoderBackbone
from mtdnn_tf.modeling.bert import ACTIVATIONS, as_bert
from mtdnn_tf.modeling.head import Head
from mtdnn_tf.tasks import TaskSpec


class PretrainingHead(Head):
    """Says of each row whether its second segment follows, and how well its masked tokens are found.

    Masked language model: the states of the masked positions alone go through a dense layer with the encoder's activation and
    LayerNorm; logits are products with the encoder's token embeddings, plus a bias. Next sentence: a dense layer on the sentence
    vector. The tokens that stood there are an input, so that logits over the vocabulary need not leave the layer.

    Output `[batch, 5] float32`: logits of "follows" and "does not"; of the masked tokens the sum of their negative log
    likelihoods in nats, their number, and how many have the highest logit.
    """

    extra_inputs = MASKED_FIELDS

    def __init__(self, task: TaskSpec, *, dropout: float, seed: int, **kwargs: Any) -> None:
        """See `Head`; these heads have no dropout."""
        super().__init__(task, dropout=dropout, seed=seed)
        self.following = self._dense(2, "following")

    @property
    def outputs(self) -> int:
        """The number of columns of the output."""
        return 5

    def attach(self, backbone: EncoderBackbone) -> None:
        """Take over the encoder's activation and epsilon; its token embeddings are used, but stay the encoder's alone.

        Raises:
            UserError: it is no BERT.
        """
        backbone = as_bert(backbone, "pre-training")
        self.transform = self._dense(backbone.hidden_dim, "transform")
        self.transform.activation = ACTIVATIONS[backbone.hidden_activation]
        self.norm = keras.layers.LayerNormalization(epsilon=backbone.layer_norm_epsilon, dtype="float32", name="norm")
        self._vocabulary_size = backbone.vocabulary_size
        table = backbone.token_embedding.embeddings
        self._embeddings = lambda: table._value  # in a function, where Keras does not look for weights

    def build(self, sequence_shape: Any, vector_shape: Any, *_: Any, **__: Any) -> None:
        """Create the weights."""
        self.transform.build((None, sequence_shape[-1]))
        self.norm.build((None, sequence_shape[-1]))
        self.following.build(vector_shape)
        self.decoder_bias = self.add_weight(shape=(self._vocabulary_size,), initializer="zeros", name="bias")

    def call(
        self,
        sequence: Any,
        vector: Any,
        segment_ids: Any,
        padding_mask: Any,
        masked_positions: Any,
        masked_ids: Any,
        training: bool | None = None,
    ) -> Any:
        """Return the columns; see the class. `masked_positions` and `masked_ids` are `[batch, predictions] int32`."""
        states = tf.gather(sequence, masked_positions, batch_dims=1)  # [batch, predictions, d]
        logits = tf.matmul(self.norm(self.transform(states)), self._embeddings(), transpose_b=True) + self.decoder_bias
        is_real = masked_ids >= 0
        labels = tf.where(is_real, masked_ids, 0)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        right = tf.argmax(logits, axis=-1, output_type=tf.int32) == labels
        columns = [tf.where(is_real, losses, 0.0), tf.cast(is_real, tf.float32), tf.cast(is_real & right, tf.float32)]
        sums = tf.stack([tf.reduce_sum(column, axis=1) for column in columns], axis=1)
        return tf.concat([self.following(vector), sums], axis=1)
