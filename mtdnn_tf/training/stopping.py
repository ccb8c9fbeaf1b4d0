"""SIGTERM and Ctrl-C while training: the first asks for a checkpoint and an end, the second ends at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from mtdnn_tf.errors import Interrupted


class StopSignals:
    """Within the block, remembers the first SIGTERM or SIGINT instead of dying of it.

    With the first signal, and at the end of the block, whatever handlers were there before are back: a second signal does what
    it would have done without this. Signals that are ignored stay ignored. Outside the main thread, where Python can't handle
    signals, nothing is installed.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._at_once = False

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                previous = signal.getsignal(number)
                if previous not in (None, signal.SIG_IGN):  # None: not Python's to give back
                    self._previous[number] = previous
                    signal.signal(number, self._receive)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._give_back()
        if self.received is not None and error is None:
            raise Interrupted(
                self.received, "stopped after training, which is saved; the same command without --fresh scores the run"
            )

    def _give_back(self) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._give_back()
        self._raise_at_once()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within this block, which may take long and can be repeated, a signal raises `Interrupted` where it comes in."""
        self._at_once = True
        try:
            self._raise_at_once()
            yield
        finally:
            self._at_once = False

    def _raise_at_once(self) -> None:
        if self.received is not None and self._at_once:
            raise Interrupted(self.received, "stopped")
