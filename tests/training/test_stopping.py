"""The first signal asks for an end, the second does what it would have done anyway; handlers are given back."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from mtdnn_tf.errors import Interrupted
from mtdnn_tf.training.stopping import StopSignals

SIGNALS = [signal.SIGTERM, signal.SIGINT]


def _send(number):
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def own_handlers():
    """Handlers as an embedding program has them: each notes what reaches it."""
    reached = []
    before = {number: signal.signal(number, lambda number, frame: reached.append(number)) for number in SIGNALS}
    yield reached
    for number, handler in before.items():
        signal.signal(number, handler)


def _interrupted(work):
    """Run `work(stop)` where a signal is expected to end it; return what was raised."""

    def block():
        with StopSignals() as stop:
            work(stop)

    with pytest.raises(Interrupted) as raised:
        block()
    return raised.value


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_is_remembered_and_the_second_is_the_callers(own_handlers, number):
    def work(stop):
        assert stop.received is None
        _send(number)
        assert stop.received is number
        assert own_handlers == []
        _send(number)
        assert own_handlers == [number]

    interrupted = _interrupted(work)
    assert interrupted.exit_status == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    assert str(interrupted).startswith(f"{number.name}: ")


def test_handlers_are_back_after_the_block_however_it_ends(own_handlers):
    handlers = [signal.getsignal(number) for number in SIGNALS]
    with StopSignals():
        assert [signal.getsignal(number) for number in SIGNALS] != handlers
    assert [signal.getsignal(number) for number in SIGNALS] == handlers
    with pytest.raises(ZeroDivisionError), StopSignals():
        _ = 1 / 0
    assert [signal.getsignal(number) for number in SIGNALS] == handlers


def test_where_waiting_would_be_long_a_signal_ends_the_work_at_once():
    done = []

    def work(stop):
        with stop.at_once():
            done.append("before")
        with stop.at_once():
            _send(signal.SIGTERM)
            done.append("after")

    _interrupted(work)
    assert done == ["before"]


def test_work_is_not_begun_after_a_signal():
    done = []

    def work(stop):
        _send(signal.SIGTERM)
        with stop.at_once():
            done.append("begun")

    _interrupted(work)
    assert done == []


def test_ignored_signals_stay_ignored():
    """A shell starts background commands with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with StopSignals() as stop:
        _send(signal.SIGINT)
        assert stop.received is None
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_in_another_thread_nothing_is_installed():
    seen = []

    def work():
        with StopSignals() as stop:
            seen.append((stop.received, [signal.getsignal(number) for number in SIGNALS]))

    handlers = [signal.getsignal(number) for number in SIGNALS]
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(None, handlers)]
