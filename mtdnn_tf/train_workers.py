"""Trains with several workers on this machine: `python -m mtdnn_tf.train_workers --workers=2 -- --config=FILE --model_dir=DIR`.

What stands after `--` goes to `mtdnn_tf.train` of every worker, which gets `--strategy=multi_worker` and a TF_CONFIG with free
ports beside it. Lines of worker 1 start with `[worker 1]`; worker 0 is the chief, which writes the run directory. When a worker
fails the others are stopped and this command fails. Signals go to all workers.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO

from absl import app, flags

from mtdnn_tf.streams import resilient_streams

_WORKERS = flags.DEFINE_integer("workers", 2, "How many workers to start.", lower_bound=1)

GRACE = 20.0  # seconds that a worker has to stop before it is killed; one that waits for others cannot hear a signal
SAVING = (
    300.0  # the same, after the user's first signal and the end of another worker: it may be writing its checkpoint
)
_LOOK_EVERY = 0.1  # seconds


def worker_environments(workers: int) -> list[dict[str, str]]:
    """Return an environment for each worker: this process's, with a TF_CONFIG of free ports on this machine."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(workers)]
        for opened in sockets:
            opened.bind(("localhost", 0))
        hosts = [f"localhost:{opened.getsockname()[1]}" for opened in sockets]
    tasks = [{"type": "worker", "index": index} for index in range(workers)]
    return [
        dict(os.environ) | {"TF_CONFIG": json.dumps({"cluster": {"worker": hosts}, "task": task})} for task in tasks
    ]


def run_workers(command: Sequence[str], workers: int) -> int:
    """Run a command once for each worker until all have ended, or one has failed and the others are stopped.

    Returns:
        0, or the exit status of the first that failed (of one that a signal ended, 128 and the signal's number).
    """
    processes: list[subprocess.Popen[bytes]] = []
    received: list[int] = []
    # Set first: a signal that comes while workers are being started must reach them, too.
    before = {number: signal.signal(number, lambda got, _: received.append(got)) for number in _SIGNALS}
    try:
        for environment in worker_environments(workers):
            # Sessions of their own: Ctrl-C reaches them from here, once.
            processes.append(
                subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
        readers = [_pass_on(index, process.stdout) for index, process in enumerate(processes) if process.stdout]
        status = _wait(processes, received)
        for reader in readers:
            reader.join(timeout=GRACE)
        return status
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _pass_on(index: int, stream: IO[bytes]) -> threading.Thread:
    def copy() -> None:
        with stream:
            for line in stream:
                sys.stdout.write(f"[worker {index}] {line.decode('utf-8', errors='replace').rstrip()}\n")
                sys.stdout.flush()

    reader = threading.Thread(target=copy, daemon=True)
    reader.start()
    return reader


def _wait(processes: Sequence[subprocess.Popen[bytes]], received: list[int]) -> int:
    status, deadline = 0, math.inf
    by_user = told = 0
    while True:
        running = [process for process in processes if process.poll() is None]
        failed = [process.returncode for process in processes if process.returncode]
        if failed and not status:
            status = failed[0] if failed[0] > 0 else 128 - failed[0]
        if not running:
            return status
        asked = received.pop(0) if received else None
        by_user += asked is not None
        if asked is None and failed and not told:
            asked = signal.SIGTERM
        if asked is not None:
            told += 1
            for process in running:
                process.send_signal(asked)
        if told and by_user != 1:
            deadline = min(deadline, time.monotonic() + GRACE)
        elif told and len(running) < len(processes):
            deadline = min(deadline, time.monotonic() + SAVING)
        if time.monotonic() > deadline:
            print(
                f"{len(running)} of {len(processes)} workers have not stopped and are killed",
                file=sys.stderr,
                flush=True,
            )
            deadline = math.inf
            for process in running:
                process.kill()
        time.sleep(_LOOK_EVERY)


def main(argv: Sequence[str]) -> None:
    """Start the workers, wait for them."""
    arguments = argv[1:]
    if any(argument.startswith("--strategy") for argument in arguments):
        sys.exit("error: --strategy: train_workers sets it to multi_worker; leave it out")
    command = [sys.executable, "-u", "-m", "mtdnn_tf.train", "--strategy=multi_worker", *arguments]
    sys.exit(run_workers(command, _WORKERS.value))


if __name__ == "__main__":
    with resilient_streams():
        app.run(main)
