"""From what was asked for to the runs: which there are, what they need, and two at a time."""

import concurrent.futures
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from conformance import pythons
from conformance.environments import PreparationError, Store
from conformance.exemptions import Exemption
from conformance.pins import PYTHONS
from conformance.pythons import Python
from conformance.runs import Run, Runner
from conformance.suites import Suite
from conformance.verdict import COUNTS, judge

# Begun first, so that none of them is left alone at the end.
_SLOW: Final = ("mcp",)


@dataclasses.dataclass(frozen=True)
class Choice:
    """What was asked for."""

    suites: Sequence[Suite]
    loops: Sequence[str]
    versions: Sequence[str] | None = None  # None: all
    all_pythons: bool = False
    jobs: int = 2
    retries: int = 0
    wheel: Path | None = None


@dataclasses.dataclass(frozen=True)
class Job:
    """A run to come."""

    suite: Suite
    python: str
    loop: str
    interpreter: Path
    cwd: Path


class Session:
    """Makes the runs of a choice."""

    def __init__(
        self, choice: Choice, store: Store, exemptions: Sequence[Exemption], say: Callable[[str], None]
    ) -> None:
        self._choice = choice
        self._store = store
        self._exemptions = exemptions
        self._say = say
        newer = [version for version in choice.versions or () if version not in PYTHONS]
        self._installed = {version: pythons.find(version) for version in (*newer, *PYTHONS)}

    def complete(self) -> set[str]:
        """Return the suites that run on every interpreter that is meant to run them."""
        if self._choice.versions is not None:
            return set()
        everywhere = all(python is not None and python.has_tests for python in self._installed.values())
        return {suite.name for suite in self._choice.suites if everywhere or not suite.is_cpythons}

    def run(self) -> list[Run]:
        """Make what is missing, then run everything.

        Raises:
            PreparationError: An interpreter that was asked for is not there, none is there at all, or this
                tree cannot be built.
        """
        wanted = []
        for version in self._choice.versions or PYTHONS:
            python = self._installed[version]
            if python is not None:
                wanted.append(python)
            elif self._choice.versions is not None:
                raise PreparationError(f"no CPython {version} with venv was found")
            else:
                self._say(f"CPython {version} is not installed here")
        if not wanted:
            raise PreparationError("there is no interpreter to run on")
        with self._store.held():
            oldest = [python for python in self._installed.values() if python is not None][-1]
            wheel = self._choice.wheel or self._store.wheel(oldest)
            return self._execute(list(self._plan(wanted, wheel)))

    def _plan(self, wanted: Sequence[Python], wheel: Path) -> Iterator[Job | Run]:
        """Yield runs in the order of the table; those that need not be made are made already."""
        for suite in self._choice.suites:
            everywhere = suite.is_cpythons or self._choice.all_pythons
            for python in wanted if everywhere else wanted[:1]:
                if suite.is_cpythons and not python.has_tests:
                    yield Run(suite.name, python.version, "", absent="no test package")
                    continue
                try:
                    interpreter = self._store.environment(python, suite.requirements, wheel)
                    cwd = self._store.sdist(suite.sdist) if suite.sdist else self._store.folder
                except PreparationError as problem:
                    for loop in self._choice.loops:
                        yield Run(suite.name, python.version, loop, trouble=str(problem))
                else:
                    for loop in self._choice.loops:
                        yield Job(suite, python.version, loop, interpreter, cwd)

    def _execute(self, plan: Sequence[Job | Run]) -> list[Run]:
        runner = Runner()
        jobs = [entry for entry in plan if isinstance(entry, Job)]
        jobs.sort(key=lambda job: job.suite.name not in _SLOW)
        with concurrent.futures.ThreadPoolExecutor(self._choice.jobs) as pool:
            try:
                futures = {job: pool.submit(self._run, runner, job) for job in jobs}
                for future in concurrent.futures.as_completed(futures.values()):
                    self._say(self._line(future.result()))
            except BaseException:
                runner.stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [futures[entry].result() if isinstance(entry, Job) else entry for entry in plan]

    def _run(self, runner: Runner, job: Job) -> Run:
        folder = self._store.folder / "runs" / f"{job.suite.name}-{job.python}-{job.loop}"
        where = (job.suite, job.python, job.loop, job.interpreter, job.cwd, folder)
        run = runner.execute(*where)
        for _ in range(self._choice.retries):
            if not judge([run], self._exemptions, ()).problems:
                break
            run = _repaired(run, runner.execute(*where))
        return run

    def _line(self, run: Run) -> str:
        counts = judge([run], self._exemptions, ()).rows[0].counts
        said = ", ".join(f"{counts[name]} {name}" for name in COUNTS if counts[name])
        return f"{run.seconds:6.1f} s  {run.name}: {run.trouble or said or 'no test'}"


def _repaired(run: Run, again: Run) -> Run:
    """Put what a repetition says of the tests that had failed, or not run, into a run."""
    kept = {test: result for test, result in run.tests.items() if result.outcome != "failed"}
    tests = {**again.tests, **kept}
    failed = {test for test, result in tests.items() if result.outcome == "failed"}
    return dataclasses.replace(again, tests=tests, repaired=(*run.repaired, *sorted(run.failed - failed)))
