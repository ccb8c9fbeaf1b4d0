"""Answers the requests of a check in a process of its own that cannot import this package: a program, not a module.

`python stranger.py REQUESTS.json ANSWERS.npz`. Every signature is run twice: as Python programs call it (`tf.saved_model.load`),
and as TensorFlow Serving does (the graph in a session, fed and fetched by the tensor names of the signature).
"""

from __future__ import annotations

import base64
import json
import os
import sys
from importlib.abc import MetaPathFinder
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


class _Absent(MetaPathFinder):
    """Makes packages look as if they were not installed."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        """Refuse the packages."""
        if fullname.split(".")[0] in self.names:
            raise ImportError(f"the model needs {fullname}, which a server does not have")


def main(requests_file: str, answers_file: str) -> None:
    """Load the model both ways, run what is asked, write `<way>|<signature>|<output>` arrays."""
    with open(requests_file, encoding="utf-8") as file:
        asked = json.load(file)
    sys.meta_path.insert(0, _Absent(asked["absent"]))
    import numpy as np
    import tensorflow as tf

    if asked["kind"] == "text":
        import tensorflow_text  # noqa: F401
    calls = {name: {key: _array(value) for key, value in inputs.items()} for name, inputs in asked["calls"].items()}
    answers: dict[str, Any] = {}
    loaded = tf.saved_model.load(asked["folder"])
    for name, inputs in calls.items():
        outputs = loaded.signatures[name](**{key: tf.constant(value) for key, value in inputs.items()})
        answers |= {f"python|{name}|{key}": value.numpy() for key, value in outputs.items()}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        definitions = tf.compat.v1.saved_model.load(session, ["serve"], asked["folder"]).signature_def
        for name, inputs in calls.items():
            definition = definitions[name]
            fed = {definition.inputs[key].name: value for key, value in inputs.items()}
            outputs = session.run({key: tensor.name for key, tensor in definition.outputs.items()}, fed)
            answers |= {f"server|{name}|{key}": value for key, value in outputs.items()}
    np.savez(answers_file, **{key: _storable(np.asarray(value)) for key, value in answers.items()})


def _array(value: dict[str, Any]) -> Any:
    import numpy as np

    if "strings" in value:
        return np.array([base64.b64decode(text) for text in value["strings"]], dtype=object)
    return np.array(value["integers"], np.int32)


def _storable(value: Any) -> Any:
    """Strings are objects to NumPy; as fixed-width bytes they are stored without pickling."""
    return value.astype("S") if value.dtype == object else value


if __name__ == "__main__":
    main(*sys.argv[1:])
