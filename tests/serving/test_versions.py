"""Version folders: numbers that never show half a model, whenever a process is killed, however many export at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import mtdnn_tf as mtdnn
from mtdnn_tf.serving.versions import new_version, version_numbers

FILES = ("saved_model.pb", "variables/data", "assets.extra/requests")


def _fill(folder):
    for name in FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x" * 1000)


def _is_complete(folder):
    return all((folder / name).read_text() == "x" * 1000 for name in FILES)


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_version_appears_complete_under_the_next_number(tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "old_8").mkdir()
    (tmp_path / "²").mkdir()  # a digit to Python, no number to a server
    with new_version(tmp_path) as (folder, publish):
        _fill(folder)
        assert version_numbers(tmp_path) == [7]
        path = publish()
    assert path == tmp_path / "8"
    assert _is_complete(path)
    assert _names(tmp_path) == ["7", "8", "old_8", "²"]


def test_what_is_not_published_is_removed(tmp_path):
    with new_version(tmp_path / "deep" / "base") as (folder, _):
        _fill(folder)
    assert _names(tmp_path / "deep" / "base") == []


def test_a_published_export_leaves_the_next_one_of_its_name_alone(tmp_path):
    """Containers that share a volume have the same process ids."""
    with new_version(tmp_path) as (first, publish):
        _fill(first)
        publish()
        other = new_version(tmp_path)
        second, publish_other = other.__enter__()
        assert second == first
        _fill(second)
    assert _is_complete(publish_other())
    other.__exit__(None, None, None)
    assert _names(tmp_path) == ["1", "2"]


def test_everything_is_on_the_disk_before_the_rename_and_the_rename_after(tmp_path, monkeypatch):
    events = []
    flush, rename = os.fsync, Path.rename

    def record_flush(descriptor):
        events.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        flush(descriptor)

    def record_rename(self, target):
        events.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", record_flush)
    monkeypatch.setattr(Path, "rename", record_rename)
    with new_version(tmp_path) as (folder, publish):
        _fill(folder)
        publish()
    assert events[-2:] == ["rename", str(tmp_path)]
    flushed = {str(folder / name) for name in FILES} | {str(folder), str(folder / "variables")}
    assert flushed <= set(events[:-2])


# Each moment is a function of os that the process kills itself in, before or after it has done its work.
MOMENTS = {
    "before the folder is made": ("mkdir", "before", 2),  # the first call is for the base
    "after the folder is made": ("mkdir", "after", 2),
    "half written": ("mkdir", "after", 4),
    "all written, nothing flushed": ("fsync", "before", 1),
    "half flushed": ("fsync", "after", 3),
    "before the rename": ("rename", "before", 1),
    "after the rename": ("rename", "after", 1),
}
EXPORT = """
import os, signal, sys
from pathlib import Path
from mtdnn_tf.serving.versions import new_version
name, when, count = sys.argv[2], sys.argv[3], int(sys.argv[4])
original, calls = getattr(os, name), []
def deadly(*arguments, **options):
    calls.append(1)
    if when == "before" and len(calls) == count:
        os.kill(os.getpid(), signal.SIGKILL)
    result = original(*arguments, **options)
    if when == "after" and len(calls) == count:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(os, name, deadly)
with new_version(sys.argv[1]) as (folder, publish):
    for file in sys.argv[-1].split(","):
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text("x" * 1000)
    publish()
"""


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_at_any_moment_leaves_whole_versions_and_the_next_export_clears_up(tmp_path, moment):
    name, when, count = MOMENTS[moment]
    base = tmp_path / "base"
    with new_version(base) as (folder, publish):
        _fill(folder)
        publish()
    done = subprocess.run(
        [sys.executable, "-c", EXPORT, str(base), name, when, str(count), ",".join(FILES)], check=False
    )
    assert done.returncode == -signal.SIGKILL
    published = [1, 2] if moment == "after the rename" else [1]
    assert version_numbers(base) == published
    assert all(_is_complete(base / str(number)) for number in published)
    with new_version(base) as (folder, publish):
        _fill(folder)
        publish()
    assert _names(base) == [str(number) for number in range(1, len(published) + 2)]


def test_a_leftover_goes_though_its_process_id_lives_and_its_host_is_unknown(tmp_path):
    leftover = tmp_path / f".version.{os.getpid()}.0.partial"
    leftover.mkdir()
    _fill(leftover)
    with new_version(tmp_path) as (folder, publish):
        assert not leftover.exists() or folder == leftover
        assert list(folder.iterdir()) == []
        _fill(folder)
        publish()
    assert _names(tmp_path) == ["1"]


def test_an_export_that_is_still_running_is_left_alone(tmp_path):
    with new_version(tmp_path) as (first, publish_first):
        _fill(first)
        with new_version(tmp_path) as (second, publish_second):
            _fill(second)
            assert publish_second().name == "1"
        assert publish_first().name == "2"
    assert _is_complete(tmp_path / "1")
    assert _is_complete(tmp_path / "2")


TOGETHER = """
import sys, time
from mtdnn_tf.serving.versions import new_version
with new_version(sys.argv[1]) as (folder, publish):
    for file in sys.argv[-1].split(","):
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text("x" * 1000)
    print("ready", flush=True)
    sys.stdin.readline()
    print(publish().name)
"""


def test_exports_at_the_same_time_get_numbers_of_their_own(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER, str(tmp_path), ",".join(FILES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(5)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    assert version_numbers(tmp_path) == []
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    numbers = [int(process.communicate()[0]) for process in processes]
    assert sorted(numbers) == [1, 2, 3, 4, 5]
    assert all(_is_complete(tmp_path / str(number)) for number in numbers)
    assert _names(tmp_path) == ["1", "2", "3", "4", "5"]


def test_a_folder_that_cannot_be_made_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(mtdnn.UserError, match="cannot write"), new_version(tmp_path / "file" / "deep"):
        pass
