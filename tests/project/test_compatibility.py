"""The compatibility reference tells the truth: of aiovfork, of asyncio and of uvloop."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator
from typing import get_type_hints

import pytest

import aiovfork
from tests.support import libc_signals
from tests.support.compatibility.measure import Measurer
from tests.support.compatibility.rows import Group, Row, groups, rows
from tools import compatibility

ROWS = list(rows())
SEMANTICS = pathlib.Path(__file__).parents[1] / "semantics"


@pytest.fixture(scope="module")
def measurer() -> Iterator[Measurer]:
    """Have probes asked, each in a process of its own."""
    libc_signals.reset()  # what a row expects asks libc, and begins with that
    with Measurer() as measurer:
        yield measurer


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_is_what_its_probe_sees(row: Row, measurer: Measurer) -> None:
    """What the page says of a backend is what the probe of that line sees when it does it there."""
    page = {column.backend.name: row.expected(column) for column in row.columns}
    assert measurer.answers(row.name) == page, f"docs/reference/compatibility.md on {row.question!r}"


def test_the_page_is_up_to_date() -> None:
    """The tables of the page are those of the rows."""
    page = compatibility.PAGE.read_text()
    assert compatibility.fill_in(page, groups()) == page, "run: python -m tools.compatibility"


def test_every_option_is_on_the_page() -> None:
    """Each keyword stands on the page."""
    options = get_type_hints(aiovfork.SpawnOptions)
    named = set(re.findall(r"`(\w+)(?:=\w+)?`", compatibility.PAGE.read_text()))
    assert {*options, "stdin", "stdout", "stderr", "limit"} - named == set()


def test_what_has_no_probe_has_a_test() -> None:
    """What is the same on all three is held against asyncio by the tests that the page names."""
    sources = "".join(path.read_text() for path in SEMANTICS.glob("test_*.py"))
    comparing = {
        name
        for name, body in re.findall(r"^def (\w+)(.*?)(?=^\S|\Z)", sources, re.MULTILINE | re.DOTALL)
        if "compare" in body
    }
    said = re.findall(r"^- .* \((`test_.*)\)$", compatibility.PAGE.read_text(), re.MULTILINE)
    named = {name for names in said for name in re.findall(r"\w+", names)}
    assert len(named) > 20
    assert named - comparing == set()


def test_each_name_is_that_of_one_probe() -> None:
    """The name of a line leads to one probe, which asks something."""
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names) > 70
    assert all(row.question for row in ROWS)


def test_a_difference_is_explained() -> None:
    """Where aiovfork differs from asyncio its row says why, and only there."""
    group = Group("sample")
    for cells, differs in ((("yes", "no"), None), (("yes", "yes"), "better")):
        with pytest.raises(ValueError, match="differs"):
            group.row(*cells, differs=differs)(print)  # type: ignore[arg-type]
    assert not group.rows


def test_a_table_needs_its_rows() -> None:
    """A table without a module of rows, and a module without a table, are errors: nothing is lost in silence."""
    page = compatibility.PAGE.read_text()
    for tables in (groups()[:-1], [*groups(), Group("sample")]):
        with pytest.raises(ValueError, match="not both"):
            compatibility.fill_in(page, tables)
