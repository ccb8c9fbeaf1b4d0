"""Scores a finished run on one split: `python -m mtdnn_tf.evaluate --model_dir=DIR --split=dev`.

With `--saved_model` an exported text model is scored instead, by its own answers: on the tasks of `--config`, else of the run. That
tells what `export.weights` costs. Nothing is written then, but what `--output` names.
"""

from __future__ import annotations

from contextlib import nullcontext

from absl import flags

from mtdnn_tf import cli
from mtdnn_tf.commands import command_line
from mtdnn_tf.errors import UserError
from mtdnn_tf.run_files import PREDICTIONS_FOLDER, split_scores_file

_SPLIT = flags.DEFINE_enum("split", "dev", ["train", "dev", "test"], "The split to score on.")
_OUTPUT = flags.DEFINE_string(
    "output", None, "Where the scores go as JSON. Default: <model_dir>/scores_<split>.json; of --saved_model: nowhere."
)
_SAVED_MODEL = flags.DEFINE_string(
    "saved_model", None, "Scores this exported text model (its version folder, or the folder above) instead of the run."
)
_SCORE_FILES = flags.DEFINE_string(
    "score_files", None, "A folder for scores and submissions laid out as the original MT-DNN program writes them."
)
_WITHOUT_TRAIN_ROWS = flags.DEFINE_bool(
    "without_train_rows",
    False,
    "Also score without the rows that are among the training rows (of test: also the development rows) of any task.",
)
_TASK_ATTENTION = flags.DEFINE_bool(
    "task_attention",
    False,
    "Write how much the tasks' tokens attend to each other (model.sharing: layerwise_explicit).",
)


def main() -> None:
    """Score the run, or an exported model of it."""
    if _SAVED_MODEL.value:
        score_saved_model(_SAVED_MODEL.value, _SPLIT.value)
    else:
        score_run(_SPLIT.value)


def score_saved_model(folder: str, split: str) -> None:
    """Ask the exported model, print the table; write the JSON where it is asked for."""
    for flag in (_SCORE_FILES, _WITHOUT_TRAIN_ROWS, _TASK_ATTENTION):
        if flag.value:
            raise UserError(f"--{flag.name}: for runs only, not for --saved_model")
    cli.start_tensorflow()
    from mtdnn_tf.answering import ExportedModel, score_exported
    from mtdnn_tf.evaluation.report import score_table, write_scores
    from mtdnn_tf.tasks import load_tasks

    tasks, model = load_tasks(cli.tasks_config_from_flags()), ExportedModel(folder)
    with nullcontext() if cli.has_config() else cli.sources_of_run(cli.model_dir_from_flags()):
        scores = score_exported(model, tasks, split)
    print(f"{score_table(scores, tasks)}\n")
    print(f"answered by {model.path} ({model.weights} weights)")
    if _OUTPUT.value:
        write_scores(_OUTPUT.value, split, scores)
        print(f"scores: {_OUTPUT.value}")


def score_run(split: str) -> None:
    """Load the run, score it, print the table, write the JSON."""
    reason = "a run is scored as it was trained, with all its tasks"
    cli.refuse_flags(reason, cli.FIXED)
    model_dir = cli.run_from_flags(reason)
    cli.start_tensorflow()
    from mtdnn_tf.evaluation.evaluate import SplitScorer
    from mtdnn_tf.evaluation.predictions import write_predictions
    from mtdnn_tf.evaluation.report import score_table, write_scores
    from mtdnn_tf.evaluation.runs import find_weights, load_run, refuse_pretraining
    from mtdnn_tf.evaluation.score_files import write_score_files
    from mtdnn_tf.evaluation.seen_rows import scores_without_train_rows, seen_rows_note
    from mtdnn_tf.evaluation.task_attention import task_attention, write_task_attention
    from mtdnn_tf.task_types import DOCUMENT_TYPES
    from mtdnn_tf.training.checkpoints import read_state

    cli.prepare_as_trained(model_dir)
    run = load_run(model_dir)
    for flag, given in (
        ("--without_train_rows", _WITHOUT_TRAIN_ROWS.value),
        ("--score_files", _SCORE_FILES.value),
        ("--split=train", split == "train"),
    ):
        if given:
            refuse_pretraining(
                run.tasks, f"its rows are drawn from running text, and {flag} needs rows as a file has them"
            )
    if _TASK_ATTENTION.value:
        with cli.sources_of_run(model_dir):
            attention = task_attention(run.model, run.tasks, run.encoder.tokenizer, run.config.data, split)
        print(f"task attention: {' and '.join(str(path) for path in write_task_attention(model_dir, attention))}")
    with cli.sources_of_run(model_dir):
        scorer = SplitScorer(run.model, run.tasks, run.encoder.tokenizer, run.config.data, split)
    scores = scorer()
    unseen = {}
    if _WITHOUT_TRAIN_ROWS.value:
        with cli.sources_of_run(model_dir):
            unseen["without_train_rows"] = scores_without_train_rows(scorer, run.tasks)
    output = _OUTPUT.value or model_dir / split_scores_file(split)
    write_predictions(model_dir / PREDICTIONS_FOLDER, scorer, split)
    write_scores(output, split, scores, **unseen)  # last: where these are, all is
    if _SCORE_FILES.value:
        write_score_files(_SCORE_FILES.value, scorer, split, read_state(find_weights(model_dir)).epoch)
    print(f"{score_table(scores, run.tasks)}\n")
    for found in unseen.values():
        print(f"{seen_rows_note(found)}; by task: {output}")
    print(f"scores: {output}; each answer: {model_dir / 'predictions'}/<task>_{split}.tsv")
    if _SCORE_FILES.value:
        print(f"in the original program's layout: {_SCORE_FILES.value}")
    if not any(task.type in DOCUMENT_TYPES for task in run.tasks):
        words = [f"--model_dir={model_dir}", f"--output_dir=served/{model_dir.name}"]
        print(f"next:\n  {command_line('export', *words)}")


if __name__ == "__main__":
    cli.run(main)
