"""Placing descriptors: every permutation and collision, with the standard ones open or closed.

The spawns happen in servers of their own (tests.support.fd_tables), whose tables may be wrecked.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.backends import BACKENDS, OURS
from tests.support.fd_tables import FdTables

PIPE, STDOUT, DEVNULL = subprocess.PIPE, subprocess.STDOUT, subprocess.DEVNULL
STANDARD = ("stdin", "stdout", "stderr")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, FdTables]]:
    """Have a server of each backend, all on the same files."""
    directory = tmp_path_factory.mktemp("files")
    with contextlib.ExitStack() as stack:
        yield {backend.name: stack.enter_context(FdTables(backend.name, directory)) for backend in BACKENDS}


def _permutations() -> list[dict[str, Any]]:
    """Return each choice of three sources out of descriptors 0 to 5, with each subset of 0, 1, 2 closed."""
    cases = []
    for count in range(4):
        for closed in itertools.combinations(range(3), count):
            sources = [fd for fd in range(6) if fd not in closed]
            cases += [
                {"closed": list(closed), **dict(zip(STANDARD, chosen, strict=True))}
                for chosen in itertools.product(sources, repeat=3)
            ]
    return cases


@pytest.mark.parametrize("backend", [backend.name for backend in OURS])
def test_every_permutation_of_sources(tables: dict[str, FdTables], backend: str) -> None:
    """Each standard descriptor of the child leads where its source did, whatever the others overwrite."""
    cases = _permutations()
    assert len(cases) == 6**3 + 3 * 5**3 + 3 * 4**3 + 3**3
    for case, answer in zip(cases, tables[backend].ask(cases), strict=True):
        expected = {number: f"file-{case[name]}" for number, name in enumerate(STANDARD)}
        assert answer == {"fds": expected, "untouched": True}, case


SOURCES = [None, PIPE, DEVNULL, *range(6)]
NUMBERS = st.lists(st.integers(0, 5), unique=True).map(sorted)


@st.composite
def _cases(
    draw: st.DrawFn, *, all_standard_inheritable: bool = True, close_fds: bool = True
) -> dict[str, Any]:
    """Draw a table, and a spawn whose sources are open: for a closed one asyncio takes its own pipes."""
    closed = draw(NUMBERS)
    sources = [source for source in SOURCES if source not in closed]
    case = {"closed": closed, **{name: draw(st.sampled_from(sources)) for name in STANDARD}}
    if not (case["stdout"] is None and 1 in closed) and draw(st.booleans()):
        case["stderr"] = STDOUT
    case["inheritable"] = sorted({*draw(NUMBERS), *(range(3) if all_standard_inheritable else [])})
    case["close_fds"] = close_fds
    case["pass_fds"] = [fd for fd in draw(NUMBERS) if fd not in closed] if close_fds else []
    return case


def _check(tables: dict[str, FdTables], case: dict[str, Any]) -> None:
    """Compare the child's whole table, or the exception, with the stdlib's."""
    (expected, *answers) = (server.ask([case])[0] for server in tables.values())
    for answer, backend in zip(answers, OURS, strict=True):
        assert answer == {**expected, "untouched": True}, backend.name


def _case(**options: Any) -> Callable[..., Any]:
    return example(case={"stdin": None, "stdout": None, "stderr": None, "inheritable": [0, 1, 2], **options})


_SETTINGS = settings(max_examples=150, deadline=None)


@_SETTINGS
@given(case=_cases())
@_case()
@_case(closed=[0, 1, 2])
@_case(closed=[0, 1, 2], stdin=PIPE, stdout=PIPE, stderr=PIPE)
@_case(closed=[0, 1, 2], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
@_case(closed=[0, 1, 2], stdout=PIPE, stderr=STDOUT)
@_case(stdout=2, stderr=1)
@_case(stdin=2, stdout=0, stderr=1)
@_case(stdin=0, stdout=1, stderr=2)
@_case(stdin=3, stdout=4, stderr=5, pass_fds=[3, 4, 5])
@_case(pass_fds=[0, 1, 2])
@_case(closed=[0], stdin=PIPE, pass_fds=[3, 4, 5])
def test_any_placement_is_the_stdlibs(tables: dict[str, FdTables], case: dict[str, Any]) -> None:
    """The child's whole table is the one that subprocess makes, and the caller's own is left as it was."""
    _check(tables, case)


@_SETTINGS
@given(case=_cases(close_fds=False))
@_case(close_fds=False)
@_case(close_fds=False, inheritable=list(range(6)))
def test_without_close_fds_the_child_has_what_is_inheritable(
    tables: dict[str, FdTables], case: dict[str, Any]
) -> None:
    """close_fds=False leaves the child exactly the inheritable descriptors, beside its standard ones."""
    _check(tables, case)


@_SETTINGS
@given(case=_cases(all_standard_inheritable=False))
@_case(inheritable=[])
@_case(inheritable=[], pass_fds=[0, 1, 2])
@_case(inheritable=[], stdin=0, stdout=1, stderr=2)
@_case(inheritable=[], stdout=2, stderr=1)
@_case(inheritable=[], stdin=PIPE)
def test_a_standard_number_is_not_inheritable_by_itself(
    tables: dict[str, FdTables], case: dict[str, Any]
) -> None:
    """A file that got number 0, 1 or 2 because it was free, and is not inheritable, stays out."""
    _check(tables, case)


@pytest.mark.parametrize(
    # In pass_fds 0, 1 and 2 add nothing to what stdin, stdout and stderr say.
    ("name", "fd"),
    [*itertools.product(STANDARD, range(6)), ("pass_fds", 3), ("pass_fds", 4), ("pass_fds", 5)],
)
def test_a_closed_source(tables: dict[str, FdTables], name: str, fd: int) -> None:
    """A descriptor that is not open is EBADF, without a filename; none of our own takes its place."""
    case = {"closed": [fd], name: [fd] if name == "pass_fds" else fd}
    for backend in OURS:
        (answer,) = tables[backend.name].ask([case])
        assert answer["untouched"]
        assert (answer["error"]["errno"], answer["error"]["filename"]) == (errno.EBADF, None)
