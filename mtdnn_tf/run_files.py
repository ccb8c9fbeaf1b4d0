"""Names of what a run directory holds; WORKSPACE.md tells what is in each."""

from __future__ import annotations

from mtdnn_tf.config_paths import SPLITS

CONFIG_FILE = "config.yaml"
TASKS_FILE = "tasks.yaml"
VOCABULARY_FILE = "vocab.txt"  # the tokens of the encoder
ENCODER_FILE = "encoder.json"  # what else rebuilds the encoder without its source
METRICS_FILE = "metrics.jsonl"
SCORES_FILE = "scores.json"  # development scores of the best model, which training writes
REPORT_FILE = "report.html"
CARD_FILE = "MODEL_CARD.md"
BASELINE_FILE = "baseline.json"  # of pre-training
SKIPPED_FILE = "skipped_rows.txt"
OUTPUT_FILE = "output.txt"  # what a run says, where a study trains several at once

CHECKPOINTS_FOLDER = "checkpoints"
BEST_FOLDER = "best"
ENCODER_FOLDER = "encoder"  # of pre-training: what `encoder.source` of a later run may name
LOGS_FOLDER = "logs"
PREDICTIONS_FOLDER = "predictions"


def split_scores_file(split: str) -> str:
    """Return the name of the file that `evaluate` writes a run's scores on a split into."""
    return f"scores_{split}.json"


def attention_files(split: str) -> tuple[str, str]:
    """Return the names of the files that tell how much a run's task tokens attend to each other: as JSON, and as a heat map."""
    return f"task_attention_{split}.json", f"task_attention_{split}.html"


FILES = (
    CONFIG_FILE,
    TASKS_FILE,
    VOCABULARY_FILE,
    ENCODER_FILE,
    METRICS_FILE,
    SCORES_FILE,
    REPORT_FILE,
    CARD_FILE,
    BASELINE_FILE,
    SKIPPED_FILE,
    OUTPUT_FILE,
    *(name for split in SPLITS for name in (split_scores_file(split), *attention_files(split))),
)
FOLDERS = (CHECKPOINTS_FOLDER, BEST_FOLDER, ENCODER_FOLDER, LOGS_FOLDER, PREDICTIONS_FOLDER)
