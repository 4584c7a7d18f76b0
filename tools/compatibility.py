"""Writes the tables of the compatibility reference, from the rows that its tests check.

The rows are in tests/support/compatibility, one module for each table; tests/project/test_compatibility.py
asks every probe what it sees. Run as `python -m tools.compatibility`; with `--check` it changes nothing and
fails if the page is out of date.
"""

import re
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from tests.support.compatibility.rows import Group, Row, groups
from tools import pages

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "compatibility.md"

_TABLE = re.compile(r"(<!-- rows of (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_HEAD = "| | aiovfork | asyncio | uvloop | probe |\n| --- | --- | --- | --- | --- |\n"
_MARKS = {None: "", "better": " ◆", "worse": " ◇"}


def line_of(row: Row) -> str:
    """A row as a line of Markdown."""
    mark = _MARKS[row.differs]
    ours = f"{row.aiovfork}{mark if row.aiovfork != row.asyncio else ''}"
    if row.plugged != row.aiovfork:
        ours += f"; plugged: {row.plugged}{mark if row.plugged != row.asyncio else ''}"
    return f"| {row.question} | {ours} | {row.asyncio} | {row.uvloop} | `{row.name}` |\n"


def fill_in(page: str, tables: Iterable[Group]) -> str:
    """The page with its tables replaced.

    Raises:
        ValueError: A module of rows without a table, or a table without a module.
    """
    lines = {group.name: "".join(map(line_of, group.rows)) for group in tables}
    if unlike := {name for _, name, _ in _TABLE.findall(page)} ^ set(lines):
        raise ValueError(f"not both on the page and a module of rows: {', '.join(sorted(unlike))}")
    return _TABLE.sub(lambda found: found[1] + "\n" + _HEAD + lines[found[2]] + "\n" + found[3], page)


if __name__ == "__main__":
    sys.exit(pages.main(PAGE, partial(fill_in, tables=groups()), "tools.compatibility", __doc__))
