"""Runs one suite on one loop in a process of its own, and reads what it has written down."""

import contextlib
import dataclasses
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Final, Literal, TypeAlias

from conformance.suites import Suite

Outcome: TypeAlias = Literal["passed", "failed", "skipped"]
_TIMEOUT: Final = 240.0
# pytest's of a suite that has come to its end: all passed, some failed, there is none.
_EXIT_STATUSES: Final = (0, 1, 5)
# What would change what tests see, or how a runner behaves, from outside.
_NOT_INHERITED: Final = ("PYTHON", "PYTEST", "VIRTUAL_ENV")


@dataclasses.dataclass(frozen=True)
class Result:
    """How one test ended."""

    outcome: Outcome
    detail: str = ""


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
    def name(self) -> str:
        """What it is called in messages."""
        return f"{self.suite} on {self.loop}, Python {self.python}"

    def repeated(self, again: "Run") -> "Run":
        """Return this run with what a repetition says of the tests that had failed, or not run."""
        kept = {test: result for test, result in self.tests.items() if result.outcome != "failed"}
        tests = {**again.tests, **kept}
        repaired = [test for test in self.tests.keys() - kept if tests[test].outcome != "failed"]
        return dataclasses.replace(again, tests=tests, repaired=(*self.repaired, *sorted(repaired)))


def execute(
    suite: Suite,
    python: str,
    loop: str,
    interpreter: Path,
    cwd: Path,
    folder: Path,
    stop: int,
    timeout: float = _TIMEOUT,
) -> Run:
    """Run a suite.

    Nothing is raised for what goes wrong in there: that is the Run's trouble.

    Args:
        suite: The suite.
        python: The version of Python.
        loop: The name of the loop.
        interpreter: Who runs it.
        cwd: Where.
        folder: Gets the output and the records, and is emptied before.
        stop: A descriptor; the run is ended when it is readable.
        timeout: The run is ended after so many seconds.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    records, log = folder / "records.jsonl", folder / "output.txt"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
    if not suite.plugins:
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    start = time.monotonic()
    with (
        log.open("wb") as output,
        subprocess.Popen(
            suite.command(interpreter, loop, records, folder / "scratch"), cwd=cwd, env=environment,
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        ) as process,
    ):  # fmt: skip
        pidfd = os.pidfd_open(process.pid)
        try:
            ready = select.select([pidfd, stop], [], [], timeout)[0]
        finally:
            os.close(pidfd)
            # With the children in its group. It is not reaped yet: the number is still its own.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    how = f"exit status {process.returncode}" if ready else f"ended after {timeout:.0f} s"
    tests, spawned, trouble = _read(records)
    if trouble is not None or not ready or process.returncode not in _EXIT_STATUSES:
        trouble = f"{how}; {trouble or 'all tests had run'}"
    seconds = time.monotonic() - start
    return Run(suite.name, python, loop, tests, trouble, spawned=spawned, seconds=seconds, log=log)


def _read(records: Path) -> tuple[dict[str, Result], int | None, str | None]:
    """Return the results, the number of children, and why the records are not complete, if they are not."""
    tests: dict[str, Result] = {}
    under_way: str | None = None
    for line in records.read_text().splitlines() if records.exists() else []:
        try:
            event = json.loads(line)
        except ValueError:  # the last line of one that was killed
            break
        if event["event"] == "done":
            return tests, event["spawned"], None
        if event["event"] == "start":
            under_way = event["test"]
        else:
            under_way = None
            tests[event["test"]] = Result(event["outcome"], event["detail"])
    if under_way is not None:
        tests[under_way] = Result("failed", "the process ended in it")
        return tests, None, f"it ended in {under_way}"
    return tests, None, "it has not come to its end" if tests else "it has not come to its first test"
