"""What a process holds: compared before and after a test, it tells what the test has leaked."""

from __future__ import annotations

import dataclasses
import gc
import os
import signal
import sys
import time
from typing import Any

import psutil

from tests.support.backends import left_over_tasks
from tests.support.view import read_status


@dataclasses.dataclass(frozen=True)
class Footprint:
    """Descriptors, children, threads and inherited state of this process."""

    fds: set[tuple[int, str]]
    children: set[psutil.Process]
    threads: set[tuple[int, str]]
    state: dict[str, Any]

    @classmethod
    def take(cls) -> Footprint:
        """Look at this process now."""
        return cls(_fds(), set(psutil.Process().children()), _threads(), _state())

    def differences(self, before: Footprint) -> list[str]:
        """Tell what is there that was not, and the other way round, but for threads that have ended."""
        found = [f"leaked descriptor {fd} -> {target}" for fd, target in sorted(self.fds - before.fds)]
        found += [
            f"closed somebody's descriptor {fd} -> {target}" for fd, target in sorted(before.fds - self.fds)
        ]
        found += [f"left a child: {child}" for child in self.children - before.children]
        found += [f"left thread {tid} {name!r}" for tid, name in sorted(self.threads - before.threads)]
        found += [
            f"changed {name}: {before.state.get(name)!r} -> {self.state.get(name)!r}"
            for name in sorted(before.state.keys() | self.state.keys())
            if self.state.get(name) != before.state.get(name)
        ]
        return found


def _fds() -> set[tuple[int, str]]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add((int(name), os.readlink(f"/proc/self/fd/{name}")))
        except FileNotFoundError:  # the descriptor of this listing
            continue
    return found


def _threads() -> set[tuple[int, str]]:
    found = set()
    for tid in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{tid}/comm") as file:
                found.add((int(tid), file.read().strip()))
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
    return found


def _state() -> dict[str, Any]:
    with open("/proc/thread-self/status") as file:
        status = read_status(file.read())
    return {
        "cwd": os.getcwd(),
        # pytest itself keeps the name of the running phase there.
        **{f"${name}": value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"},
        "umask": status["Umask"],
        "signal mask": status["SigBlk"],
        "ignored signals": status["SigIgn"],
        **{f"handler of signal {number}": signal.getsignal(number) for number in signal.valid_signals()},
    }


def wait_same(before: Footprint, seconds: float = 5.0) -> list[str]:
    """Wait until nothing differs from before, or for so long, and return what does.

    Workers and watchers that have delivered their result may take a moment to end: hence the patience,
    which costs nothing where nothing is leaked.
    """
    # The traceback of a failed test holds its loop.
    for name in ("last_type", "last_value", "last_traceback", "last_exc"):
        vars(sys).pop(name, None)
    gc.collect()
    deadline = time.monotonic() + seconds
    while (found := Footprint.take().differences(before)) and time.monotonic() < deadline:
        time.sleep(0.002)
    return found + [f"left {task!r}" for task in left_over_tasks()]
