"""What people read of a study: report.html, one page that needs nothing else, and its tables as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from mtdnn_tf.config import config_hash
from mtdnn_tf.data.hashes import source_hashes
from mtdnn_tf.evaluation.charts import Series, attention_map, dot_chart, line_chart
from mtdnn_tf.evaluation.pages import markdown_table, read_metrics, table, text_of, whole_page
from mtdnn_tf.provenance import read_header
from mtdnn_tf.run_files import CONFIG_FILE, METRICS_FILE, attention_files
from mtdnn_tf.studies.comparisons import Comparison
from mtdnn_tf.studies.results import Result, Summary, arms_in_words, mean_over_tasks, most_seeds, summaries
from mtdnn_tf.studies.study import Study
from mtdnn_tf.studies.unseen import Unseen

Table = tuple[str, list[str], list[list[str]]]  # title, head, rows
_MISSING = "-"
_PUBLISHED = "published: "
_UNSEEN = {
    "dev": "without the rows whose texts are among the training rows of any task",
    "test": "without the rows whose texts are among the training or development rows of any task",
}


def markdown(
    study: Study,
    results: Sequence[Result],
    unseen: Unseen | None,
    comparisons: Sequence[Comparison],
    remaining: Sequence[str],
) -> str:
    """Return the tables of scores, differences and budget as Markdown."""
    parts = [f"# {study.options.title}", study.options.about, f"Budget: {study.options.budget}.{_still(remaining)}"]
    for title, head, rows in [*_all_score_tables(study, results, unseen), *difference_tables(study, comparisons)]:
        lines = markdown_table(head, rows)
        parts += [f"{title}:", "\n".join(lines)]
    parts.append("\n".join(f"- {note}" for note in _notes(study)))
    return "\n\n".join(part for part in parts if part) + "\n"


def html_page(
    study: Study,
    results: Sequence[Result],
    unseen: Unseen | None,
    comparisons: Sequence[Comparison],
    remaining: Sequence[str],
    command: str,
) -> str:
    """Return the report as one HTML page: no script, no network."""
    options = study.options
    sections = [
        f"<h1>{text_of(options.title)}</h1>",
        f"<p>{text_of(options.about)}</p>" if options.about else "",
        f'<p class="note">Budget: {text_of(options.budget)}. Scored on {options.split}.{_still(remaining)}</p>',
        "<h2>Scores</h2>",
        *(_section(*found) for found in _all_score_tables(study, results, unseen)),
        _list(_notes(study)),
        *_score_charts(study, results),
        *_heat_maps(study, results),
        "<h2>Differences</h2>",
        *(_section(*found) for found in difference_tables(study, comparisons)),
        _list(_HOW_TO_READ),
        "<h2>What each arm took</h2>",
        table(
            ["arm", "runs", "epochs of a run", "steps of a run", "steps of the stages before"],
            arms_in_words(study, results),
        ),
        "<h2>While they trained</h2>",
        *_training_curves(study, results),
        "<h2>How to make it again</h2>",
        f"<p><code>{text_of(command)}</code></p>",
        *_origins(results),
    ]
    return whole_page(options.title, sections)


def _still(remaining: Sequence[str]) -> str:
    return f" {len(remaining)} runs are still to be trained: the tables hold what is finished." if remaining else ""


_HOW_TO_READ = (
    "Differences in points; paired over seeds. t: two-sided paired t test; sign flips: the share of all sign patterns of the differences "
    "that are as far from 0, never below 2 / 2^n for n pairs: three seeds can't give less than 0.25. "
    "An arm of one run for all seeds makes one pair with the mean of the other's runs.",
    "Over examples: 95 % interval and p of a paired bootstrap over the rows of the split (of ranking, queries), scores averaged over seeds; "
    "McNemar's exact test for each seed. They tell of other examples, not of other seeds.",
    "All tasks: one pair a task takes tasks for the sample; with one pair a task and seed, pairs of a task are not independent.",
    "No p is corrected for the number of rows in the table.",
)


def _notes(study: Study) -> list[str]:
    own = "mean ± standard deviation (n - 1) over seeds, in percent, of each task's main metric"
    published = study.options.published
    return [own, *study.options.notes, *([f"published: {published.source}"] if published else [])]


def _list(items: Iterable[str]) -> str:
    return '<ul class="note">' + "".join(f"<li>{text_of(item)}</li>" for item in items) + "</ul>"


def _section(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return f"<h3>{text_of(title)}</h3>{table(head, rows)}"


def _all_score_tables(study: Study, results: Sequence[Result], unseen: Unseen | None) -> list[Table]:
    """Return `score_tables`, and the same without rows that were trained on."""
    tables = [*score_tables(study, results), *_further_metrics(study, results)]
    if unseen is None:
        return tables
    shown = {result.task for result in unseen.results}
    empty = [task for task in unseen.left_out if task not in shown]
    nothing = f"; no row is left of {', '.join(empty)}" if empty else ""
    for title, head, rows in score_tables(study, unseen.results):
        own = [row for row in rows if not row[0].startswith(_PUBLISHED)]
        if not study.points:
            counts = [unseen.left_out[task] for task in study.options.tasks if task in shown]
            own.append(["rows left out", *map(str, counts), str(sum(counts)), _MISSING])
        tables.append((f"{title}, {_UNSEEN[study.options.split]}{nothing}", head, own))
    return tables


def score_tables(study: Study, results: Sequence[Result]) -> list[Table]:
    """Return the table of arms by tasks; with points, a table of arms by points for each task."""
    cells = summaries(results)
    metrics = {result.task: result.main_metric for result in results}
    if study.points:
        return [
            (
                f"{task}, {metrics[task]}",
                ["arm", *(f"{study.options.points.x if study.options.points else ''} {p.x:g}" for p in study.points)],
                _rows_by_point(study, task, cells),
            )
            for task in study.options.tasks
            if task in metrics
        ]
    tasks = [task for task in study.options.tasks if task in metrics]
    head = ["arm", *(f"{task}, {metrics[task]}" for task in tasks), "mean", "seeds"]
    rows = [_row(arm.title, [cells.get((arm.name, task, None)) for task in tasks]) for arm in study.arms]
    published = study.options.published
    for name, scores in published.scores.items() if published else ():
        known = [scores[task][0] for task in tasks if task in scores]
        mean = f"{np.mean(known):.2f}" if known and len(known) == len(tasks) else _MISSING
        shown = [f"{scores[task][0]:g}" if task in scores else _MISSING for task in tasks]
        rows.append([f"{_PUBLISHED}{name}", *shown, mean, _MISSING])
    return [("Arms and tasks", head, rows)]


def _further_metrics(study: Study, results: Sequence[Result]) -> list[Table]:
    """Return the table of what tasks name in `also`: arms, at each point, by tasks and metrics."""
    wanted = [(task, metric) for task, options in study.options.tasks.items() for metric in options.also]
    columns = [
        (f"{task}, {metric}", summaries(replace(r, score=r.metrics[metric]) for r in results if r.task == task))
        for task, metric in wanted
    ]
    xs: list[float | None] = [point.x for point in study.points] or [None]
    axis = study.options.points.x if study.options.points else ""
    rows = []
    for arm in study.arms:
        for x in xs:
            found = [cells.get((arm.name, task, x)) for (task, _), (_, cells) in zip(wanted, columns, strict=True)]
            if any(found):
                shown = [_shown(cell, most_seeds(cells)) for cell, (_, cells) in zip(found, columns, strict=True)]
                rows.append([arm.title, *([f"{x:g}"] if axis else []), *shown])
    head = ["arm", *([axis] if axis else []), *(title for title, _ in columns)]
    return [("Further metrics", head, rows)] if rows else []


def _row(title: str, found: Sequence[Summary | None]) -> list[str]:
    known = [summary for summary in found if summary]
    mean = str(mean_over_tasks(known)) if known and len(known) == len(found) else _MISSING
    counts = sorted({len(summary.seeds) for summary in known})
    most = max(counts, default=0)
    return [title, *(_shown(summary, most) for summary in found), mean, " or ".join(map(str, counts)) or _MISSING]


def _shown(summary: Summary | None, most: int) -> str:
    """Say a summary, and of how many seeds it is where others beside it have more."""
    if summary is None:
        return _MISSING
    return f"{summary}{f' (n = {len(summary.seeds)})' if len(summary.seeds) < most else ''}"


def _rows_by_point(study: Study, task: str, cells: Mapping[tuple[str, str, float | None], Summary]) -> list[list[str]]:
    most = most_seeds({cell: summary for cell, summary in cells.items() if cell[1] == task})
    rows = [
        [arm.title, *(_shown(cells.get((arm.name, task, point.x)), most) for point in study.points)]
        for arm in study.arms
    ]
    published = study.options.published
    for name, scores in published.scores.items() if published else ():
        if task in scores:
            rows.append([f"{_PUBLISHED}{name}", *(f"{value:g}" for value in scores[task])])
    return rows


def difference_tables(study: Study, comparisons: Sequence[Comparison]) -> list[Table]:
    """Return a table of differences for each compared pair of arms."""
    titles = {arm.name: arm.title for arm in study.arms}
    axis = study.options.points.x if study.options.points else ""
    head = ["task", *([axis] if axis else []), "pairs", "difference", "t", "sign flips", "over examples", "McNemar"]
    tables = []
    for arm, other in study.pairs:
        found = [c for c in comparisons if (c.arm, c.other) == (arm.name, other.name)]
        if found:
            rows = [_difference_row(comparison, bool(axis)) for comparison in found]
            tables.append((f"{titles[arm.name]} against {titles[other.name]}", head, rows))
    return tables


def _difference_row(comparison: Comparison, has_axis: bool) -> list[str]:
    test, bootstrap = comparison.over_seeds, comparison.bootstrap
    deviation = "" if test.deviation is None else f" ± {100 * test.deviation:.2f}"
    over_examples = _MISSING
    if bootstrap:
        over_examples = f"{100 * bootstrap.low:+.2f} to {100 * bootstrap.high:+.2f}, p {bootstrap.p_value:.3f}"
    mcnemar = comparison.mcnemar or {}
    return [
        comparison.task,
        *([f"{comparison.x:g}"] if has_axis else []),
        str(test.pairs),
        f"{100 * test.difference:+.2f}{deviation}",
        _p_value(test.t_p_value),
        _p_value(test.sign_flip_p_value) + ("" if test.is_exact else " (sampled)"),
        over_examples,
        ", ".join(f"{found.first_only}:{found.second_only} p {found.p_value:.3f}" for found in mcnemar.values())
        or _MISSING,
    ]


def _p_value(value: float | None) -> str:
    return _MISSING if value is None else f"{value:.3f}"


def _score_charts(study: Study, results: Sequence[Result]) -> list[str]:
    cells = summaries(results)
    titles = {arm.name: arm.title for arm in study.arms}
    axis = study.options.points
    if axis is None:
        rows: dict[str, dict[str, tuple[float, float]]] = {}
        for (arm, task, _), found in cells.items():
            rows.setdefault(task, {})[titles[arm]] = (100 * found.mean, 100 * (found.deviation or 0.0))
        return [dot_chart("mean and standard deviation over seeds, percent", rows)]
    charts = []
    for task in study.options.tasks:
        lines: dict[str, Series] = {}
        bars: dict[str, Series] = {}
        for (arm, own, x), found in cells.items():
            if own == task and x is not None:
                deviation = 100 * (found.deviation or 0.0)
                lines.setdefault(titles[arm], []).append((x, 100 * found.mean))
                bars.setdefault(titles[arm], []).append((deviation, deviation))
        order = {name: np.argsort([x for x, _ in line]) for name, line in lines.items()}
        ordered, reach = ({n: [line[i] for i in order[n]] for n, line in part.items()} for part in (lines, bars))
        charts.append(line_chart(f"{task}, percent", ordered, x_label=axis.x, log_x=axis.log, bars=reach))
    return charts


def _heat_maps(study: Study, results: Sequence[Result]) -> list[str]:
    """Draw how much task tokens attend to each other, the mean over the seeds of each arm that was asked for it."""
    maps = []
    for arm in study.arms:
        runs = list({r.run.name: r.run for r in results if r.arm == arm.name}.values())
        files = [run.directory / attention_files(study.options.split)[0] for run in runs]
        found = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
        if arm.options.task_attention and found:
            of_seeds = f", mean of {len(found)} seeds" if len(found) > 1 else ""
            title = f"Task attention, {arm.title}, {study.options.split} texts{of_seeds}"
            shares = np.mean([content["attention"] for content in found], axis=0)
            maps += [f"<h2>{text_of(title)}</h2>", attention_map(title, found[0]["tasks"], shares)]
    return maps


def _training_curves(study: Study, results: Sequence[Result]) -> list[str]:
    """Draw each task's development score by epoch, the mean over the seeds of an arm, at the last point."""
    last = study.points[-1].x if study.points else None
    charts = []
    for task in study.options.tasks:
        series = {
            arm.title: _mean_curve([r for r in results if (r.arm, r.task, r.x) == (arm.name, task, last)])
            for arm in study.arms
        }
        shown = {title: line for title, line in series.items() if line}
        charts.append(line_chart(f"{task}: development score by epoch, percent", shown, x_label="epoch"))
    return charts


def _mean_curve(found: Sequence[Result]) -> Series:
    by_epoch: dict[int, list[float]] = {}
    for result in found:
        for event in read_metrics(result.run.directory / METRICS_FILE):
            if event["event"] == "dev" and result.task in event["scores"]:
                by_epoch.setdefault(event["epoch"] + 1, []).append(event["scores"][result.task][result.main_metric])
    return [(float(epoch), 100 * float(np.mean(scores))) for epoch, scores in sorted(by_epoch.items())]


def _origins(results: Sequence[Result]) -> list[str]:
    runs = list({result.run.name: result.run for result in results}.values())
    with_ancestors = list({run.name: run for own in runs for run in (*reversed(own.ancestors), own)}.values())
    commands = [(run.name, config_hash(run.config), f"python -m {' '.join(run.command)}") for run in with_ancestors]
    versions = {str(read_header(run.directory / CONFIG_FILE)): run for run in with_ancestors}
    return [
        table(["run", "configuration", "command"], commands),
        *(table(["package", "version"], read_header(run.directory / CONFIG_FILE).items()) for run in versions.values()),
        "<h2>Data</h2>",
        table(
            ["file", "sha256, first 12 digits"], source_hashes([s for run in with_ancestors for s in run.specs]).items()
        ),
    ]
