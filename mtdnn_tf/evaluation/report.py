"""What people read of a run: the table on the terminal, scores.json, report.html."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtdnn_tf.config import config_hash
from mtdnn_tf.data.hashes import source_hashes
from mtdnn_tf.data.mixing import Mixture
from mtdnn_tf.evaluation.charts import Series, line_chart
from mtdnn_tf.evaluation.pages import read_metrics, table, text_of, whole_page
from mtdnn_tf.evaluation.runs import Run
from mtdnn_tf.files import write_text_atomically
from mtdnn_tf.provenance import versions
from mtdnn_tf.run_files import METRICS_FILE, REPORT_FILE
from mtdnn_tf.task_types import shown_score
from mtdnn_tf.tasks import TaskSpec


def score_table(scores: Mapping[str, Any], tasks: Sequence[TaskSpec]) -> str:
    """Return scores as an aligned table for the terminal: percent, the main metric of each task starred."""
    rows = [("task", "type", "head", "scores (* decides)")]
    for task in tasks:
        if task.name in scores:
            cells = [
                f"{metric}{'*' if metric == task.main_metric else ''} {shown_score(metric, scores[task.name][metric]):.2f}"
                for metric in task.metrics
            ]
            rows.append((task.name, task.type, task.head_of or task.head, "  ".join(cells)))
    rows.append(("average", "", "", f"{100 * scores['average']:.2f}"))
    if "glue_score" in scores:
        rows.append(("GLUE score", "", "", f"{scores['glue_score']:.2f}"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join("  ".join([*(row[i].ljust(widths[i]) for i in range(3)), row[3]]).rstrip() for row in rows)


def scores_as_json(split: str, scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return the layout of scores.json: `split`, `tasks`, and the aggregates beside them."""
    by_task = {name: values for name, values in scores.items() if isinstance(values, Mapping)}
    return {"split": split, "tasks": by_task, **{name: scores[name] for name in scores if name not in by_task}}


def write_scores(path: str | Path, split: str, scores: Mapping[str, Any], **more: Any) -> None:
    """Write scores.json, with more keys beside its own."""
    write_text_atomically(path, json.dumps(scores_as_json(split, scores) | more, indent=2) + "\n")


def write_report(
    run: Run,
    mixture: Mixture,
    scores: Mapping[str, Any],
    *,
    command: str = "",
    beside: Sequence[tuple[str, str, float]] = (),
) -> Path:
    """Write report.html into the run directory.

    Args:
        run: what was trained.
        mixture: on what.
        scores: of the best model.
        command: that made it.
        beside: what to compare the scores with, as rows of their table: task, metric, and a value as it is shown.
    """
    events = read_metrics(run.model_dir / METRICS_FILE)
    sections = [
        f"<h1>{text_of(run.name)}</h1>",
        f'<p class="note">{len(run.tasks)} tasks, one encoder (<code>{text_of(run.config.encoder.source)}</code>), '
        f"configuration {config_hash(run.config)}, seed {run.config.training.seed}.</p>",
        "<h2>Development scores</h2>",
        _score_section(run.tasks, scores, beside),
        *_early_stop(events, run.config.training.epochs),
        "<h2>What was trained</h2>",
        _task_section(run.tasks, mixture),
        "<h2>Curves</h2>",
        *_curves(events),
        "<h2>How to make it again</h2>",
        f"<p><code>{text_of(command)}</code></p>" if command else "",
        table(["package", "version"], versions().items()),
        "<h2>Data</h2>",
        table(["file", "sha256, first 12 digits"], source_hashes(run.tasks).items()),
    ]
    path = run.model_dir / REPORT_FILE
    write_text_atomically(path, whole_page(run.name, sections))
    return path


def _score_section(
    tasks: Sequence[TaskSpec], scores: Mapping[str, Any], beside: Sequence[tuple[str, str, float]]
) -> str:
    rows: list[tuple[str, str, float]] = []
    for task in tasks:
        for metric, value in scores.get(task.name, {}).items():
            name = f"{metric} (decides)" if metric == task.main_metric else metric
            rows.append((task.name, name, shown_score(metric, value)))
    rows.append(("average", "main metrics", 100 * scores["average"]))
    return table(["task", "metric", "percent, losses as they are"], [*rows, *beside])


def _early_stop(events: Sequence[Mapping[str, Any]], epochs: int) -> list[str]:
    return [
        f'<p class="note">Stopped after epoch {event["epoch"] + 1} of {epochs}: {text_of(event["best_metric"])} had not been better '
        f"than {event['best_score']:.4f} for {event['patience']} epochs.</p>"
        for event in events
        if event["event"] == "early_stop"
    ]


def _task_section(tasks: Sequence[TaskSpec], mixture: Mixture) -> str:
    rows = [
        (
            task.name,
            task.type,
            task.head_of or task.head,
            ", ".join(task.labels),
            mixture.example_counts.get(task.name, 0),
            mixture.batch_counts.get(task.name, 0),
        )
        for task in tasks
    ]
    return table(["task", "type", "head", "labels", "training examples", "steps an epoch"], rows)


def _curves(events: Sequence[Mapping[str, Any]]) -> list[str]:
    losses: dict[str, Series] = {}
    scores: dict[str, Series] = {}
    rate: Series = []
    for event in events:
        if event["event"] == "train":
            for task, loss in event["losses"].items():
                losses.setdefault(task, []).append((event["step"], loss))
            rate.append((event["step"], event["learning_rate"]))
        elif event["event"] == "dev":
            scores.setdefault("average", []).append((event["step"], event["scores"]["average"]))
    return [
        line_chart("training loss by task", losses),
        line_chart("average development score by epoch", scores),
        line_chart("learning rate", {"learning rate": rate}),
    ]
