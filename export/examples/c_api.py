"""Runs a model through TensorFlow's C API: `python export/examples/c_api.py MODEL TASK "[CLS] a good day [SEP]"`.

MODEL is a version folder of the ids kind. Nothing of TensorFlow's Python is imported: these are the calls that a program in
C, Go, Java or Rust makes. `--library` names libtensorflow_cc.so.2 or libtensorflow.so; by default that of the installed
TensorFlow. Words are looked up in the model's vocabulary as they are; a real program splits them into word pieces.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

Message = dict[int, list[bytes]]  # a protobuf by field number; numbers are left out


class Buffer(ctypes.Structure):
    """TF_Buffer."""

    _fields_ = (("data", ctypes.c_void_p), ("length", ctypes.c_size_t), ("deallocator", ctypes.c_void_p))


class Output(ctypes.Structure):
    """TF_Output: a result of an operation."""

    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


DTYPES = {1: np.dtype(np.float32), 3: np.dtype(np.int32)}  # TF_FLOAT, TF_INT32
# Result and arguments of what is used here, as in tensorflow/c/c_api.h.
VOID, TEXT, NUMBER = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
FUNCTIONS = {
    "TF_Version": (TEXT, []),
    "TF_NewStatus": (VOID, []),
    "TF_GetCode": (NUMBER, [VOID]),
    "TF_Message": (TEXT, [VOID]),
    "TF_NewGraph": (VOID, []),
    "TF_NewSessionOptions": (VOID, []),
    "TF_NewBuffer": (ctypes.POINTER(Buffer), []),
    "TF_LoadSessionFromSavedModel": (VOID, [VOID, VOID, TEXT, VOID, NUMBER, VOID, VOID, VOID]),
    "TF_GraphOperationByName": (VOID, [VOID, TEXT]),
    "TF_AllocateTensor": (VOID, [NUMBER, VOID, NUMBER, ctypes.c_size_t]),
    "TF_TensorData": (VOID, [VOID]),
    "TF_TensorByteSize": (ctypes.c_size_t, [VOID]),
    "TF_NumDims": (NUMBER, [VOID]),
    "TF_Dim": (ctypes.c_int64, [VOID, NUMBER]),
    "TF_DeleteTensor": (None, [VOID]),
    "TF_SessionRun": (None, [VOID, VOID, VOID, VOID, NUMBER, VOID, VOID, NUMBER, VOID, NUMBER, VOID, VOID]),
    "TF_CloseSession": (None, [VOID, VOID]),
    "TF_DeleteSession": (None, [VOID, VOID]),
}


class SavedModel:
    """A SavedModel in a session of the C API."""

    def __init__(self, library: str, path: str) -> None:
        """Load the library, and the model's graph for serving."""
        self._tf = ctypes.CDLL(library)
        for name, (result, arguments) in FUNCTIONS.items():
            function = getattr(self._tf, name)
            function.restype, function.argtypes = result, arguments
        self._status = self._tf.TF_NewStatus()
        self._graph = self._tf.TF_NewGraph()
        tags = (TEXT * 1)(b"serve")
        described = self._tf.TF_NewBuffer()
        self._session = self._tf.TF_LoadSessionFromSavedModel(
            self._tf.TF_NewSessionOptions(), None, str(path).encode(), tags, 1, self._graph, described, self._status
        )
        self._check()
        meta_graph = ctypes.string_at(described.contents.data, described.contents.length)
        self._signatures = entries(fields(meta_graph).get(5, []))  # MetaGraphDef.signature_def

    @property
    def version(self) -> str:
        """The library's version."""
        return self._tf.TF_Version().decode()

    def __call__(self, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the numeric outputs of a signature; raises ValueError with TensorFlow's message."""
        if signature not in self._signatures:
            raise ValueError(f"no signature {signature!r}; there are {', '.join(sorted(self._signatures))}")
        described = fields(self._signatures[signature])
        sources = {name: self._output(info) for name, info in entries(described[1]).items()}
        targets = {
            name: self._output(info) for name, info in entries(described[2]).items() if number(info, 2) in DTYPES
        }
        if set(inputs) != set(sources):
            raise ValueError(f"{signature} takes {', '.join(sorted(sources))}; received {', '.join(sorted(inputs))}")
        fed = (VOID * len(inputs))(*(self._tensor(value) for value in inputs.values()))
        fetched = (VOID * len(targets))()
        self._tf.TF_SessionRun(
            self._session, None,
            (Output * len(fed))(*(sources[name] for name in inputs)), fed, len(fed),
            (Output * len(fetched))(*targets.values()), fetched, len(fetched),
            None, 0, None, self._status,
        )  # fmt: skip
        for tensor in fed:
            self._tf.TF_DeleteTensor(tensor)
        self._check()
        dtypes = [DTYPES[number(info, 2)] for name, info in entries(described[2]).items() if name in targets]
        return {name: self._array(*each) for name, *each in zip(targets, fetched, dtypes, strict=True)}

    def close(self) -> None:
        """End the session."""
        self._tf.TF_CloseSession(self._session, self._status)
        self._tf.TF_DeleteSession(self._session, self._status)

    def _check(self) -> None:
        if self._tf.TF_GetCode(self._status):
            raise ValueError(self._tf.TF_Message(self._status).decode())

    def _output(self, info: bytes) -> Output:
        """Return the graph's end of a TensorInfo, whose name is `operation:index`."""
        operation, index = fields(info)[1][0].decode().rsplit(":", 1)
        return Output(self._tf.TF_GraphOperationByName(self._graph, operation.encode()), int(index))

    def _tensor(self, value: np.ndarray) -> int:
        dtype = next(key for key, dtype in DTYPES.items() if dtype == value.dtype)
        shape = (ctypes.c_int64 * value.ndim)(*value.shape)
        tensor = self._tf.TF_AllocateTensor(dtype, shape, value.ndim, value.nbytes)
        ctypes.memmove(self._tf.TF_TensorData(tensor), np.ascontiguousarray(value).ctypes.data, value.nbytes)
        return tensor

    def _array(self, tensor: int, dtype: np.dtype) -> np.ndarray:
        """Return a copy of a tensor, which is freed."""
        shape = [self._tf.TF_Dim(tensor, axis) for axis in range(self._tf.TF_NumDims(tensor))]
        data = ctypes.string_at(self._tf.TF_TensorData(tensor), self._tf.TF_TensorByteSize(tensor))
        self._tf.TF_DeleteTensor(tensor)
        return np.frombuffer(data, dtype).reshape(shape)


def scan(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield field numbers and values of a protobuf: numbers, or bytes of what has a length."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
            continue
        size = varint() if kind == 2 else 8 if kind == 1 else 4
        yield key >> 3, data[at : at + size]
        at += size


def fields(data: bytes) -> Message:
    """Return the fields of a protobuf that have a length: strings and messages."""
    found: Message = {}
    for key, value in scan(data):
        if isinstance(value, bytes):
            found.setdefault(key, []).append(value)
    return found


def number(data: bytes, field: int) -> int:
    """Return a field that is a number; 0 if it is not there."""
    return next((value for key, value in scan(data) if key == field and isinstance(value, int)), 0)


def entries(items: list[bytes]) -> dict[str, bytes]:
    """Return a protobuf map of messages."""
    return {fields(item)[1][0].decode(): fields(item).get(2, [b""])[0] for item in items}


def main() -> None:
    """Read the command line, look the words up, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("task")
    parser.add_argument("tokens", help="separated by spaces; those after the first [SEP] are the second text")
    parser.add_argument("--library", help="the shared library")
    arguments = parser.parse_args()
    library = arguments.library
    if not library:
        folder = importlib.util.find_spec("tensorflow").submodule_search_locations[0]  # found, not imported
        library = f"{folder}/libtensorflow_cc.so.2"

    vocabulary = (Path(arguments.model) / "assets" / "vocab.txt").read_text(encoding="utf-8").split("\n")
    ids = {token: index for index, token in enumerate(vocabulary)}
    tokens = arguments.tokens.split()
    first = tokens.index("[SEP]") + 1 if "[SEP]" in tokens else len(tokens)
    try:
        model = SavedModel(library, arguments.model)
        print(f"TensorFlow {model.version}, by its C API")
        found = model(
            arguments.task,
            {
                "token_ids": np.array([[ids.get(token, ids["[UNK]"]) for token in tokens]], np.int32),
                "segment_ids": np.array([[0] * first + [1] * (len(tokens) - first)], np.int32),
                "padding_mask": np.ones((1, len(tokens)), np.int32),
            },
        )
        model.close()
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(json.dumps({name: value.tolist() for name, value in sorted(found.items())}))


if __name__ == "__main__":
    main()
