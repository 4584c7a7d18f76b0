"""What the runs mean: counts, what fails the whole, and what is only worth a word."""

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Final, TypeAlias

from conformance import loops
from conformance.exemptions import Exemption, Kind
from conformance.runs import Outcome, Result, Run

Count: TypeAlias = Outcome | Kind
#: The columns of the table, after the number of tests.
COUNTS: Final[tuple[Count, ...]] = ("passed", "failed", "skipped", "waived", "pending", "refused")
_REFERENCE: Final = "asyncio"


@dataclasses.dataclass(frozen=True)
class Row:
    """The counts of one run; each test is in one of them."""

    run: Run
    counts: dict[Count, int]
    failures: tuple[str, ...] = ()  # on a judged loop, the tests that failed and must not

    @property
    def total(self) -> int:
        """The number of tests."""
        return sum(self.counts.values())


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The outcome of all runs."""

    rows: list[Row]
    problems: list[str]  # any of them fails the whole
    notes: list[str]

    @property
    def passed(self) -> bool:
        """Whether all is as it must be."""
        return not self.problems


def judge(runs: Sequence[Run], exemptions: Sequence[Exemption], complete: Collection[str]) -> Verdict:
    """Judge runs.

    Args:
        runs: What has run.
        exemptions: The tests that need not pass.
        complete: The suites that have run on every interpreter that has them. Only there can a line be
            told to name no test.
    """
    verdict = Verdict([], [], [])
    reference = {(run.suite, run.python): run.tests for run in runs if run.loop == _REFERENCE}
    for run in runs:
        if run.loop in loops.JUDGED:
            row = _judge_run(run, exemptions, reference.get((run.suite, run.python), {}), verdict)
        else:
            row = _row(run, Counter[Count](result.outcome for result in run.tests.values()))
        verdict.rows.append(row)
        if run.absent is None:
            _judge_completeness(run, verdict)
    _judge_lists(runs, exemptions, complete, verdict)
    return verdict


def _judge_run(
    run: Run, exemptions: Sequence[Exemption], reference: dict[str, Result], verdict: Verdict
) -> Row:
    counts = Counter[Count]()
    failures = []
    for test, result in run.tests.items():
        exemption = next((line for line in exemptions if line.covers(run.suite, test, run.loop)), None)
        if result.outcome == "failed" and exemption is not None:
            counts[exemption.kind] += 1
            continue
        counts[result.outcome] += 1
        if result.outcome == "failed":
            failures.append(test)
            verdict.problems.append(f"{run.name}: failed: {test}")
        elif exemption is None:
            if result.outcome == "skipped" and reference.get(test, result).outcome != "skipped":
                verdict.problems.append(f"{run.name}: skipped, though {_REFERENCE} runs it: {test}")
        elif result.outcome == "passed" and exemption.kind == "waived":
            verdict.notes.append(f"{run.name}: waived, but passes: {test}")
        elif result.outcome == "passed":
            verdict.problems.append(f"{run.name}: {exemption.kind}, but passes; take it off the list: {test}")
    return _row(run, counts, failures)


def _row(run: Run, counts: Counter[Count], failures: Iterable[str] = ()) -> Row:
    return Row(run, {name: counts[name] for name in COUNTS}, tuple(failures))


def _judge_completeness(run: Run, verdict: Verdict) -> None:
    """No suite stays silent, or runs elsewhere; of silence on loops for reference is only a note taken."""
    verdict.notes.extend(f"{run.name}: passed only when repeated: {test}" for test in run.repaired)
    found = verdict.problems if run.loop in loops.JUDGED else verdict.notes
    if run.trouble is not None:
        found.append(f"{run.name}: {run.trouble}")
    elif all(result.outcome == "skipped" for result in run.tests.values()):
        found.append(f"{run.name}: no test has run")
    elif run.spawned is not None and (run.spawned > 0) != (run.loop in loops.JUDGED):
        verdict.problems.append(f"{run.name}: not on that loop: aiovfork has started {run.spawned} children")


def _judge_lists(
    runs: Iterable[Run], exemptions: Iterable[Exemption], complete: Collection[str], verdict: Verdict
) -> None:
    names: dict[str, set[str]] = {suite: set() for suite in complete}
    for run in runs:
        names.setdefault(run.suite, set()).update(run.tests)
    for line in exemptions:
        if line.loop not in ("*", *loops.JUDGED):
            verdict.problems.append(f"{line.kind}.txt: no judged loop: {line}")
        elif line.suite in complete and names[line.suite] and line.test not in names[line.suite]:
            verdict.problems.append(f"{line.kind}.txt: names no test: {line}")
