"""Writes what a study came to: results.json for programs, report.html and table.md for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from mtdnn_tf.files import write_text_atomically
from mtdnn_tf.run_files import REPORT_FILE
from mtdnn_tf.studies.comparisons import compare
from mtdnn_tf.studies.planned import PlannedRun
from mtdnn_tf.studies.progress import FINISHED
from mtdnn_tf.studies.results import collect, results_json, summaries_json
from mtdnn_tf.studies.study import Study
from mtdnn_tf.studies.study_report import html_page, markdown
from mtdnn_tf.studies.unseen import without_train_rows


def write_study(study: Study, runs: Sequence[PlannedRun], states: Mapping[str, str], folder: Path, command: str) -> str:
    """Write results.json, report.html and table.md of all finished runs into the study's folder.

    Returns:
        The tables, as table.md has them.

    Raises:
        UserError: a run's files are damaged, or arms were scored on other rows.
    """
    results = collect(study, runs, states)
    comparisons = compare(study, results)
    content = results_json(study, results, states, folder, command)
    content["comparisons"] = [comparison.as_json() for comparison in comparisons]
    unseen = without_train_rows(study, results) if study.options.without_train_rows else None
    if unseen:
        content["without_train_rows"] = {"left_out": unseen.left_out, "summary": summaries_json(unseen.results)}
    remaining = [name for name, state in states.items() if state != FINISHED]
    tables = markdown(study, results, unseen, comparisons, remaining)
    write_text_atomically(folder / "results.json", json.dumps(content, indent=1) + "\n")
    write_text_atomically(folder / REPORT_FILE, html_page(study, results, unseen, comparisons, remaining, command))
    write_text_atomically(folder / "table.md", tables)
    return tables
