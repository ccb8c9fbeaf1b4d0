"""Child processes of a plan: their output, failures, signals, and the CPUs that several share."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mtdnn_tf.errors import Interrupted, UserError
from mtdnn_tf.studies.processes import Processes, take_share_of_cpus

PATIENT = """
import pathlib, signal, sys, time
def leave(number, frame):
    print("saved", flush=True)
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, leave)
pathlib.Path(sys.argv[1]).touch()
time.sleep(60)
"""

SLOW = """
import pathlib, signal, sys, time
def leave(number, frame):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    pathlib.Path(sys.argv[1]).with_suffix(".leaving").touch()
    time.sleep(0.3)
    print("saved", flush=True)
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, leave)
pathlib.Path(sys.argv[1]).touch()
time.sleep(60)
"""


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A folder whose modules `python -m` finds."""
    (tmp_path / "patient.py").write_text(PATIENT)
    (tmp_path / "failing.py").write_text("import sys\nprint('one')\nsys.exit('the reason')\n")
    (tmp_path / "cpus.py").write_text("import os\nprint(sorted(os.sched_getaffinity(0)))\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _wait_for(*paths):
    until = time.monotonic() + 30
    while not all(path.exists() for path in paths):
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture
def buffered(monkeypatch):
    """Processes buffer their output, as they do on most machines."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


@pytest.mark.usefixtures("buffered")
@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("print('one')\nsys.exit('the reason')", "the reason"),
        ("print('one')\nraise KeyError('x')", "KeyError: 'x'"),
        ("atexit.register(print, 'at the end')\nprint('one')\nsys.exit('error: the reason')", "error: the reason"),
        ("print('error: recovered')\nprint('one')\nsys.exit('error: the reason')", "error: the reason"),
    ],
)
def test_a_failure_is_reported_with_its_error(modules, program, reason):
    (modules / "failing.py").write_text(f"import atexit, sys\n{program}\n")
    output = modules / "output.txt"
    output.write_text("error: of an earlier attempt\n")
    with Processes() as processes, pytest.raises(UserError) as failure:
        processes.run(["failing", "--model_dir=my run"], output)
    command = "python -m failing '--model_dir=my run'"
    expected = f"{command}: ended with status 1: {reason} (all its output: {output}); what is finished"
    assert str(failure.value).startswith(expected)
    lines = output.read_text().splitlines()
    assert lines[0] == "error: of an earlier attempt"
    assert lines.index("one") < max(place for place, line in enumerate(lines) if line == reason)


def test_of_who_ends_without_output_no_earlier_line_is_reported(modules):
    (modules / "silent.py").write_text("raise SystemExit(3)")
    (modules / "output.txt").write_text("the reason of an earlier attempt\n")
    with Processes() as processes, pytest.raises(UserError, match="ended with status 3: no output"):
        processes.run(["silent"], modules / "output.txt")


def test_without_a_file_the_output_goes_where_ours_goes(modules, capfd):
    with Processes() as processes, pytest.raises(UserError, match="ended with status 1; what"):
        processes.run(["failing"])
    assert capfd.readouterr().out == "one\n"


def test_a_signal_reaches_all_and_the_handlers_come_back(modules):
    before = signal.getsignal(signal.SIGTERM)
    started = [modules / name for name in "ab"]
    with Processes() as processes, ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(processes.run, ["patient", str(path)], path.with_suffix(".txt")) for path in started]
        _wait_for(*started)
        os.kill(os.getpid(), signal.SIGTERM)
        for run in runs:
            with pytest.raises(Interrupted) as stop:
                run.result(timeout=30)
            assert stop.value.exit_status == 143
        with pytest.raises(Interrupted):
            processes.run(["patient", str(modules / "never")])
    assert [path.with_suffix(".txt").read_text() for path in started] == ["saved\n"] * 2
    assert not (modules / "never").exists()
    assert signal.getsignal(signal.SIGTERM) is before


def test_stopping_asks_those_that_run_and_starts_no_more(modules):
    with Processes() as processes, ThreadPoolExecutor(1) as pool:
        run = pool.submit(processes.run, ["patient", str(modules / "a")], modules / "a.txt")
        _wait_for(modules / "a")
        processes.stop()
        with pytest.raises(Interrupted, match="the same command goes on"):
            run.result(timeout=30)
        with pytest.raises(Interrupted):
            processes.run(["patient", str(modules / "never")])
    assert (modules / "a.txt").read_text() == "saved\n"
    assert not (modules / "never").exists()


@pytest.mark.parametrize("is_signal_first", [True, False])
def test_who_was_asked_to_stop_is_not_asked_again(modules, is_signal_first):
    """A second signal would end a process that is saving: one fails or ends before the others have saved."""
    (modules / "slow.py").write_text(SLOW)
    with Processes() as processes, ThreadPoolExecutor(1) as pool:
        run = pool.submit(processes.run, ["slow", str(modules / "a")], modules / "a.txt")
        _wait_for(modules / "a")
        asking = [lambda: os.kill(os.getpid(), signal.SIGTERM), processes.stop]
        for ask in asking if is_signal_first else reversed(asking):
            ask()
            _wait_for(modules / "a.leaving")
        with pytest.raises(Interrupted):
            run.result(timeout=30)
    assert (modules / "a.txt").read_text() == "saved\n"


@pytest.fixture
def closing_ends():
    """SIGHUP as a terminal's programs have it: tests may be run by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("closing_ends")
def test_a_terminal_that_is_closed_stops_them_as_sigterm_does(modules):
    with Processes() as processes, ThreadPoolExecutor(1) as pool:
        run = pool.submit(processes.run, ["patient", str(modules / "a")], modules / "a.txt")
        _wait_for(modules / "a")
        os.kill(os.getpid(), signal.SIGHUP)
        with pytest.raises(Interrupted):
            run.result(timeout=30)
    assert (modules / "a.txt").read_text() == "saved\n"


def test_what_ignores_a_closed_terminal_goes_on_doing_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Processes():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system keeps no process to some CPUs")
def test_several_share_the_cpus_out(modules):
    cpus = sorted(os.sched_getaffinity(0))
    shares = min(2, len(cpus))

    def share(number):
        take_share_of_cpus(number, shares)
        with (modules / f"{number}.txt").open("w"):
            processes.run(["cpus"], modules / f"{number}.txt")
        return [int(cpu) for cpu in (modules / f"{number}.txt").read_text().strip("[]\n").split(",")]

    with Processes() as processes:
        found = []
        for number in range(shares):
            with ThreadPoolExecutor(1) as pool:
                found.append(pool.submit(share, number).result())
    assert sorted(cpu for own in found for cpu in own) == cpus
    assert max(map(len, found)) - min(map(len, found)) <= 1
    assert sorted(os.sched_getaffinity(0)) == cpus
