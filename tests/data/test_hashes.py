"""Hashes of data files."""

from __future__ import annotations

import hashlib
import os

from mtdnn_tf.config import SourceConfig
from mtdnn_tf.data.hashes import source_hashes
from mtdnn_tf.tasks import TaskSpec


def test_a_file_that_changes_has_another_hash(tmp_path):
    path = tmp_path / "train.tsv"
    task = TaskSpec("mood", "classification", text=("text",), sources={"train": SourceConfig(str(path))})
    found = []
    for second, text in enumerate(("good\t1\n", "fine\t1\n", "good\t1\n")):
        path.write_text(text)
        os.utime(path, (second, second))
        assert source_hashes([task]) == {str(path): hashlib.sha256(text.encode()).hexdigest()[:12]}
        found += source_hashes([task]).values()
    assert found[0] == found[2] != found[1]
