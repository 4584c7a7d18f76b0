"""The verdict in Markdown: for a terminal, and for the page of the documentation."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from conformance import loops
from conformance.exemptions import Exemption
from conformance.suites import SDISTS, SUITES
from conformance.verdict import COUNTS, Row, Verdict

PAGE: Final = Path(__file__).parent.parent / "docs" / "reference" / "conformance.md"
_LAST_LINES: Final = 15


def show(verdict: Verdict, say: Callable[[str], None]) -> None:
    """Say what failed and why, the table, and the outcome."""
    for row in verdict.rows:
        for line in _failures(row):
            say(line)
    say(_results(verdict))
    for title, lines in (("worth a word", verdict.notes), ("wrong", verdict.problems)):
        for line in lines:
            say(f"{title}: {line}")
    say("conforms" if verdict.passed else "does not conform")


def _failures(row: Row) -> Iterator[str]:
    """What went wrong on a loop that is judged, and was not expected to."""
    run = row.run
    for test in row.failures:
        yield f"---- {run.name}: {test}\n{run.tests[test].detail.rstrip()}"
    if run.trouble is not None and run.loop in loops.JUDGED:
        yield f"---- {run.name}: {run.trouble}"
        if run.log is not None:
            last = run.log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
            yield "\n".join([*last, f"all of it: {run.log}"])


def _results(verdict: Verdict) -> str:
    """The counts."""
    return _table(["suite", "Python", "loop", "run", *COUNTS], 3, map(_cells, verdict.rows))


def _cells(row: Row) -> list[str]:
    suite = SUITES.get(row.run.suite)
    title = suite.title if suite else row.run.suite
    if suite and suite.sdist:
        title += f" ({SDISTS[suite.sdist]})"
    if row.run.absent is not None:
        return [title, row.run.python, row.run.absent, *[""] * (len(COUNTS) + 1)]
    counts = [str(row.counts[name] or "") for name in COUNTS]
    return [title, row.run.python, loops.TITLES[row.run.loop], str(row.total), *counts]


def filled_in(page: str, exemptions: Iterable[Exemption], verdict: Verdict | None = None) -> str:
    """Put the lists, and the table if there is a verdict, between the page's markers for them."""
    titles = {"*": "both", **loops.TITLES}
    lists = [[line.kind, line.suite, f"`{line.test}`", titles[line.loop], line.reason] for line in exemptions]
    page = _replaced(page, "lists", _table(["list", "suite", "test", "loop", "reason"], 5, lists))
    return page if verdict is None else _replaced(page, "results", _results(verdict))


def _table(head: list[str], texts: int, rows: Iterable[list[str]]) -> str:
    """A table of Markdown: so many columns of text, then numbers."""
    rule = ["---"] * texts + ["---:"] * (len(head) - texts)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def _replaced(page: str, name: str, text: str) -> str:
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    head, found, rest = page.partition(begin)
    _, ended, tail = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"the page has no place for {name}")
    return f"{head}{begin}\n\n{text}\n\n{end}{tail}"
