"""From what was asked for to the runs: which there are, what they need, and two at a time."""

import concurrent.futures
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from conformance import environments
from conformance.environments import PreparationError, Store
from conformance.exemptions import Exemption
from conformance.runs import Run, execute
from conformance.suites import PYTHONS, Suite
from conformance.verdict import COUNTS, judge

#: What execute() is called with, but for the last.
Job: TypeAlias = tuple[Suite, str, str, Path, Path, Path]
_AT_ONCE: Final = 2


def run(
    suites: Sequence[Suite],
    chosen_loops: Sequence[str],
    versions: Sequence[str] | None,
    store: Store,
    exemptions: Sequence[Exemption],
    say: Callable[[str], None],
    *,
    retries: int = 0,
    wheel: Path | None = None,
) -> tuple[list[Run], set[str]]:
    """Make what is missing, then run everything.

    Returns:
        The runs, and the suites that have run on every interpreter that is meant to run them.

    Raises:
        PreparationError: An interpreter that was asked for is not there, none is there at all, or this tree
            cannot be built.
    """
    found = {version: environments.find(version) for version in versions or PYTHONS}
    pythons = {version: python for version, python in found.items() if python is not None}
    if missing := [version for version in found if version not in pythons]:
        if versions or not pythons:
            raise PreparationError(f"no CPython {', '.join(missing)} with venv was found")
        say(f"not installed here: CPython {', '.join(missing)}")
    wheel = wheel or store.wheel(list(pythons.values())[-1])
    plan = list(_plan(suites, chosen_loops, pythons, store, wheel, everywhere=bool(versions)))
    runs = _execute(plan, exemptions, say, retries)
    partly = {run.suite for run in runs if run.absent is not None}
    if missing:
        partly |= {suite.name for suite in suites if suite.sdist is None}
    return runs, set() if versions else {suite.name for suite in suites} - partly


def _plan(
    suites: Sequence[Suite],
    chosen_loops: Sequence[str],
    pythons: dict[str, str],
    store: Store,
    wheel: Path,
    *,
    everywhere: bool,
) -> Iterator[Job | Run]:
    """Yield runs in the order of the table; those that need not be made are made already."""
    for suite in suites:
        for version in pythons if everywhere or suite.sdist is None else list(pythons)[:1]:
            if suite.sdist is None and not environments.has_tests(pythons[version]):
                yield Run(suite.name, version, "", absent="no test package")
                continue
            try:
                interpreter = store.environment(version, pythons[version], suite, wheel)
                cwd = store.sdist(suite.sdist) if suite.sdist else store.folder
            except PreparationError as problem:
                for loop in chosen_loops:
                    yield Run(suite.name, version, loop, trouble=str(problem))
            else:
                for loop in chosen_loops:
                    folder = store.folder / "runs" / f"{suite.name}-{version}-{loop}"
                    yield suite, version, loop, interpreter, cwd, folder


def _execute(
    plan: Sequence[Job | Run], exemptions: Sequence[Exemption], say: Callable[[str], None], retries: int
) -> list[Run]:
    stop = os.eventfd(0)

    def make(entry: Job | Run) -> Run:
        if isinstance(entry, Run):
            return entry
        run = execute(*entry, stop)
        for _ in range(retries):
            if not judge([run], exemptions, ()).problems:
                break
            run = run.repeated(execute(*entry, stop))
        counts = judge([run], exemptions, ()).rows[0].counts
        said = ", ".join(f"{counts[name]} {name}" for name in COUNTS if counts[name])
        say(f"{run.seconds:6.1f} s  {run.name}: {run.trouble or said or 'no test'}")
        return run

    try:
        with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
            try:
                return list(pool.map(make, plan))
            except BaseException:
                os.eventfd_write(stop, 1)
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        os.close(stop)
