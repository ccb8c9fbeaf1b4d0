"""MODEL_CARD.md: what a model is, what it was made from, how it scored, and what nobody has measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtdnn_tf.config import config_hash
from mtdnn_tf.data.mixing import Mixture
from mtdnn_tf.evaluation.runs import Run
from mtdnn_tf.files import write_text_atomically
from mtdnn_tf.provenance import source_hashes, versions
from mtdnn_tf.tasks import TaskSpec


def write_model_card(run: Run, mixture: Mixture, scores: Mapping[str, Any], *, command: str = "") -> Path:
    """Write MODEL_CARD.md into the run directory."""
    config = run.config
    lines = [
        f"# {run.model_dir.name}: a multi-task text model",
        "",
        f"One shared encoder (`{config.encoder.source}`) with {len(run.tasks)} tasks on it, trained together (MT-DNN, "
        "Liu et al., ACL 2019).",
        "",
        "## Tasks",
        "",
        "| task | type | head | inputs | labels or range | training examples |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_task_row(task, mixture) for task in run.tasks),
        "",
        "## Scores on the development sets",
        "",
        f"In percent, one run, seed {config.training.seed}, best of its epochs by `{config.training.best_metric}`: chosen "
        "on the same development sets, so a little optimistic.",
        "",
        "| task | metric | score |",
        "| --- | --- | --- |",
        *_score_rows(run.tasks, scores),
        "",
        "## Made with",
        "",
        f"- configuration {config_hash(config)} (`config.yaml` beside this card); command: `{command or 'not recorded'}`",
        f"- {', '.join(f'{name} {version}' for name, version in versions().items())}",
        f"- {config.training.epochs} epochs of {mixture.steps_per_epoch} steps, {config.runtime.precision}, texts cut at "
        f"{config.data.max_length} tokens",
        "",
        "## Data",
        "",
        "| file | sha256, first 12 digits |",
        "| --- | --- |",
        *(f"| `{path}` | {digest} |" for path, digest in source_hashes(run.tasks).items()),
        "",
        "## Licences",
        "",
        "Encoder weights: as their publisher says (all-MiniLM-L6-v2: Apache-2.0). Data: as their publishers say. This card "
        "does not change either.",
        "",
        "## Limits",
        "",
        "It answers for texts like those it was trained on. Other languages, domains and lengths, fairness between groups, "
        "calibration of the probabilities and robustness against hostile input were not measured. Scores come from one seed.",
        "",
    ]
    path = run.model_dir / "MODEL_CARD.md"
    write_text_atomically(path, "\n".join(lines))
    return path


def _task_row(task: TaskSpec, mixture: Mixture) -> str:
    meaning = (
        ", ".join(task.labels) if task.labels else (f"{task.range[0]:g} to {task.range[1]:g}" if task.range else "")
    )
    examples = mixture.example_counts.get(task.name, 0)
    return (
        f"| {task.name} | {task.type} | {task.head_of or task.head} | {', '.join(task.text)} | {meaning} | {examples} |"
    )


def _score_rows(tasks: Sequence[TaskSpec], scores: Mapping[str, Any]) -> list[str]:
    rows = [
        f"| {task.name} | {metric} | {100 * value:.2f} |"
        for task in tasks
        for metric, value in scores.get(task.name, {}).items()
    ]
    return [*rows, f"| average of main metrics | | {100 * scores['average']:.2f} |"]
