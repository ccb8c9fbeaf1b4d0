"""Finished runs of a study in one file, without their weights: another machine, or another day, goes on from them.

What tables and tests need is a run's configuration, its scores, its answers and its learning curves. Folders of this machine (the
data's root, the output's, the study's, the configuration's, the user's) are written as placeholders, and read as those of the machine
that opens the file.
"""

from __future__ import annotations

import io
import json
import os
import re
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mtdnn_tf.config import config_differences, load_config
from mtdnn_tf.data.hashes import other_data, source_hashes
from mtdnn_tf.errors import UserError
from mtdnn_tf.files import write_bytes_atomically, write_text_atomically
from mtdnn_tf.run_files import CONFIG_FILE, METRICS_FILE, PREDICTIONS_FOLDER, SCORES_FILE
from mtdnn_tf.studies.planned import PlannedRun
from mtdnn_tf.studies.progress import (
    FINISHED,
    Ledger,
    Record,
    answered_files,
    file_hashes,
    fingerprint,
    is_begun,
    is_trained,
    needs_start,
)
from mtdnn_tf.studies.stages import STAGE_KINDS

_INDEX, _FORMAT = "archive.json", 1
_DATA_ROOT, _OUTPUT_FOLDER, _STUDY_FOLDER = "@DATA_ROOT@", "@STUDY_FOLDER@", "@STUDY_FILE_FOLDER@"
_CONFIG_FOLDER, _HOME = "@CONFIG_FOLDER@", "@HOME@"
_NAME = re.compile(rf"({PREDICTIONS_FOLDER}/)?\w[\w.-]*")
# What reading a zip file raises whose bytes are not what they were, or what it holds.
_DAMAGES = (
    *(OSError, zipfile.BadZipFile, zlib.error, RuntimeError),
    *(KeyError, ValueError, TypeError, AttributeError, EOFError),
)
_WHEN = (1980, 1, 1, 0, 0, 0)  # of every entry: the same runs make the same file


class Archive:
    """A zip file of finished runs: `archive.json` (format, and of each run its record, data and files), and the files by run."""

    def __init__(self, path: Path | str, folder: Path, study: Path) -> None:
        """Read what is there, if anything.

        Args:
            path: of the zip file; it need not be there yet.
            folder: that the study's runs and tables are in, here.
            study: the study's file, here, whose own `set` may name files beside it.

        Raises:
            UserError: it is no such file, or damaged.
        """
        self.path, self._folder, self._study = Path(path), os.path.abspath(folder), os.path.abspath(study)
        self._runs: dict[str, dict[str, Any]] = {}
        self._texts: dict[str, dict[str, str]] = {}
        self._read()

    def _read(self) -> None:
        if not self.path.exists():
            return
        try:
            with zipfile.ZipFile(self.path) as file:
                index = json.loads(file.read(_INDEX))
                if index["format"] != _FORMAT:
                    raise ValueError(f"format {index['format']!r}, where this version reads {_FORMAT}")
                for name, entry in index["runs"].items():
                    self._texts[name] = {own: file.read(f"{name}/{_checked(own)}").decode() for own in entry["files"]}
                    self._runs[name] = _entry(Record(**entry["record"]), dict(entry["data"]))
        except _DAMAGES as error:
            raise UserError(f"--finished: {self.path}: damaged, or no archive of finished runs: {error}") from None

    def restore(
        self, runs: Sequence[PlannedRun], ledger: Ledger, wanted: Sequence[PlannedRun] | None = None
    ) -> list[str]:
        """Put the files of those runs in place of which nothing is there yet, and return their names.

        Runs that a wanted one starts from which is in neither place need weights, which the file has not: they are left out, to be
        trained again, and with them all that started from them. So are those that started from a run which is trained again here.

        Args:
            runs: all of the study.
            ledger: of their root.
            wanted: those that are to be trained now; None: all.

        Raises:
            UserError: one of them was trained with another configuration or on other data, or can't be written.
        """
        restored: list[str] = []
        left_out = self._needed_with_weights(runs if wanted is None else wanted)
        for run in runs:  # those that start from a run come after it
            if run.parent and (run.parent.name in left_out or self._started_from_other(run, run.parent)):
                left_out.add(run.name)
            if run.name not in self._runs or is_begun(run) or run.name in left_out:
                continue
            texts = {name: self._here(text, run) for name, text in self._texts[run.name].items()}
            self._refuse_other(run, texts.get(CONFIG_FILE, ""))
            for name in sorted(texts, key=lambda name: name == METRICS_FILE):  # last: from then on it is there
                write_text_atomically(run.directory / name, texts[name])
            ledger.write(run.name, Record(**self._runs[run.name]["record"], data=file_hashes(run)))  # the same as there
            restored.append(run.name)
        return restored

    def _needed_with_weights(self, wanted: Sequence[PlannedRun]) -> set[str]:
        """Return the names of the runs of which nothing is here, and that one starts from which has yet to be trained."""
        to_train = [run for run in wanted if needs_start(run) and (run.name not in self._runs or is_begun(run))]
        return {ancestor.name for run in to_train for ancestor in run.ancestors if not is_begun(ancestor)}

    def _started_from_other(self, run: PlannedRun, parent: PlannedRun) -> bool:
        """Return whether the run that one started from there is another here: trained again, or about to be."""
        if run.name not in self._runs or not is_begun(parent):
            return False
        if not is_trained(parent, with_weights=False):
            return True
        started_from, weights = self._runs[run.name]["record"]["started_from"], fingerprint(parent.directory)
        return bool(started_from and weights and started_from != weights)

    def write(self, runs: Sequence[PlannedRun], states: Mapping[str, str], ledger: Ledger, split: str) -> int:
        """Write all finished runs beside what the file holds of others by now, and return how many it then holds.

        Raises:
            UserError: it can't be read or written; the file that was there is untouched.
        """
        self._read()
        for run in runs:
            if states[run.name] == FINISHED:
                names = [name for name in _files_of(run, split) if (run.directory / name).is_file()]
                texts = {name: (run.directory / name).read_text(encoding="utf-8") for name in names}
                self._texts[run.name] = {name: self._portable(text, run) for name, text in texts.items()}
                self._runs[run.name] = _entry(ledger[run.name], self._data(run, ledger))
        entries = {name: entry | {"files": sorted(self._texts[name])} for name, entry in sorted(self._runs.items())}
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as file:
            _add(file, _INDEX, json.dumps({"format": _FORMAT, "runs": entries}, indent=1) + "\n")
            for name, entry in entries.items():
                for own in entry["files"]:
                    _add(file, f"{name}/{own}", self._texts[name][own])
        write_bytes_atomically(self.path, content.getvalue())
        return len(self._runs)

    def _places(self, run: PlannedRun) -> list[tuple[str, str]]:
        """Return folders of this machine with their placeholders, longer ones first."""
        known = [
            (str(run.config.data.root or ""), _DATA_ROOT),
            (self._folder, _OUTPUT_FOLDER),
            (os.path.dirname(self._study), _STUDY_FOLDER),
            (os.path.dirname(os.path.abspath(run.stage.config)), _CONFIG_FOLDER),
            (os.path.expanduser("~"), _HOME),  # of datasets that were prepared in their usual folder
        ]
        return sorted((pair for pair in known if pair[0].strip("/")), key=lambda pair: -len(pair[0]))

    def _portable(self, text: str, run: PlannedRun) -> str:
        for path, placeholder in self._places(run):
            text = re.sub(rf"(?<![\w./-]){re.escape(path)}(?![\w.-])", placeholder, text)
        return text

    def _here(self, text: str, run: PlannedRun) -> str:
        for path, placeholder in self._places(run):
            text = text.replace(placeholder, path)
        return text

    def _data(self, run: PlannedRun, ledger: Ledger | None = None) -> dict[str, str]:
        """Return the hashes of the run's files: as it began, where the ledger knows them, else as they are now."""
        data = {**source_hashes(run.specs), **(ledger[run.name].data if ledger else {})}
        return {self._portable(path, run): digest for path, digest in data.items()}

    def _refuse_other(self, run: PlannedRun, text: str) -> None:
        where = f"--finished: {self.path}: {run.name}"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / CONFIG_FILE
            path.write_text(text, encoding="utf-8")
            try:
                differences = config_differences(load_config(path), run.config)
            except UserError as error:
                raise UserError(f"{where}: its configuration is not one of this version: {error}") from None
        if differences:
            raise UserError(
                f"{where} was trained with another configuration: {'; '.join(differences)}. Name another archive for the changed one"
            )
        if difference := other_data(self._runs[run.name]["data"], self._data(run)):
            raise UserError(
                f"{where} was trained and scored on other data: {self._here(difference, run)}. "
                "Put that file back, or name another archive"
            )


def _entry(record: Record, data: Mapping[str, str]) -> dict[str, Any]:
    """Return what the index says of a run; its data stand beside the record, under paths of no machine."""
    return {"record": {name: value for name, value in asdict(record).items() if name != "data"}, "data": data}


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"a run has no file {name!r}")
    return name


def _add(file: zipfile.ZipFile, name: str, text: str) -> None:
    file.writestr(zipfile.ZipInfo(name, _WHEN), text.encode(), zipfile.ZIP_DEFLATED)


def _files_of(run: PlannedRun, split: str) -> list[str]:
    """Return the names of what tables, tests and the state of a finished run are made from."""
    last = STAGE_KINDS[run.stage.options.kind].last_file
    answers = (run.directory / PREDICTIONS_FOLDER).glob(f"*_{split}.tsv")
    names = [CONFIG_FILE, METRICS_FILE, SCORES_FILE, last, *answered_files(run, split)]
    return [*names, *sorted(f"{PREDICTIONS_FOLDER}/{path.name}" for path in answers)]
