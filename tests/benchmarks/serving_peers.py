"""The same networks in PyTorch (transformers' BertModel) and onnxruntime, on the same weights, each task with an encoder of its own."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from transformers import BertModel

from mtdnn_tf.modeling.head import Head
from mtdnn_tf.modeling.heads import LinearHead, SANHead
from mtdnn_tf.modeling.model import INPUTS
from tests.benchmarks.measuring import machine
from tests.benchmarks.train_step import weights_folder

Answer = Callable[[Mapping[str, np.ndarray]], np.ndarray]  # ids -> logits [batch, outputs] float32
PEERS = (
    "PyTorch float32",
    "PyTorch float32 compiled",
    "PyTorch bfloat16",
    "PyTorch bfloat16 compiled",
    "onnxruntime float32",
)
# Compiled anew for each shape that is timed; the default gives up after eight.
torch._dynamo.config.recompile_limit = 256


class TorchTask(torch.nn.Module):
    """An encoder and a head."""

    def __init__(self, encoder: Any, head: torch.nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, token_ids: Any, segment_ids: Any, padding_mask: Any) -> Any:
        found = self.encoder(input_ids=token_ids, token_type_ids=segment_ids, attention_mask=padding_mask)
        return self.head(found.last_hidden_state, found.pooler_output, segment_ids, padding_mask)


class TorchLinear(torch.nn.Module):
    """A `LinearHead`."""

    def __init__(self, head: LinearHead) -> None:
        super().__init__()
        self.dense = _linear(head.dense)

    def forward(self, sequence: Any, vector: Any, segment_ids: Any, padding_mask: Any) -> Any:
        return self.dense(vector)


class TorchSAN(torch.nn.Module):
    """A `SANHead` (paper, Eq. 3 and 4)."""

    def __init__(self, head: SANHead) -> None:
        super().__init__()
        self.steps = head.steps
        self.summary, self.attention, self.answer = map(_linear, (head.summary, head.attention, head.answer))
        self.cell = _cell(head.cell)

    def forward(self, sequence: Any, vector: Any, segment_ids: Any, padding_mask: Any) -> Any:
        hypothesis = (segment_ids * padding_mask).bool()
        premise = padding_mask.bool() & ~hypothesis
        state = _attend(self.summary(sequence)[..., 0], hypothesis, sequence)
        predictions = []
        for step in range(self.steps):
            query = self.attention(state)[..., None]  # [B, d, 1]
            found = _attend(torch.bmm(sequence, query)[..., 0], premise, sequence)
            compared = torch.cat([found, state, (found - state).abs(), found * state], dim=-1)
            predictions.append(torch.log_softmax(self.answer(compared), dim=-1))
            if step + 1 < self.steps:
                state = self.cell(found, state)
        return torch.logsumexp(torch.stack(predictions), dim=0) - math.log(self.steps)


HEADS: dict[type[Head], type[torch.nn.Module]] = {LinearHead: TorchLinear, SANHead: TorchSAN}


def _attend(scores: Any, allowed: Any, sequence: Any) -> Any:
    shares = scores.masked_fill(~allowed, -math.inf).softmax(dim=-1)
    return torch.bmm(shares[:, None], sequence)[:, 0]


def _linear(dense: Any) -> torch.nn.Linear:
    layer = torch.nn.Linear(*dense.kernel.shape)
    _fill(layer, {"weight": dense.kernel.numpy().T, "bias": dense.bias.numpy()})
    return layer


def _cell(cell: Any) -> torch.nn.GRUCell:
    """Return Keras' GRU cell: its gates stand as update, reset, new; PyTorch's as reset, update, new."""
    layer = torch.nn.GRUCell(cell.kernel.shape[0], cell.units)
    order = np.concatenate([np.arange(cell.units) + gate * cell.units for gate in (1, 0, 2)])
    biases = cell.bias.numpy()[:, order]
    kernels = {"weight_ih": cell.kernel, "weight_hh": cell.recurrent_kernel}
    _fill(layer, {name: value.numpy().T[order] for name, value in kernels.items()})
    _fill(layer, {"bias_ih": biases[0], "bias_hh": biases[1]})
    return layer


def _fill(layer: torch.nn.Module, values: Mapping[str, np.ndarray]) -> None:
    with torch.no_grad():
        for name, value in values.items():
            getattr(layer, name).copy_(torch.from_numpy(np.ascontiguousarray(value)))


class Peers:
    """Single-task models of one encoder, in every mode that is compared."""

    def __init__(self, folder: Path) -> None:
        """Take a folder for ONNX files."""
        self._folder = folder
        self._encoder = BertModel.from_pretrained(weights_folder()).eval()

    def networks(self, heads: Sequence[Head]) -> list[TorchTask]:
        """Return a network for each head; no two share weights."""
        return [TorchTask(copy.deepcopy(self._encoder), HEADS[type(head)](head)).eval() for head in heads]

    def answers(
        self, names: Sequence[str], heads: Sequence[Head], dynamic: bool = False, threads: int | None = None
    ) -> dict[str, list[Answer]]:
        """Return by name of `PEERS` a function for each head.

        Args:
            names: of `PEERS`.
            heads: trained.
            dynamic: whether to compile once for all shapes instead of once for each.
            threads: of an onnxruntime session; None: all cores.
        """
        networks = self.networks(heads)
        rounded = [copy.deepcopy(network).bfloat16() for network in networks] if "bfloat16" in " ".join(names) else []
        found: dict[str, list[Answer]] = {}
        for name in names:
            if name.startswith("onnxruntime"):
                found[name] = [onnx_answer(self.onnx_file(head), threads) for head in heads]
                continue
            chosen = rounded if "bfloat16" in name else networks
            found[name] = [torch_answer(compiled(each, dynamic) if "compiled" in name else each) for each in chosen]
        return found

    def reference(self, answers: Mapping[str, list[Answer]], heads: Sequence[Head]) -> list[Answer]:
        """Return PyTorch's eager float32 answers, which all others are compared with, whether they are timed or not."""
        name = PEERS[0]
        return answers[name] if name in answers else self.answers([name], heads)[name]

    def onnx_file(self, head: Head) -> Path:
        """Return the exported network of a head; heads of one kind hold equal numbers, so that one file serves them all."""
        path = self._folder / f"{type(head).__name__}-{head.outputs}.onnx"
        if not path.exists():
            [network] = self.networks([head])
            write_onnx(network, path)
        return path


def compiled(network: TorchTask, dynamic: bool) -> TorchTask:
    """Return the network with its encoder compiled; encoders of one shape share the code that is made."""
    return TorchTask(torch.compile(network.encoder, dynamic=dynamic), network.head).eval()


def torch_answer(network: torch.nn.Module) -> Answer:
    """Return a function from NumPy ids to logits."""

    def answer(ids: Mapping[str, np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            logits = network(*(torch.from_numpy(ids[name]).long() for name in INPUTS))
        return logits.float().numpy()

    return answer


def write_onnx(network: torch.nn.Module, path: Path) -> None:
    """Write a network as ONNX, weights inside the file: sessions must not share the pages of a second one."""
    # Three tensors: inputs that were one would become one.
    ids, segments, mask = (torch.ones([2, 16], dtype=torch.long) for _ in INPUTS)
    shape = {0: "batch", 1: "length"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (ids, segments, mask),
            str(path),
            input_names=list(INPUTS),
            output_names=["logits"],
            dynamic_shapes=(shape, shape, shape),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def onnx_answer(path: Path, threads: int | None = None) -> Answer:
    """Return a function from NumPy ids to logits, by a session with all of onnxruntime's graph optimisations."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or machine()["cores"]
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda ids: session.run(None, {name: ids[name].astype(np.int64) for name in INPUTS})[0]
