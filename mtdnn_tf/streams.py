"""Standard output and standard error that cannot break a command: what they no longer accept is dropped, and the work goes on."""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Descriptor(io.FileIO):
    """The file descriptor of a standard stream. After the first failed write it leads to the null device, for children too."""

    failed = False  # output was lost, not counting what a reader that has left did not want

    def write(self, content: Any, /) -> int:
        """Write some of the bytes and return their number; all of them where they are dropped."""
        try:
            while (written := super().write(content)) is None:  # a pipe that its reader has set to non-blocking
                select.select([], [self], [])
            return written
        except OSError as error:
            self._drop_output(error)
            return memoryview(content).nbytes

    def _drop_output(self, error: OSError) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)
        if isinstance(error, BrokenPipeError):
            return  # `| head -1`: the reader has what it wanted
        self.failed = True
        if self.fileno() == 1:
            reason = (error.strerror or str(error)).lower()
            print(f"error: cannot write to standard output: {reason}; further output is dropped", file=sys.stderr)


@contextmanager
def resilient_streams() -> Iterator[None]:
    """Replace `sys.stdout` and `sys.stderr`, for the rest of the process, by streams that never raise.

    Characters that their encoding lacks are written as escapes. A closed stream counts as one that cannot be written.

    Raises:
        SystemExit: at the end, with status 1 where the block ends well, but standard output was lost.
    """
    _reserve_descriptors()
    output = _replace("stdout", 1)
    _replace("stderr", 2)
    leaving = None
    try:
        yield
    except SystemExit as stop:
        leaving = stop
    finally:  # before the interpreter prints the error that `leaving` may hold: the streams may be one file
        sys.stdout.flush()
        sys.stderr.flush()
    if output.failed and not (leaving and leaving.code):
        raise SystemExit(1)
    if leaving:
        raise leaving


def _reserve_descriptors() -> None:
    """Open what the parent process has closed, so that no file gets the number of a standard stream."""
    for number, mode in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_RDONLY)):  # the wrong way round: use still fails
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # takes the lowest free number, which is this one


def _replace(name: str, number: int) -> _Descriptor:
    stream = getattr(sys, name)
    is_text = isinstance(stream, io.TextIOWrapper)
    descriptor = _Descriptor(number, "w", closefd=False)
    new = io.TextIOWrapper(
        io.BufferedWriter(descriptor),
        encoding=stream.encoding if is_text else "utf-8",
        errors="backslashreplace",
        line_buffering=not is_text or stream.line_buffering or stream.write_through,
    )
    setattr(sys, name, new)
    return descriptor
