"""Names that lead to no readable file: links, pipes, devices, folders; told in one line, and none is waited for."""

from __future__ import annotations

import os
import socket

import pytest

from mtdnn_tf.config import SourceConfig
from mtdnn_tf.data.sources import read_source
from mtdnn_tf.errors import UserError
from mtdnn_tf.tasks import TaskSpec

MOOD = TaskSpec("mood", "classification", ("text",), ("negative", "positive"))
GOOD = "text\tlabel\na\tpositive\nb\tnegative\n"


def _read(path, **options):
    return read_source(MOOD, SourceConfig(path=str(path), **options), labelled=True)


def _missing(folder):
    (folder / "train.tsv").write_text(GOOD)
    return folder / "trian.tsv"


def _other_case(folder):
    (folder / "TRAIN.TSV").write_text(GOOD)
    return folder / "train.tsv"


def _loop(folder):
    (folder / "x.tsv").symlink_to(folder / "y.tsv")
    (folder / "y.tsv").symlink_to(folder / "x.tsv")
    return folder / "x.tsv"


def _dangling(folder):
    (folder / "x.tsv").symlink_to(folder / "gone.tsv")
    return folder / "x.tsv"


def _folder(folder, name="x.tsv"):
    (folder / name).mkdir()
    return folder / name


def _pipe(folder):
    os.mkfifo(folder / "x.tsv")
    return folder / "x.tsv"


def _packed_pipe(folder):
    os.mkfifo(folder / "x.tsv.gz")
    return folder / "x.tsv.gz"


def _socket(folder):
    here = os.getcwd()
    os.chdir(folder)  # the names of sockets are short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("x.tsv")
    os.chdir(here)
    return folder / "x.tsv"


def _endless(folder):
    (folder / "x.tsv").symlink_to("/dev/zero")
    return folder / "x.tsv"


def _within_a_file(folder):
    (folder / "x.tsv").write_text(GOOD)
    return folder / "x.tsv" / "rows.tsv"


def _line_break(folder):
    (folder / "a\nb.tsv").write_text(GOOD.replace("positive", "bad"))
    return folder / "a\nb.tsv"


def _not_unicode(folder):
    path = os.fsdecode(os.fsencode(folder) + b"/caf\xe9.tsv")
    with open(path, "w") as stream:
        stream.write(GOOD.replace("positive", "bad"))
    return path


PATHS = {
    "missing": (_missing, ("no such file", "mean 'train.tsv'")),
    "missing by case": (_other_case, ("no such file", "mean 'TRAIN.TSV'")),
    "missing folder": (lambda folder: folder / "data" / "x.tsv", ("no such file, nor is there a folder",)),
    "symbolic links in a circle": (_loop, ("cannot be opened", "symbolic links")),
    "symbolic link to nothing": (_dangling, ("a symbolic link to", "gone.tsv")),
    "folder": (_folder, ("this is a directory",)),
    "folder without ending": (lambda folder: _folder(folder, "rows"), ("this is a directory",)),
    "pipe": (_pipe, ("this is a pipe, socket or device",)),
    "pipe called gzip": (_packed_pipe, ("this is a pipe, socket or device",)),
    "socket": (_socket, ("this is a pipe, socket or device",)),
    "device without end": (_endless, ("this is a pipe, socket or device",)),
    "file for a folder": (_within_a_file, ("cannot be opened", "Not a directory")),
    "name of 5000 characters": (lambda folder: folder / ("x" * 5000 + ".tsv"), ("cannot be opened", "too long")),
    "NUL in the name": (lambda folder: f"{folder}/a\0b.tsv", ("cannot be opened", r"a\x00b.tsv")),
    "line break in the name": (_line_break, (r"a\nb.tsv:2: column 'label': unknown label 'bad'",)),
    "name that is not Unicode": (_not_unicode, (r"caf\udce9.tsv:2: column 'label': unknown label 'bad'",)),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", PATHS)
def test_a_hostile_path_is_told(tmp_path, name):
    make, parts = PATHS[name]
    path = make(tmp_path)
    with pytest.raises(UserError) as raised:
        _read(path)
    message = str(raised.value)
    assert message.isprintable()
    assert len(message) <= 600 + 2 * len(str(path))
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    "name", ["two words.tsv", "a\nb.tsv", "été 日本.tsv", "-x.tsv", "x:1.tsv", "%s{0}.tsv", "~.tsv"]
)
def test_odd_names_are_read(tmp_path, name):
    (tmp_path / name).write_text(GOOD)
    assert _read(tmp_path / name).texts == (["a", "b"],)


def test_a_symbolic_link_to_a_file_is_followed(tmp_path):
    (tmp_path / "rows.tsv").write_text(GOOD)
    (tmp_path / "x.tsv").symlink_to("rows.tsv")
    assert len(_read(tmp_path / "x.tsv")) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_told(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text(GOOD)
    path.chmod(0)
    with pytest.raises(UserError, match=r"x\.tsv: the file cannot be opened \(Permission denied\)"):
        _read(path)
