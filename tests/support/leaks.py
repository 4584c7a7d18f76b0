"""What a process holds: compared before and after a test, it tells what the test has leaked.

Every test looks twice, so a look is cheap: it asks the kernel what can be asked in a moment. What costs more, a
full collection of garbage and the names of what is left, comes only where two looks differ.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import psutil

from tests.support.backends import left_over_tasks
from tests.support.view import read_status

_WALL: Final = 0x40000000  # __WALL of waitid(2): children of every kind
# pytest itself keeps the name of the running phase there.
_NOT_COMPARED: Final = b"PYTEST_CURRENT_TEST"
_SIGNALS: Final = sorted(signal.valid_signals())
# A thread that is still there then may be kept by garbage: an executor's, for instance.
_MOMENT: Final = 0.1


@dataclasses.dataclass(frozen=True)
class Footprint:
    """Descriptors, children, threads and inherited state of this process."""

    fds: frozenset[tuple[str, str]]
    children: frozenset[int]
    threads: frozenset[str]
    environment: dict[bytes, bytes]
    state: dict[str, Any]

    @classmethod
    def take(cls) -> Footprint:
        """Look at this process now."""
        environment: dict[bytes, bytes] = dict(os.environ._data)  # type: ignore[attr-defined]  # as bytes, at once
        environment.pop(_NOT_COMPARED, None)
        return cls(_fds(), _children(), frozenset(os.listdir("/proc/self/task")), environment, _state())

    def differences(self, before: Footprint) -> list[str]:
        """Tell what is there that was not, and the other way round, but for threads that have ended."""
        found = [f"leaked descriptor {fd} -> {target}" for fd, target in sorted(self.fds - before.fds)]
        found += [
            f"closed somebody's descriptor {fd} -> {target}" for fd, target in sorted(before.fds - self.fds)
        ]
        found += [f"left a child: {_described(child)}" for child in self.children - before.children]
        found += [f"left thread {tid} {_thread(tid)!r}" for tid in sorted(self.threads - before.threads)]
        found += [
            f"changed ${os.fsdecode(name)}: {before.environment.get(name)!r} -> {self.environment.get(name)!r}"
            for name in sorted(before.environment.keys() | self.environment.keys())
            if self.environment.get(name) != before.environment.get(name)
        ]
        found += [
            f"changed {name}: {before.state[name]!r} -> {value!r}"
            for name, value in self.state.items()
            if value != before.state[name]
        ]
        return found

    def same(self, before: Footprint) -> bool:
        """Whether differences() would find nothing."""
        return self.threads <= before.threads and self.only_threads_differ(before)

    def only_threads_differ(self, before: Footprint) -> bool:
        """Whether differences() would find nothing but threads, which mostly end by themselves."""
        return self.children <= before.children and (self.fds, self.environment, self.state) == (
            before.fds,
            before.environment,
            before.state,
        )


def _fds() -> frozenset[tuple[str, str]]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append((name, os.readlink(f"/proc/self/fd/{name}")))
        except FileNotFoundError:  # the descriptor of this listing
            continue
    return frozenset(found)


def _children() -> frozenset[int]:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT | _WALL)
    except ChildProcessError:
        return frozenset()  # as nearly always
    except PermissionError:  # the test has it refused
        pass
    return frozenset(child.pid for child in psutil.Process().children())


def _described(child: int) -> str:
    try:
        return str(psutil.Process(child))
    except psutil.NoSuchProcess:
        return f"{child}, gone by now"


def _thread(tid: str) -> str:
    try:
        with open(f"/proc/self/task/{tid}/comm") as file:
            return file.read().strip()
    except (FileNotFoundError, ProcessLookupError):
        return "gone by now"


def _state() -> dict[str, Any]:
    with open("/proc/thread-self/status") as file:
        status = read_status(file.read())
    return {
        "cwd": os.getcwd(),
        "umask": status["Umask"],
        "signal mask": status["SigBlk"],
        "ignored signals": status["SigIgn"],
        "handlers": {number: signal.getsignal(number) for number in _SIGNALS},
    }


def wait_same(
    before: Footprint, seconds: float = 5.0, look: Callable[[], Footprint] = Footprint.take
) -> list[str]:
    """Wait until nothing differs from before, or for so long, and return what does.

    Workers and watchers that have delivered their result may take a moment to end: hence the patience,
    which costs nothing where nothing is leaked.
    """
    start = time.monotonic()
    collected = False
    while not (now := look()).same(before):
        waited = time.monotonic() - start
        if not collected and (waited > _MOMENT or not now.only_threads_differ(before)):
            collected = True
            _collect()
        elif waited >= seconds:
            return now.differences(before) + _tasks()
        else:
            time.sleep(0.001)
    return _tasks()


class Workers:
    """The library's threads, which may outlast a test: they look after their children's ends only now and then.

    To wait for them after each test would be a quarter of the time of all tests. So they are left out of what is
    compared there, and the next tests look whether they have ended.
    """

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def look(self) -> Footprint:
        """As Footprint.take(), without the workers that there are."""
        now = Footprint.take()
        workers = [tid for tid in now.threads if _thread(tid) in {"aiovfork", "aiovfork-output"}]
        self._since = {tid: self._since.get(tid, time.monotonic()) for tid in workers}
        return dataclasses.replace(now, threads=now.threads - self._since.keys())

    def look_before(self) -> Footprint:
        """As look(), once the collector of the loops of earlier tests has closed its descriptors."""
        deadline = time.monotonic() + _MOMENT
        while time.monotonic() < deadline:
            if not any(_thread(tid) == "aiovfork-output" for tid in os.listdir("/proc/self/task")):
                break
            time.sleep(0.001)
        return self.look()

    def overdue(self, seconds: float = 30.0) -> list[str]:
        """Tell which have been there for so long, whatever test has left them."""
        now = time.monotonic()
        return [
            f"an earlier test left worker {tid}"
            for tid, since in self._since.items()
            if now - since > seconds
        ]

    def wait_ended(self) -> list[str]:
        """Wait until all have ended, or are overdue; return those that are."""
        while not self.overdue() and self._since:
            time.sleep(0.001)
            self.look()
        return self.overdue()


def _collect() -> None:
    # The traceback of a failed test holds its loop.
    for name in ("last_type", "last_value", "last_traceback", "last_exc"):
        vars(sys).pop(name, None)
    gc.collect()
    # What has survived that collection stays: the next one need not look at it again.
    gc.freeze()


def _tasks() -> list[str]:
    return [f"left {task!r}" for task in left_over_tasks()]
