"""Scores a finished run on one split: `python -m mtdnn_tf.evaluate --model_dir=DIR --split=dev`."""

from __future__ import annotations

from absl import flags

from mtdnn_tf import cli

_SPLIT = flags.DEFINE_enum("split", "dev", ["train", "dev", "test"], "The split to score on.")
_OUTPUT = flags.DEFINE_string("output", None, "Where the scores go as JSON. Default: <model_dir>/scores_<split>.json.")


def main() -> None:
    """Load the run, score it, print the table, write the JSON."""
    model_dir = cli.model_dir_from_flags()
    cli.start_tensorflow()
    from mtdnn_tf.evaluation.evaluate import SplitScorer
    from mtdnn_tf.evaluation.predictions import write_predictions
    from mtdnn_tf.evaluation.report import score_table, write_scores
    from mtdnn_tf.evaluation.runs import load_run

    run, split = load_run(model_dir), _SPLIT.value
    scorer = SplitScorer(run.model, run.tasks, run.encoder.tokenizer, run.config.data, split)
    scores = scorer()
    output = _OUTPUT.value or model_dir / f"scores_{split}.json"
    write_scores(output, split, scores)
    write_predictions(model_dir / "predictions", scorer, split)
    print(f"{score_table(scores, run.tasks)}\n")
    print(f"scores: {output}; each answer: {model_dir / 'predictions'}/<task>_{split}.tsv")
    print(f"next:\n  python -m mtdnn_tf.export --model_dir={model_dir} --output_dir=served/{model_dir.name}")


if __name__ == "__main__":
    cli.run(main)
