"""The documentation tells the truth: its examples run, its links lead somewhere, its tables are complete."""

import ast
import asyncio
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints

import pytest

import aiovfork
from aiovfork._binding import lib, step_name
from tests.support.pages import MARKDOWN, PAGES, ROOT, tokens
from tools import contract


def programs() -> Iterator[pytest.ParameterSet]:
    """Every ```python block: a program by itself."""
    for page in PAGES:
        for token in tokens(page):
            if token.type == "fence" and token.info == "python" and token.map:
                name = f"{page.relative_to(ROOT)}:{token.map[0] + 1}"
                yield pytest.param(page, token.map[0] + 1, token.content, id=name)


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and MyST make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    """The anchors that a page offers."""
    found = list(MARKDOWN.parse(page.read_text()))
    return {slug(found[i + 1].content) for i, token in enumerate(found) if token.type == "heading_open"}


@pytest.mark.parametrize(("page", "line", "source"), list(programs()))
def test_example_runs(page: Path, line: int, source: str) -> None:
    """A ```python block in the documentation is a program that runs as it stands."""
    tree = ast.increment_lineno(ast.parse(source), line)
    code = compile(tree, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    pending = eval(code, {"__name__": "__main__"})  # noqa: S307  # our own documentation
    if inspect.iscoroutine(pending):
        asyncio.run(pending)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    """A relative link leads to a file, and to a heading of it where it names one."""
    broken = []
    for token in tokens(page):
        target = token.attrGet("href" if token.type == "link_open" else "src")
        if not isinstance(target, str) or re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


def test_there_are_examples_to_run() -> None:
    """The check above has something to check."""
    assert len(list(programs())) >= 5
    assert ROOT / "README.md" in PAGES


def test_every_step_is_documented() -> None:
    """The reference's tables of steps hold every step that an error can name, in the order of events."""
    text = (ROOT / "docs" / "reference" / "errors.md").read_text()
    documented = [name for name in re.findall(r"^\| `([a-z_ ]+)` \|", text, re.MULTILINE) if name != "step"]
    names = [step_name(step).removesuffix(" RLIMIT_CPU") for step in range(1, lib.AVF_STEP_COUNT)]
    assert documented == names
    assert "`step` is `port`" in text  # of Python's own: no step of a request
    assert "`step` is `pty`" in text


def test_every_option_is_documented() -> None:
    """The reference's table of options holds every keyword."""
    text = (ROOT / "docs" / "reference" / "options.md").read_text()
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    options = get_type_hints(aiovfork.SpawnOptions)
    more = {"stdin", "stdout", "stderr", "limit", "teardown", "on_cancel", "own_cgroup", "pty"}
    assert documented == {*options, *more}


def test_every_promise_names_its_tests() -> None:
    """The safety contract lists, for each promise, the tests whose docstring claims it; none is without."""
    page = contract.PAGE.read_text()
    promises = re.findall(r"^\*\*(P\d+)\. ", page, re.MULTILINE)
    assert promises == [f"P{number}" for number in range(1, 13)]
    proofs = contract.find_proofs(ROOT / "tests")
    assert set(proofs) == set(promises)
    assert contract.fill_in(page, proofs) == page, "run: python -m tools.contract"
