"""Local workers: their environment, their output, and what happens when one fails or a signal comes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mtdnn_tf import train_workers
from mtdnn_tf.train_workers import run_workers, worker_environments

INDEX = "import json, os, sys, time; index = json.loads(os.environ['TF_CONFIG'])['task']['index']; "


def test_every_worker_knows_all_and_its_own_number():
    configs = [json.loads(environment["TF_CONFIG"]) for environment in worker_environments(3)]
    assert [config["task"] for config in configs] == [{"type": "worker", "index": index} for index in range(3)]
    [hosts] = {tuple(config["cluster"]["worker"]) for config in configs}
    assert len(set(hosts)) == 3


def test_lines_carry_the_number_of_their_worker(capfd):
    code = INDEX + "print('out', index); print('err', index, file=sys.stderr)"
    assert run_workers([sys.executable, "-c", code], 2) == 0
    lines = capfd.readouterr().out.splitlines()
    assert sorted(lines) == sorted(f"[worker {index}] {kind} {index}" for index in range(2) for kind in ("out", "err"))


def test_one_that_fails_stops_the_others():
    started = time.monotonic()
    code = INDEX + "time.sleep(60) if index == 0 else sys.exit(3)"
    assert run_workers([sys.executable, "-c", code], 2) == 3
    assert time.monotonic() - started < 30


def test_one_that_does_not_listen_is_killed(monkeypatch):
    monkeypatch.setattr(train_workers, "GRACE", 1.0)
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    assert (
        run_workers([sys.executable, "-c", ignore + INDEX + "time.sleep(1 + 60 * (1 - index)); sys.exit(index)"], 2)
        == 1
    )


def test_one_that_saves_at_a_signal_is_waited_for(capfd, monkeypatch):
    monkeypatch.setattr(train_workers, "GRACE", 0.5)
    code = INDEX + (
        "import signal\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(3 * (1 - index)), print('saved', flush=True), os._exit(143)))\n"
        "time.sleep(60)"
    )
    threading.Timer(3.0, os.kill, [os.getpid(), signal.SIGTERM]).start()
    assert run_workers([sys.executable, "-c", code], 2) == 143
    assert {"[worker 0] saved", "[worker 1] saved"} <= set(capfd.readouterr().out.splitlines())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_every_worker(capfd, number):
    code = INDEX + (
        "import signal\n"
        f"signal.signal({int(number)}, lambda *_: (print('stopped', index, flush=True), os._exit(7)))\n"
        "print('ready', flush=True)\ntime.sleep(60)"
    )
    # Long enough for both to have set their handlers, and without effect before that on this process.
    timer = threading.Timer(3.0, os.kill, [os.getpid(), number])
    timer.start()
    assert run_workers([sys.executable, "-c", code], 2) == 7
    lines = capfd.readouterr().out.splitlines()
    assert {"[worker 0] stopped 0", "[worker 1] stopped 1"} <= set(lines)


def test_the_strategy_is_not_the_users_to_give():
    command = [sys.executable, "-m", "mtdnn_tf.train_workers", "--", "--strategy=mirrored"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.strip() == "error: --strategy: train_workers sets it to multi_worker; leave it out"
