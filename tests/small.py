"""A small experiment of four tasks, one for each head, made of a few written rows."""

from __future__ import annotations

from pathlib import Path

TINY = "random://layers=2,hidden=32,heads=2,intermediate=64,positions=128"
TINY_WORDS = "words://layers=2,hidden=32,heads=2,intermediate=64,embedding=16,positions=128"

ROWS = {
    "mood": (
        "text\tlabel",
        ["a good day\tpositive", "a bad day\tnegative", "good bread\tpositive", "bad milk\tnegative"] * 3,
    ),
    "follows": (
        "premise\thypothesis\tlabel",
        ["the dog runs\tan animal runs\tyes", "the dog runs\ta cat sleeps\tno", "rain falls\tit is wet\tyes"] * 3,
    ),
    "close": ("sentence1\tsentence2\tscore", ["a dog\ta hound\t4.5", "a dog\ta star\t0.5", "tea\ttea\t5"] * 3),
    "pick": (
        "question\tanswer\tlabel",
        [
            f"{who}\tthe baker\t1\n{who}\tat noon\t0\n{when}\tat noon\t1\n{when}\tthe baker\t0\n{when}\thome\t0"
            for who, when in (("who?", "when?"), ("who bakes?", "at what time?"))
        ],
    ),
}
YAML = """
encoder: {{source: "{encoder}"}}
tasks:
  mood: {{type: classification, text: [text], labels: [negative, positive], train: mood.tsv, dev: mood.tsv}}
  follows: {{type: classification, text: [premise, hypothesis], labels: ["no", "yes"], head: san, train: follows.tsv, dev: follows.tsv}}
  close:
    type: regression
    text: [sentence1, sentence2]
    range: [0, 5]
    train: {{path: close.tsv, columns: {{label: score}}}}
    dev: {{path: close.tsv, columns: {{label: score}}}}
  pick: {{type: ranking, text: [question, answer], batch_size: 2, train: pick.tsv, dev: pick.tsv}}
data: {{max_length: 32, batch_size: 4}}
optimizer: {{learning_rate: 1.0e-3}}
training: {{epochs: 2, log_every: 2}}
"""


def write_experiment(folder: Path) -> Path:
    """Write the files; return the configuration's path."""
    for name, (head, rows) in ROWS.items():
        (folder / f"{name}.tsv").write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    path = folder / "small.yaml"
    path.write_text(YAML.format(encoder=TINY), encoding="utf-8")
    return path
