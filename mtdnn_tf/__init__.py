"""Multi-task deep neural networks for natural language understanding (MT-DNN) in TensorFlow and Keras."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mtdnn_tf.config import ExperimentConfig, load_config
    from mtdnn_tf.data.mixing import Mixture, build_mixture
    from mtdnn_tf.errors import UserError
    from mtdnn_tf.evaluation.evaluate import evaluate_tasks
    from mtdnn_tf.evaluation.runs import Run, load_run
    from mtdnn_tf.modeling.encoders import Encoder, load_encoder
    from mtdnn_tf.modeling.model import build_model, task_model
    from mtdnn_tf.serving.saved_model import export_saved_model
    from mtdnn_tf.tasks import TaskSpec, load_tasks
    from mtdnn_tf.training.optimizers import build_optimizer
    from mtdnn_tf.training.trainer import MultiTaskTrainer

# Where each public name lives. They are imported on first use: reading a configuration needs no TensorFlow.
_HOME = {
    "ExperimentConfig": "config",
    "load_config": "config",
    "TaskSpec": "tasks",
    "load_tasks": "tasks",
    "UserError": "errors",
    "Mixture": "data.mixing",
    "build_mixture": "data.mixing",
    "Encoder": "modeling.encoders",
    "load_encoder": "modeling.encoders",
    "build_model": "modeling.model",
    "task_model": "modeling.model",
    "build_optimizer": "training.optimizers",
    "MultiTaskTrainer": "training.trainer",
    "evaluate_tasks": "evaluation.evaluate",
    "Run": "evaluation.runs",
    "load_run": "evaluation.runs",
    "export_saved_model": "serving.saved_model",
}

__all__ = [
    "Encoder",
    "ExperimentConfig",
    "Mixture",
    "MultiTaskTrainer",
    "Run",
    "TaskSpec",
    "UserError",
    "build_mixture",
    "build_model",
    "build_optimizer",
    "evaluate_tasks",
    "export_saved_model",
    "load_config",
    "load_encoder",
    "load_run",
    "load_tasks",
    "task_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
