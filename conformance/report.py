"""The verdict as a table for a terminal, as Markdown for the documentation, and as JSON."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from conformance import loops
from conformance.exemptions import KINDS, Exemption
from conformance.pins import SDISTS
from conformance.suites import BY_NAME
from conformance.verdict import COUNTS, Row, Verdict

PAGE: Final = Path(__file__).parent.parent / "docs" / "reference" / "conformance.md"
_LAST_LINES: Final = 15


def show(verdict: Verdict, console: Console) -> None:
    """Print the table, what failed and why, and the outcome."""
    console.print(_table(verdict))
    for row in verdict.rows:
        _show_failures(row, console)
    for title, lines in (("Worth a word", verdict.notes), ("Wrong", verdict.problems)):
        if lines:
            console.print(f"[bold]{title}[/]")
            for line in lines:
                console.print(f"  {escape(line)}")
    console.print("[green]conforms[/]" if verdict.passed else "[red]does not conform[/]")


def _table(verdict: Verdict) -> Table:
    table = Table("suite", "Python", "loop", "run", *COUNTS, "s", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for column in table.columns[3:]:
        column.justify = "right"
    before: tuple[str, str] | None = None
    for row in verdict.rows:
        run, group = row.run, (row.run.suite, row.run.python)
        if before is not None and group != before:
            table.add_section()
        first = ("", "") if group == before else (_title(run.suite, with_release=False), run.python)
        if run.absent is not None:
            table.add_row(*first, escape(run.absent))
        else:
            counts = [_cell(name, row) for name in COUNTS]
            style = None if run.loop in loops.JUDGED else "dim"
            table.add_row(
                *first, loops.TITLES[run.loop], str(row.total), *counts, f"{run.seconds:.1f}", style=style
            )
        before = group
    return table


def _cell(name: Any, row: Row) -> str:
    count = row.counts[name]
    if not count:
        return ""
    return f"[red]{count}[/]" if name == "failed" and row.run.loop in loops.JUDGED else str(count)


def _show_failures(row: Row, console: Console) -> None:
    """Show what went wrong on a loop that is judged, and was not expected to."""
    run = row.run
    for test in row.failures:
        console.rule(escape(f"{run.name}: {test}"), align="left")
        console.print(run.tests[test].detail.rstrip(), markup=False, highlight=False)
    if run.trouble is not None and run.loop in loops.JUDGED:
        console.rule(escape(run.name), align="left")
        console.print(run.trouble, markup=False, highlight=False)
        if run.log is not None:
            last = run.log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
            console.print("\n".join([*last, f"all of it: {run.log}"]), markup=False, highlight=False)


def as_json(verdict: Verdict) -> str:
    """Everything, with each test."""
    data = {
        "passed": verdict.passed,
        "problems": verdict.problems,
        "notes": verdict.notes,
        "runs": [
            {
                "suite": row.run.suite,
                "python": row.run.python,
                "loop": row.run.loop,
                "seconds": round(row.run.seconds, 1),
                "trouble": row.run.trouble,
                "absent": row.run.absent,
                "run": row.total,
                "counts": row.counts,
                "tests": {test: dataclasses.asdict(result) for test, result in row.run.tests.items()},
            }
            for row in verdict.rows
        ],
    }
    return json.dumps(data, indent=1) + "\n"


def as_markdown(verdict: Verdict) -> str:
    """The table."""
    lines = [
        f"| suite | Python | loop | run | {' | '.join(COUNTS)} |",
        f"| --- | --- | --- | ---: |{' ---: |' * len(COUNTS)}",
    ]
    for row in verdict.rows:
        run = row.run
        cells = [_title(run.suite, with_release=True), run.python]
        if run.absent is not None:
            cells += [run.absent, *[""] * (len(COUNTS) + 1)]
        else:
            cells += [
                loops.TITLES[run.loop],
                str(row.total),
                *(str(row.counts[name] or "") for name in COUNTS),
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def exemptions_as_markdown(exemptions: Iterable[Exemption]) -> str:
    """The lists."""
    lines = ["| | suite | test | loop | reason |", "| --- | --- | --- | --- | --- |"]
    order = sorted(exemptions, key=lambda line: KINDS.index(line.kind))
    for line in order:
        loop = "both" if line.loop == "*" else loops.TITLES[line.loop]
        lines.append(f"| {line.kind} | {line.suite} | `{line.test}` | {loop} | {line.reason} |")
    return "\n".join(lines)


def filled_in(page: str, exemptions: Iterable[Exemption], verdict: Verdict | None = None) -> str:
    """Put the lists, and the table if there is a verdict, between the page's markers for them."""
    page = _replaced(page, "lists", exemptions_as_markdown(exemptions))
    return page if verdict is None else _replaced(page, "results", as_markdown(verdict))


def _replaced(page: str, name: str, text: str) -> str:
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    head, found, rest = page.partition(begin)
    _, ended, tail = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"the page has no place for {name}")
    return f"{head}{begin}\n\n{text}\n\n{end}{tail}"


def _title(suite: str, *, with_release: bool) -> str:
    known = BY_NAME.get(suite)
    if known is None:
        return suite
    return f"{known.title} ({SDISTS[known.sdist]})" if known.sdist and with_release else known.title
