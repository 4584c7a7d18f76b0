"""One row of docs/reference/compatibility.md: what is asked, who asks it, and what each column answers.

A probe is a function whose docstring is the question. It really does the thing on a backend and returns what it
has seen in the words of the page; an exception that it lets through is the name of its class. The page is
written from the rows, and tests/project/test_compatibility.py holds each probe's answer against its row, so that a cell
that is wrong, of whomever, fails a test.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from tests.support.backends import PLAIN, PLUGGED, Backend, LoopFactory
from tests.support.errors import stdlib_type

#: A coroutine function that takes a Spawner, or a function that takes a Backend and runs loops by itself.
Probe: TypeAlias = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Since:
    """An answer that depends on the version of Python, by the first one that gives it."""

    answers: Mapping[str, str]

    def here(self) -> str:
        """Return the answer of this Python."""
        known = [(tuple(map(int, version.split("."))), answer) for version, answer in self.answers.items()]
        return [answer for version, answer in known if version <= sys.version_info][-1]

    def __str__(self) -> str:
        (_, first), *later = self.answers.items()
        return f"{first} ({', '.join(f'since {version}: {answer}' for version, answer in later)})"


@dataclasses.dataclass(frozen=True)
class Unless:
    """An answer that depends on the kernel or the libc."""

    answer: str
    otherwise: str
    when: str
    is_so: Callable[[], bool]

    def here(self) -> str:
        """Return the answer of this machine."""
        return self.otherwise if self.is_so() else self.answer

    def __str__(self) -> str:
        return f"{self.answer} ({self.when}: {self.otherwise})"


Cell: TypeAlias = str | Since | Unless
#: Why aiovfork answers other than asyncio: it is better on purpose, or it does not have that, or pays for it.
Difference: TypeAlias = Literal["better", "worse"]


@dataclasses.dataclass(frozen=True)
class Column:
    """A backend, and the cell of a row that is about it."""

    backend: Backend
    cell: Literal["aiovfork", "plugged", "asyncio", "uvloop"]


def _backend(name: str, new_loop: LoopFactory, *, calls_asyncio: bool) -> Backend:
    # What is left when a probe is over is not looked at, as that of the other tests' reference is not.
    return Backend(name, new_loop, is_reference=True, calls_asyncio=calls_asyncio)


#: What only calls a loop's methods runs on these: loops of aiovfork's, and plain ones.
LOOPS: Final = (
    *(
        Column(_backend(f"plugged into {name}", new_loop, calls_asyncio=True), "plugged")
        for name, new_loop in PLUGGED["loop"].items()
    ),
    Column(_backend("asyncio", PLAIN["asyncio"], calls_asyncio=True), "asyncio"),
    Column(_backend("uvloop", PLAIN["uvloop"], calls_asyncio=True), "uvloop"),
)
#: aiovfork's functions on plain loops, and asyncio's on LOOPS.
EVERYTHING: Final = (
    *(
        Column(_backend(f"aiovfork on {name}", new_loop, calls_asyncio=False), "aiovfork")
        for name, new_loop in PLAIN.items()
    ),
    *LOOPS,
)


@dataclasses.dataclass(frozen=True)
class Row:
    """What is asked, and the answers.

    Attributes:
        probe: Who asks.
        columns: Whom.
        differs: Why an answer of aiovfork's is not asyncio's, where it is not.
        aiovfork: The answer of aiovfork's functions, on either loop.
        plugged: That of asyncio's functions on loops of aiovfork's.
        asyncio: That of asyncio.
        uvloop: That of uvloop.
    """

    probe: Probe
    columns: Sequence[Column]
    differs: Difference | None
    aiovfork: Cell
    plugged: Cell
    asyncio: Cell
    uvloop: Cell

    @property
    def name(self) -> str:
        """The name of the probe."""
        return self.probe.__name__

    @property
    def question(self) -> str:
        """What is asked, in Markdown."""
        return " ".join((inspect.getdoc(self.probe) or "").split()).removesuffix(".")

    def expected(self, column: Column) -> str:
        """Return the answer that the page gives for a column, with this Python on this kernel."""
        cell: Cell = getattr(self, column.cell)
        return cell if isinstance(cell, str) else cell.here()


class Group:
    """The rows of one table: those of one module."""

    def __init__(self, module: str, columns: Sequence[Column] = EVERYTHING) -> None:
        self.name = module.rpartition(".")[2]
        self.rows: list[Row] = []
        self._columns = columns

    def row(
        self,
        aiovfork: Cell,
        asyncio: Cell | None = None,
        uvloop: Cell | None = None,
        *,
        plugged: Cell | None = None,
        differs: Difference | None = None,
    ) -> Callable[[Probe], Probe]:
        """Make a row of a probe: the answers, those of others where they are not aiovfork's.

        Raises:
            ValueError: aiovfork differs from asyncio and nobody says why, or the other way round.
        """

        def add(probe: Probe) -> Probe:
            others = [aiovfork if cell is None else cell for cell in (plugged, asyncio, uvloop)]
            row = Row(probe, self._columns, differs, aiovfork, *others)
            if (row.aiovfork == row.plugged == row.asyncio) is (differs is not None):
                raise ValueError(f"{row.name}: differs={differs!r} is not what the answers say")
            self.rows.append(row)
            return probe

        return add


#: The modules with rows, in the order of the page.
MODULES: Final = (
    "arguments",
    "streams",
    "errors",
    "signals_and_exit",
    "life_cycle",
    "loops_and_threads",
    "cost",
    "with_anyio",
)


def groups() -> list[Group]:
    """Return every group, in the order of the page."""
    return [importlib.import_module(f"tests.support.compatibility.{name}").group for name in MODULES]


def rows() -> Iterator[Row]:
    """Return every row, in the order of the page."""
    for group in groups():
        yield from group.rows


def yes(condition: object, otherwise: str = "no") -> str:
    """Say yes, or what is the case otherwise."""
    return "yes" if condition else otherwise


def name_of(exc: BaseException) -> str:
    """Return the page's words for an exception."""
    return f"`{stdlib_type(exc).__name__}`"


def each_once(answers: Sequence[str]) -> str:
    """Return several answers as one, each only once."""
    return ", ".join(dict.fromkeys(answers))
