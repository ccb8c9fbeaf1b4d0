"""What tells two exports apart: one hash of everything that decides an answer."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tensorflow.core.protobuf import fingerprint_pb2

from mtdnn_tf.files import sha256
from mtdnn_tf.serving.graph_edits import read_graph

FINGERPRINT_FILE = Path("assets.extra") / "fingerprint.json"
# Function names in saved_model.pb count on through the life of a process, so its bytes are not compared but what they mean.
_BY_MEANING = ("saved_model.pb", "fingerprint.pb")


def fingerprint(folder: Path) -> str:
    """Return 16 hexadecimal digits: equal for exports of one model by the same versions, whichever process wrote them.

    They cover the bytes of variables, assets and warm-up requests, every signature with its inputs, outputs and method, and
    TensorFlow's own hash of the graph, in which function names do not count.

    Args:
        folder: of a SavedModel, before the model card and this fingerprint are added.
    """
    total = hashlib.sha256()
    for name, digest in file_hashes(folder).items():
        if name not in _BY_MEANING:
            total.update(f"{name} {digest}\n".encode())
    hashes = fingerprint_pb2.FingerprintDef.FromString((folder / "fingerprint.pb").read_bytes())
    total.update(f"graph {hashes.graph_def_program_hash}\n".encode())
    for meta_graph in read_graph(folder).meta_graphs:
        for name in sorted(meta_graph.signature_def):
            total.update(name.encode() + meta_graph.signature_def[name].SerializeToString(deterministic=True))
    return total.hexdigest()[:16]


def write_fingerprint(folder: Path, value: str) -> None:
    """Write the fingerprint, and the sha256 of every other file, into `assets.extra`."""
    content = {"fingerprint": value, "files": file_hashes(folder)}
    (folder / FINGERPRINT_FILE).parent.mkdir(exist_ok=True)
    (folder / FINGERPRINT_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_fingerprint(folder: Path) -> str:
    """Return the fingerprint that was written with an export."""
    value: str = json.loads((folder / FINGERPRINT_FILE).read_text(encoding="utf-8"))["fingerprint"]
    return value


def file_hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file below a folder, by its relative path, the fingerprint's own file left out."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    relative = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: sha256(path) for name, path in relative.items() if name != FINGERPRINT_FILE.as_posix()}
