"""What the README shows runs as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import mtdnn_tf as mtdnn

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def _blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_configuration_it_shows_is_one(tmp_path):
    [block] = _blocks("yaml")
    path = tmp_path / "my.yaml"
    path.write_text(block, encoding="utf-8")
    tasks = mtdnn.load_tasks(mtdnn.load_config(path))
    assert [(task.name, task.head) for task in tasks] == [("topic", "linear"), ("duplicate", "san"), ("rte", "san")]


def test_the_commands_it_shows_are_there():
    for module in set(re.findall(r"python -m mtdnn_tf\.([a-z]+)", README)):
        assert (REPOSITORY / "mtdnn_tf" / f"{module}.py").is_file()


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_links_lead_somewhere(link):
    assert (REPOSITORY / link).exists()


@pytest.mark.parametrize("target", re.findall(r"make ([a-z-]+)", README + (REPOSITORY / "WORKSPACE.md").read_text()))
def test_make_targets_exist(target):
    assert re.search(rf"^{target}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.slow
@pytest.mark.weights
def test_the_program_it_shows_runs(minilm, tmp_path):
    [block] = _blocks("python")
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "served" / "mine" / "1" / "saved_model.pb").is_file()
