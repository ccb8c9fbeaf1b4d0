"""Edits of a written saved_model.pb that TensorFlow offers no option for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorflow.core.protobuf import fingerprint_pb2, saved_model_pb2

EXAMPLES = "examples"  # the one placeholder that Classify, Regress and MultiInference requests feed


def finish_graph(folder: Path, methods: Mapping[str, str]) -> None:
    """Fit a written SavedModel to TensorFlow Serving and leave out what differs between equal exports.

    Classify and Regress signatures get their method names (TensorFlow always writes "predict") and share one input placeholder:
    MultiInference refuses signatures whose input tensors differ. fingerprint.pb loses its random id, and its checksum of
    the file as it was before.

    Args:
        folder: of the SavedModel.
        methods: method names by signature; of the rest they stay.
    """
    path = folder / "saved_model.pb"
    proto = read_graph(folder)
    for meta_graph in proto.meta_graphs:
        for name, method in methods.items():
            meta_graph.signature_def[name].method_name = method
        _share_examples(meta_graph, list(methods))
    path.write_bytes(proto.SerializeToString(deterministic=True))
    _make_reproducible(folder / "fingerprint.pb")


def read_graph(folder: Path) -> Any:
    """Return a SavedModel's `SavedModel` message."""
    return saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())


def _share_examples(meta_graph: Any, signatures: list[str]) -> None:
    inputs = [meta_graph.signature_def[name].inputs["inputs"] for name in signatures]
    replaced = {tensor.name.removesuffix(":0") for tensor in inputs}
    nodes = meta_graph.graph_def.node
    if not replaced:
        return
    if any(node.name == EXAMPLES for node in nodes):
        raise ValueError(f"a node is called {EXAMPLES!r} already")
    shared = next(node for node in nodes if node.name in replaced)
    kept = [node for node in nodes if node.name not in replaced or node is shared]
    shared.name = EXAMPLES
    for node in kept:
        for index, source in enumerate(node.input):
            if source.removesuffix(":0") in replaced:
                node.input[index] = EXAMPLES
    kept_messages = [type(node).FromString(node.SerializeToString()) for node in kept]
    del nodes[:]
    nodes.extend(kept_messages)
    for tensor in inputs:
        tensor.name = f"{EXAMPLES}:0"


def _make_reproducible(path: Path) -> None:
    proto = fingerprint_pb2.FingerprintDef.FromString(path.read_bytes())
    proto.ClearField("uuid")
    proto.ClearField("saved_model_checksum")
    path.write_bytes(proto.SerializeToString(deterministic=True))
