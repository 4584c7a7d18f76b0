"""Runs one suite on one loop in a process of its own, and reads what it has written down."""

import contextlib
import dataclasses
import json
import os
import select
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from conformance.suites import Suite

Outcome: TypeAlias = Literal["passed", "failed", "skipped"]
_TIMEOUT: Final = 240.0
# Of a suite that has come to its end, whatever its tests did; 5 is pytest's if there is none.
_EXIT_STATUSES: Final = (0, 1, 5)
# What would change what tests see, or how a runner behaves, from outside.
_NOT_INHERITED: Final = ("PYTHON", "PYTEST", "VIRTUAL_ENV")


@dataclasses.dataclass(frozen=True)
class Result:
    """How one test ended."""

    outcome: Outcome
    detail: str = ""
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Run:
    """One suite on one loop of one interpreter."""

    suite: str
    python: str  # as in "3.13"
    loop: str
    tests: dict[str, Result] = dataclasses.field(default_factory=dict)
    trouble: str | None = None  # why it did not come to its end
    absent: str | None = None  # why there is nothing to run, where that is no fault
    spawned: int | None = None  # children that aiovfork has started
    repaired: tuple[str, ...] = ()  # tests that had failed before the run was repeated
    seconds: float = 0.0
    log: Path | None = None

    @property
    def failed(self) -> set[str]:
        """The tests that failed."""
        return {test for test, result in self.tests.items() if result.outcome == "failed"}

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"{self.suite} on {self.loop}, Python {self.python}"


class Runner:
    """Runs suites, from any number of threads, until it is stopped."""

    def __init__(self, timeout: float = _TIMEOUT) -> None:
        self._timeout = timeout
        self._lock = threading.Lock()
        self._under_way: set[int] = set()  # pidfds
        self._stopped = False

    def stop(self) -> None:
        """End what runs, and start nothing more."""
        with self._lock:
            self._stopped = True
            for pidfd in self._under_way:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def execute(
        self, suite: Suite, python: str, loop: str, interpreter: Path, cwd: Path, folder: Path
    ) -> Run:
        """Run a suite. Its output and records go into the folder, which is emptied before.

        Nothing is raised for what goes wrong in there: that is the Run's trouble.
        """
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        records, log = folder / "records.jsonl", folder / "output.txt"
        command = suite.command(interpreter, loop, records, folder / "scratch")
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)
        }
        environment.update(suite.environment)
        start = time.monotonic()
        with log.open("wb") as output:
            status = self._call(command, cwd, environment, output)
        run = Run(suite.name, python, loop, seconds=time.monotonic() - start, log=log)
        run = _with_records(run, records)
        if run.trouble is None and status in _EXIT_STATUSES:
            return run
        how = f"exit status {status}" if status is not None else f"ended after {self._timeout:.0f} s"
        return dataclasses.replace(run, trouble=f"{how}; {run.trouble or 'all tests had run'}")

    def _call(self, command: list[str], cwd: Path, environment: dict[str, str], output: Any) -> int | None:
        """Return the exit status, or None after the timeout."""
        with subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process:
            pidfd = os.pidfd_open(process.pid)
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            with self._lock:
                self._under_way.add(pidfd)
                if self._stopped:
                    process.kill()
            try:
                ended = bool(poll.poll(self._timeout * 1000))
            finally:
                with self._lock:
                    self._under_way.remove(pidfd)
                os.close(pidfd)
                # With the children in its group. It is not reaped yet: the number is still its own.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
            return status if ended else None


def _with_records(run: Run, records: Path) -> Run:
    """Add what the records say, and why they are not complete, if they are not."""
    tests: dict[str, Result] = {}
    under_way: str | None = None
    for line in records.read_text().splitlines() if records.exists() else []:
        try:
            event = json.loads(line)
        except ValueError:  # the last line of one that was killed
            break
        if event["event"] == "done":
            return dataclasses.replace(run, tests=tests, spawned=event["spawned"])
        if event["event"] == "start":
            under_way = event["test"]
        else:
            under_way = None
            _add(tests, event["test"], Result(event["outcome"], event["detail"], event["seconds"]))
    trouble = "it has not come to its end" if tests else "it has not come to its first test"
    if under_way is not None:
        trouble = f"it ended in {under_way}"
        _add(tests, under_way, Result("failed", "the process ended in it"))
    return dataclasses.replace(run, tests=tests, trouble=trouble)


def _add(tests: dict[str, Result], test: str, result: Result) -> None:
    """Add a result; of two by one name the worse counts."""
    order: list[Outcome] = ["failed", "skipped", "passed"]
    if test not in tests or order.index(result.outcome) < order.index(tests[test].outcome):
        tests[test] = result
