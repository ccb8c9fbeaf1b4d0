"""Child processes of a plan: signals are passed on to all of them, and several at once share the CPUs out among them."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

from mtdnn_tf.errors import Interrupted, UserError

_LOOK_EVERY = 0.1  # seconds
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Processes:
    """Runs `python -m` commands; while it is entered, signals to stop go to all of them, so that each can save where it stands.

    These are SIGINT, SIGTERM and, unless it is ignored as by nohup, SIGHUP, which reaches them as SIGTERM. Enter it in the main
    thread; commands may be run from any.
    """

    def __init__(self) -> None:
        """Know of no process."""
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._handlers: dict[int, Any] = {}
        self._asked: int | None = None  # the first signal that came
        self._is_stopping = False

    def __enter__(self) -> Processes:
        """Take the signals over."""
        taken = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self._handlers = {number: signal.signal(number, self._pass_on) for number in taken}
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        # Without the lock, which this same thread may hold; a process that ended meanwhile takes no harm.
        is_first, self._asked = self._asked is None, self._asked or number
        if self._is_stopping and is_first:
            return  # all were asked before, and a second signal would end a process that is about to save
        for process in tuple(self._running):
            process.send_signal(_passed_on(number))

    def stop(self) -> None:
        """Ask all that run to save and to end, unless they were asked before; nothing is started any more."""
        if self._is_stopping or self._asked is not None:
            return
        self._is_stopping = True
        for process in tuple(self._running):
            process.send_signal(signal.SIGTERM)

    def run(self, words: Sequence[str], output: Path | None = None) -> None:
        """Run `python -m` with these words to its end.

        Args:
            words: module and flags.
            output: where its output is appended to; None: it goes where this process's goes.

        Raises:
            UserError: it failed; its error is in the output that both share, or is quoted from `output`.
            Interrupted: a signal stopped it, or `stop`.
        """
        before = output.stat().st_size if output and output.is_file() else 0  # of earlier attempts
        if not self._is_stopping and self._asked is None:
            status = self._wait(words, output)
        if self._asked is not None or self._is_stopping:
            raise Interrupted(signal.Signals(self._asked or signal.SIGTERM), "stopped; the same command goes on")
        if status:
            said = f"status {status}" if status > 0 else f"signal {signal.Signals(-status).name}"
            why = f": {_reason(output, before)} (all its output: {output})" if output else ""
            raise UserError(
                f"python -m {shlex.join(words)}: ended with {said}{why}; what is finished is kept, the same command goes on"
            )

    def _wait(self, words: Sequence[str], output: Path | None) -> int:
        with output.open("ab") if output else nullcontext() as file:
            # A session of its own: Ctrl-C reaches it from here, once. Unbuffered: the one file that takes both streams then holds
            # their lines in the order in which they were written.
            process = subprocess.Popen(
                [sys.executable, "-u", "-m", *words],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT if file else None,
                start_new_session=True,
            )
        with self._lock:
            self._running.add(process)
        try:
            if self._asked is not None or self._is_stopping:  # between the start and the line above
                process.send_signal(_passed_on(self._asked or signal.SIGTERM))
            while (status := process.poll()) is None:
                time.sleep(_LOOK_EVERY)
            return status
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            with self._lock:
                self._running.discard(process)


def _passed_on(number: int) -> int:
    return signal.SIGTERM if number == signal.SIGHUP else number


def _reason(path: Path, start: int) -> str:
    """Return the last error that an entry point has printed, else the last line: of a traceback, say."""
    content = path.read_bytes()[start:].decode("utf-8", errors="replace")
    lines = [line.strip() for line in content.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["no output"])[-1]


def take_share_of_cpus(number: int, of: int) -> None:
    """Keep this thread, and the processes that it starts, to one of `of` equal shares of the CPUs that this process may use.

    TensorFlow then starts so many threads as the share has CPUs. Where the system has no such thing, or less CPUs than shares, nothing
    is done.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    cpus = sorted(os.sched_getaffinity(os.getpid()))
    if len(cpus) >= of:
        os.sched_setaffinity(0, cpus[number * len(cpus) // of : (number + 1) * len(cpus) // of])
