"""The hosts that run in a program of yours or run your tests: their examples, started as their pages say."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
from typing import Final

import pytest

from tests.support import servers

LONGEST: Final = 64  # lines


def run_page(page: str, *options: str) -> str:
    """Run the command of a page with warnings as errors, and return what it says if it ends well."""
    python, *arguments = servers.commands_of(page)[0]
    ended = subprocess.run(
        [python, "-W", "error", *arguments, *options],
        cwd=servers.EXAMPLES,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def run_pytest(page: str, directory: pathlib.Path) -> str:
    """Run the page's command with nobody's configuration but the hosts' defaults."""
    configuration = directory / "pytest.ini"
    configuration.write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    return run_page(
        page, "-c", str(configuration), "--rootdir", str(servers.EXAMPLES), "-p", "no:cacheprovider", "-v"
    )


def test_asyncio_runner() -> None:
    """asyncio.Runner, and asyncio.run() where it takes a factory: each child is aiovfork's, on both loops."""
    lines = ["Linux on EventLoop: 1 started by aiovfork", "Linux on UvloopEventLoop: 2 started by aiovfork"]
    if sys.version_info >= (3, 12):
        lines.append("Linux on EventLoop: 3 started by aiovfork")
    assert run_page("asyncio").splitlines() == lines


def test_unittest() -> None:
    """unittest: both test cases run, but for the one that needs a newer Python."""
    said = run_page("unittest", "-v")
    skipped = 0 if sys.version_info >= (3, 13) else 1
    assert said.count(" ... ok\n") == 2 - skipped
    assert said.count(" ... skipped ") == skipped


def test_anyio_plugin(tmp_path: pathlib.Path) -> None:
    """anyio's pytest plugin: the test runs and passes on both loops."""
    assert "2 passed" in run_pytest("anyio", tmp_path)


def test_pytest_asyncio(tmp_path: pathlib.Path) -> None:
    """pytest-asyncio: one test on both loops of the hook, one on the loop that it asks for."""
    said = run_pytest("pytest-asyncio", tmp_path)
    assert "3 passed" in said
    assert said.count("test_helper.py::test_helper[aiovfork] PASSED") == 1
    assert said.count("test_helper.py::test_helper[aiovfork-uvloop] PASSED") == 1


@pytest.mark.parametrize(
    "path", sorted(servers.EXAMPLES.rglob("*.py")), ids=lambda path: str(path.relative_to(servers.EXAMPLES))
)
def test_every_example_is_short_and_shown(path: pathlib.Path) -> None:
    """An example is short, says first what it shows, and a page includes it."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= LONGEST
    assert lines[0].startswith('"""')
    included = f"examples/hosts/{path.relative_to(servers.EXAMPLES)}\n"
    assert any(included in page.read_text(encoding="utf-8") for page in servers.PAGES.parent.rglob("*.md"))


def test_every_page_is_listed() -> None:
    """The overview leads to each host."""
    overview = (servers.PAGES / "index.md").read_text(encoding="utf-8")
    pages = {page.stem for page in servers.PAGES.glob("*.md")} - {"index"}
    tree = overview[overview.index("{toctree}") :]
    assert set(re.findall(r"^([\w-]+)$", tree, re.MULTILINE)) == pages
    assert {name for name in pages if f"({name}.md)" not in overview} == set()
