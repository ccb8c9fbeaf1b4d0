"""Files and folders that appear complete or not at all."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mtdnn_tf.errors import UserError

_REASONS = {errno.ENOSPC: "no space left on device", errno.EDQUOT: "disk quota exceeded"}


def matching_files(pattern: str) -> list[str]:
    """Return the files that a pattern with * ? [] stands for (** for folders in folders), sorted; any other path as it is."""
    if Path(pattern).exists() or not glob.has_magic(pattern):
        return [pattern]
    return sorted(path for path in glob.glob(pattern, recursive=True) if Path(path).is_file())


def sha256(path: Path) -> str:
    """Return the checksum of a file's bytes: 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text_atomically(path: Path | str, text: str) -> None:
    """Write a UTF-8 file under another name beside `path`, then rename it; missing folders are made.

    A link is followed. What is no ordinary file (`/dev/stdout`, a pipe) can't be renamed to and is written directly.

    Raises:
        UserError: it can't be written; what was there before is untouched, and nothing is left beside it.
    """
    write_bytes_atomically(path, text.encode())


def write_bytes_atomically(path: Path | str, content: bytes) -> None:
    """Write a file as `write_text_atomically` does.

    Raises:
        UserError: it can't be written; what was there before is untouched, and nothing is left beside it.
    """
    with told_as_user_error(path):
        if Path(path).exists() and not Path(path).is_file():
            Path(path).write_bytes(content)
            return
        target = Path(os.path.realpath(path))
        temporary = _temporary(target)
        try:
            temporary.write_bytes(content)
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def append_line(path: Path, text: str) -> None:
    """Append a line to a UTF-8 file, whole or not at all.

    Raises:
        UserError: it can't be written; the lines before are untouched.
    """
    with told_as_user_error(path), path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        line = f"{text}\n".encode()
        try:
            written = file.write(line)
            if written != len(line):  # what fitted on the disk
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.truncate(path, size)
            raise


def sync(path: Path) -> None:
    """Wait until a file's contents, or a folder's names, are on the disk, where the file system can tell."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


@contextmanager
def atomic_directory(path: Path | str, *, replace: bool = False) -> Iterator[Path]:
    """Yield a new empty folder beside `path` that takes its name when the block ends, and disappears if the block fails.

    Args:
        path: the folder to make; missing parents are made.
        replace: whether a folder of that name gives way. It stays in place until the new one is complete.

    Raises:
        UserError: `path` is there and `replace` is false, or it can't be written; what was there before is untouched.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not (replace and target.is_dir()):
        raise UserError(f"{path}: already exists; name another folder, or remove what is there")
    with told_as_user_error(path):
        temporary = _temporary(target)
        temporary.mkdir()  # not tempfile.mkdtemp, whose folders no other user (a server, say) can read
        try:
            yield temporary
            _take_place(temporary, target, replace)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _take_place(temporary: Path, target: Path, replace: bool) -> None:
    previous = temporary.with_suffix(".replaced")
    while True:
        with suppress(FileNotFoundError):  # most often there is nothing to replace
            if replace:
                target.rename(previous)
        try:
            temporary.rename(target)
            break
        except BaseException as error:
            if replace and isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                shutil.rmtree(previous, ignore_errors=True)  # another process was faster: now its folder gives way
                continue
            with suppress(FileNotFoundError):
                previous.rename(target)
            raise
    shutil.rmtree(previous, ignore_errors=True)


def _temporary(target: Path) -> Path:
    """Return a free name beside the target, after clearing what killed processes left under such names."""
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}.{socket.gethostname()}."
    for leftover in target.parent.iterdir():
        if leftover.name.startswith(prefix) and leftover.suffix in (".partial", ".replaced"):
            _clear_if_orphaned(leftover, leftover.stem.removeprefix(prefix), target)
    return target.parent / f"{prefix}{os.getpid()}.partial"


def _clear_if_orphaned(leftover: Path, process: str, target: Path) -> None:
    if not process.isdecimal() or (int(process) != os.getpid() and _is_running(int(process))):
        return
    _clear(leftover, target)


def _clear(leftover: Path, target: Path) -> None:
    if leftover.suffix == ".replaced" and not target.exists():
        leftover.rename(target)  # killed between the two renames: this is what was there before
    elif leftover.is_dir():
        shutil.rmtree(leftover, ignore_errors=True)
    else:
        leftover.unlink(missing_ok=True)


def clear_leftovers(folder: Path, names: str) -> None:
    """Clear what killed processes left while they wrote into `folder`; for a caller that nobody else writes beside.

    What had been set aside for a new folder that never came gets its name back. The process that left it need not be of this
    machine, and its number may be another process's by now.

    Args:
        folder: need not be there.
        names: a regular expression of the files and folders that were being written.
    """
    for leftover in sorted(folder.glob(".*")):
        match = re.fullmatch(rf"\.({names})\..+\.\d+\.(partial|replaced)", leftover.name)
        if match:
            _clear(leftover, folder / match[1])


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


@contextmanager
def told_as_user_error(path: Path | str) -> Iterator[None]:
    """Raise as `UserError` what says that `path` can't be written: a full disk, missing rights."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = _reason(error)
        if reason is None:
            raise
        raise UserError(f"cannot write {path}: {reason}; what was there before is untouched") from error


def _reason(error: Exception) -> str | None:
    """Return why nothing could be written, or None where the error is about something else."""
    if isinstance(error, OSError):
        return _REASONS.get(error.errno or 0, (error.strerror or str(error)).lower())
    # By name: TensorFlow, which reports a full disk so, takes seconds to import.
    if any(kind.__name__ == "ResourceExhaustedError" for kind in type(error).__mro__):
        message = str(error).splitlines()[0] if str(error) else "resources are exhausted"
        known = [reason for reason in _REASONS.values() if reason in message.lower()]
        return known[0] if known else message
    return None
