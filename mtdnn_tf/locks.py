"""One process at a time in a directory: a lock that ends with its process, however that ends."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import sys
from pathlib import Path
from types import TracebackType
from typing import TextIO

from mtdnn_tf.errors import UserError
from mtdnn_tf.files import told_as_user_error

LOCK_FILE = ".lock"


class DirectoryLock:
    """Holds `<directory>/.lock` from `acquire` to the end of the block; the file stays, and says who held it last."""

    def __init__(self, directory: Path, flag: str = "--model_dir") -> None:
        """Take the directory, and the flag that names it, for messages; nothing is locked yet."""
        self._directory, self._flag = directory, flag
        self._file: TextIO | None = None

    def __enter__(self) -> DirectoryLock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()  # which gives the lock back
            self._file = None

    def acquire(self) -> None:
        """Take the lock unless this object holds it already; the directory is made where it is missing.

        Raises:
            UserError: another process holds it, or the directory can't be written.
        """
        if self._file is not None:
            return
        with told_as_user_error(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
            file = (self._directory / LOCK_FILE).open("a+", encoding="utf-8")
        try:
            self._lock(file)
        except BaseException:
            file.close()
            raise
        self._file = file

    def _lock(self, file: TextIO) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                file.seek(0)
                raise UserError(
                    f"{self._directory}: another process ({file.readline().strip()[:200]}) trains in this directory; "
                    f"wait until it has ended, or name another {self._flag}"
                ) from None
            # Some network file systems have no locks: the run is worth more than the check.
            print(f"{self._directory}: cannot be locked ({error.strerror}); start no second run in it", file=sys.stderr)
            return
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
