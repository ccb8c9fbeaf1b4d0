"""Numbered version folders: a server that polls the folder above sees each of them complete, or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mtdnn_tf.errors import UserError
from mtdnn_tf.files import sync, told_as_user_error

_PREFIX = ".version."  # no number: TensorFlow Serving passes over such names
_NO_LOCKS = (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)  # file systems without flock


@contextmanager
def new_version(base: Path | str) -> Iterator[tuple[Path, Callable[[], Path]]]:
    """Yield an empty folder, and the function that publishes it as the next number below `base` by one rename.

    Before the rename every file and folder is flushed to the disk. What is not published when the block ends is removed. A folder
    that a killed process left is removed by the next export: its owner holds a lock on it for as long as it lives, whatever
    its process id, container or host name. Processes that export at the same time get different numbers.

    Args:
        base: the model's folder, as TensorFlow Serving's `base_path`; made if it is missing.

    Raises:
        UserError: it can't be written; the versions there are stay as they are.
    """
    base = Path(os.path.realpath(base))
    with told_as_user_error(base):
        base.mkdir(parents=True, exist_ok=True)
        with _locked(base):
            _remove_leftovers(base)
            folder, lock = _private_folder(base)
        published: list[Path] = []

        def publish() -> Path:
            published.append(_publish(folder, base))
            return published[0]

        try:
            yield folder, publish
        finally:
            if not published:  # else the name is free, and may be another export's by now
                shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def version_numbers(base: Path) -> list[int]:
    """Return the numbers of the version folders below `base`, ascending."""
    return sorted(int(path.name) for path in base.iterdir() if _is_number(path.name)) if base.is_dir() else []


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _publish(folder: Path, base: Path) -> Path:
    sync_tree(folder)
    with _locked(base):
        target = base / str(max(version_numbers(base), default=0) + 1)
        # Should a number be taken all the same (no locks there), the rename fails: a folder that holds something isn't replaced.
        folder.rename(target)
    sync(base)
    return target


def sync_tree(folder: Path) -> None:
    """Flush all files below a folder, and the folders that name them, to the disk."""
    for parent, _, files in os.walk(folder, topdown=False):
        for name in files:
            sync(Path(parent) / name)
        sync(Path(parent))


def _private_folder(base: Path) -> tuple[Path, int]:
    """Make a folder of a free name and return it with the open descriptor that keeps its lock."""
    number = 0
    while True:
        folder = base / f"{_PREFIX}{os.getpid()}.{number}.partial"
        try:
            folder.mkdir()  # not tempfile.mkdtemp, whose folders no other user (a server, say) can read
        except FileExistsError:
            number += 1
            continue
        descriptor = os.open(folder, os.O_RDONLY)
        _try_lock(descriptor)
        return folder, descriptor


def _remove_leftovers(base: Path) -> None:
    for folder in base.glob(f"{_PREFIX}*.partial"):
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # its owner has just removed it
            continue
        try:
            if _try_lock(descriptor):
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    """Lock an open folder and return whether that worked; the system unlocks it when the process ends, however it ends."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, *_NO_LOCKS):
            return False
        raise
    return True


@contextmanager
def _locked(base: Path) -> Iterator[None]:
    """Let one process at a time past this point for `base`."""
    descriptor = os.open(base, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield
    finally:
        os.close(descriptor)


def refuse_file(base: Path, flag: str) -> None:
    """Raise a `UserError` where `base` is something else than a folder."""
    if base.exists() and not base.is_dir():
        raise UserError(f"{base}: is a file; {flag} names the folder that version folders go into")
