"""Runs the entry points that a plan names in this process, which saves the start of a new one."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from absl import flags
from absl.testing import flagsaver


def run_here(words: Sequence[str]) -> None:
    """Do what `python -m` with these words does."""
    module = importlib.import_module(words[0])
    saved = flagsaver.save_flag_values()
    try:
        flags.FLAGS.unparse_flags()
        flags.FLAGS([words[0], *words[1:]])
        module.main()
    finally:
        flagsaver.restore_flag_values(saved)
