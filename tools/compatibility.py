"""Writes the tables of the compatibility reference, from the rows that its tests check.

The rows are in tests/support/compatibility, one module for each table; tests/test_compatibility.py asks every
probe what it sees. Run as `python -m tools.compatibility`; with `--check` it changes nothing and fails if the
page is out of date.
"""

import argparse
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.support.compatibility.rows import Group, Row, groups

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


def main() -> int:
    """Bring the page up to date, or say that it is not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing")
    options = parser.parse_args()
    old = PAGE.read_text()
    new = fill_in(old, groups())
    if options.check:
        if new != old:
            print(f"{PAGE.name} is out of date: python -m tools.compatibility", file=sys.stderr)
        return int(new != old)
    PAGE.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
