"""MODEL_CARD.md: what a model is, what it was made from, how it scored, and what nobody has measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtdnn_tf.config import ExperimentConfig, config_hash
from mtdnn_tf.data.hashes import source_hashes
from mtdnn_tf.data.mixing import Mixture
from mtdnn_tf.evaluation.licences import data_licences, weights_licence
from mtdnn_tf.evaluation.origins import EarlierRun, earlier_runs, encoder_sources
from mtdnn_tf.evaluation.pages import markdown_table, read_metrics
from mtdnn_tf.evaluation.runs import Run
from mtdnn_tf.files import write_text_atomically
from mtdnn_tf.provenance import versions
from mtdnn_tf.run_files import CARD_FILE, METRICS_FILE, SCORES_FILE
from mtdnn_tf.task_types import shown_score
from mtdnn_tf.tasks import TaskSpec


def write_model_card(run: Run, mixture: Mixture, scores: Mapping[str, Any], *, command: str = "") -> Path:
    """Write MODEL_CARD.md into the run directory."""
    path = run.model_dir / CARD_FILE
    text = model_card(run, scores, mixture.example_counts, mixture.steps_per_epoch, command=command)
    write_text_atomically(path, text)
    return path


def model_card(
    run: Run,
    scores: Mapping[str, Any] | None,
    example_counts: Mapping[str, int] | None = None,
    steps_per_epoch: int | None = None,
    *,
    command: str = "",
) -> str:
    """Return the card as Markdown; what is None was not recorded, and the card says so.

    Args:
        run: the run.
        scores: of its best model on the development sets, as `evaluate_tasks` returns them.
        example_counts: training examples by task.
        steps_per_epoch: batches of all tasks.
        command: how the run was started.
    """
    config = run.config
    events = read_metrics(run.model_dir / METRICS_FILE)
    earlier = earlier_runs(config)
    all_tasks = [run.tasks, *(each.tasks for each in earlier)]
    hashes = source_hashes([task for tasks in all_tasks for task in tasks])
    licences = dict.fromkeys(pair for tasks in all_tasks for pair in data_licences(tasks).items())
    lines = [
        f"# {run.name}: a text model",
        "",
        f"An encoder (`{config.encoder.source}`) with {_counted(run.tasks)} on it (MT-DNN, Liu et al., ACL 2019).",
        *(_told_start(each) for each in earlier),
        "",
        "## Tasks",
        "",
        *markdown_table(
            ("task", "type", "head", "inputs", "labels or range", "training examples"),
            [_task_row(task, example_counts) for task in run.tasks],
        ),
        "",
        "## Scores on the development sets",
        "",
        f"In percent, losses as they are; one run, seed {config.training.seed}{_told_choice(config, events)}.",
        "",
        *markdown_table(
            ("task", "metric", "score"),
            _score_rows(run.tasks, scores) if scores else [("all", "", "not recorded: the run has not ended")],
        ),
        "",
        "## Made with",
        "",
        f"- configuration {config_hash(config)} (`config.yaml` of the run); command: `{command or 'not recorded'}`",
        f"- {', '.join(f'{name} {version}' for name, version in versions().items())}",
        f"- {_told_epochs(config, events)} of {steps_per_epoch or 'an unrecorded number of'} steps, "
        f"{config.runtime.precision}, texts cut at {config.data.max_length} tokens",
        "",
        "## Data",
        "",
        *markdown_table(
            ("file", "sha256, first 12 digits"), [(f"`{path}`", digest) for path, digest in hashes.items()]
        ),
        "",
        "## Licences",
        "",
        "As found beside them; this card changes none. Where nothing was found, the publisher's word holds.",
        "",
        *markdown_table(
            ("what", "licence"),
            [
                *((f"weights `{source}`", weights_licence(source)) for source in encoder_sources(config, earlier)),
                *((f"data `{name}`", licence) for name, licence in licences),
            ],
        ),
        "",
        "## Limits",
        "",
        "It answers for texts like those it was trained on. Other languages, domains and lengths, fairness between groups, "
        "calibration of the probabilities and robustness against hostile input were not measured. Scores come from one seed.",
        "",
    ]
    return "\n".join(lines)


def exported_model_card(run: Run, facts: Mapping[str, Any]) -> str:
    """Return the run's card with what is known of one export of it.

    Args:
        run: the run. Where it has no card (it was cut off before its end), one is made of what it left.
        facts: of the export, by name.
    """
    path = run.model_dir / CARD_FILE
    text = path.read_text(encoding="utf-8") if path.is_file() else model_card(run, _recorded_scores(run))
    rows = {"configuration": config_hash(run.config), **facts, **versions()}
    return "\n".join([text.rstrip(), "", "## This export", "", *markdown_table(("", ""), rows.items()), ""])


def _recorded_scores(run: Run) -> dict[str, Any] | None:
    path = run.model_dir / SCORES_FILE
    if not path.is_file():
        return None
    recorded = json.loads(path.read_text(encoding="utf-8"))
    return {**recorded["tasks"], "average": recorded["average"]}


def _task_row(task: TaskSpec, example_counts: Mapping[str, int] | None) -> tuple[object, ...]:
    meaning = (
        ", ".join(task.labels) if task.labels else (f"{task.range[0]:g} to {task.range[1]:g}" if task.range else "")
    )
    examples = "not recorded" if example_counts is None else example_counts.get(task.name, 0)
    return task.name, task.type, task.head_of or task.head, ", ".join(task.text), meaning, examples


def _score_rows(tasks: Sequence[TaskSpec], scores: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    rows = [
        (task.name, metric, f"{shown_score(metric, value):.2f}")
        for task in tasks
        for metric, value in scores.get(task.name, {}).items()
    ]
    return [*rows, ("average of main metrics", "", f"{100 * scores['average']:.2f}")]


def _counted(tasks: Sequence[TaskSpec]) -> str:
    return "one task" if len(tasks) == 1 else f"{len(tasks)} tasks, trained together,"


def _told_start(earlier: EarlierRun) -> str:
    if earlier.config is None:
        return f"Before that: {earlier.taken} came from `{earlier.folder}`, which can not be read any more: its data and licences are not known."
    names = ", ".join(task.name for task in earlier.tasks)
    return f"Before that: {earlier.taken} came from `{earlier.folder}` (configuration {config_hash(earlier.config)}; {names})."


def _told_choice(config: ExperimentConfig, events: Sequence[Mapping[str, Any]]) -> str:
    """Return how the scored model was chosen."""
    if len({event["epoch"] for event in events if event["event"] == "dev"}) < 2:
        return ""
    metric = config.training.best_metric
    return f", best of its epochs by `{metric}`: chosen on the same development sets, so a little optimistic"


def _told_epochs(config: ExperimentConfig, events: Sequence[Mapping[str, Any]]) -> str:
    stopped = [event["epoch"] + 1 for event in events if event["event"] == "early_stop"]
    return (
        f"{stopped[-1]} epochs (of {config.training.epochs} at most)" if stopped else f"{config.training.epochs} epochs"
    )
