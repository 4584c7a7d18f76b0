"""The runner of peers' suites judges as it says: it is run here on small suites of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from conformance import environments, exemptions, report, session
from conformance.environments import PreparationError, Store
from conformance.exemptions import Exemption, Kind
from conformance.runs import Outcome, Result, Run, execute
from conformance.suites import SUITES, Suite
from conformance.verdict import judge

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
FAKE = Suite("fake", "fake", ("-p", "anyio", "test_fake.py"))
HEAD = """
import asyncio
import atexit
import os
import signal
import subprocess
import unittest

import anyio
import pytest

from conformance.inside import plugin
from conformance.loops import FACTORIES


async def exit_status(command):
    return (await anyio.run_process(command, check=False)).returncode


def on_the_loop(command):
    with asyncio.Runner(loop_factory=FACTORIES[plugin.chosen]) as runner:
        return runner.run(exit_status(command))

"""


def run_suite(folder: Path, source: str, loop: str = "aiovfork", timeout: float = 60) -> Run:
    """Run a suite with this source for real, on the interpreter that runs the tests."""
    write_suite(folder, source)
    with never() as stop:
        return execute(FAKE, VERSION, loop, Path(sys.executable), folder, folder / "run", stop, timeout)


def write_suite(folder: Path, source: str) -> None:
    """Make the files of a suite."""
    (folder / "pytest.ini").touch()  # else the settings of a folder above would count
    (folder / "test_fake.py").write_text(HEAD + textwrap.dedent(source))
    (folder / "conftest.py").write_text(
        "import pytest\n@pytest.fixture(params=['asyncio', 'trio'])\ndef anyio_backend(request):\n    return request.param"
    )


@contextlib.contextmanager
def never() -> Iterator[int]:
    """A descriptor that is never readable."""
    fd = os.eventfd(0)
    try:
        yield fd
    finally:
        os.close(fd)


def outcomes(run: Run) -> dict[str, Outcome]:
    """How each test ended."""
    return {test.removeprefix("test_fake.py::"): result.outcome for test, result in run.tests.items()}


def made(
    tests: Mapping[str, Outcome], loop: str = "aiovfork", *, suite: str = "fake", spawned: int | None = None
) -> Run:
    """A run with these outcomes, without running anything."""
    results = {test: Result(outcome) for test, outcome in tests.items()}
    return Run(suite, VERSION, loop, results, spawned=spawned)


def listed(kind: Kind, test: str, loop: str = "*") -> Exemption:
    """A line of a list."""
    return Exemption(kind, "fake", test, loop, "because")


# ---- one run ----

ENDS = """
    class Fake(unittest.TestCase):
        def test_passes(self):
            assert on_the_loop("exit 7") == 7

        def test_fails(self):
            self.assertEqual(7, 0)

        @unittest.skip("not today")
        def test_skipped(self):
            pass

        @unittest.expectedFailure
        def test_expected_to_fail(self):
            self.fail()

        @unittest.expectedFailure
        def test_passes_unexpectedly(self):
            pass

        def test_part_fails(self):
            for number in range(2):
                with self.subTest(number=number):
                    self.assertEqual(number, 0)

        def test_cleanup_fails(self):
            self.addCleanup(self.fail, "afterwards")

    @pytest.fixture
    def broken():
        yield
        raise ZeroDivisionError

    @pytest.mark.anyio
    async def test_of_anyio():
        assert type(asyncio.get_running_loop()).__module__ == "aiovfork._loops"
        assert await exit_status("exit 7") == 7

    @pytest.mark.parametrize("status", [0, 1])
    def test_depends(status):
        assert status == 0

    def test_breaks_afterwards(broken):
        pass

    def test_environment():
        assert "from outside" not in os.environ.values()
"""


def test_each_way_in_which_a_test_can_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written down as what it is, on the loop that was asked for, whatever the caller's variables say."""
    for variable in ("PYTEST_ADDOPTS", "PYTHONASYNCIODEBUG", "PYTHONPATH"):
        monkeypatch.setenv(variable, "from outside")
    run = run_suite(tmp_path, ENDS, "aiovfork-uvloop")
    assert run.trouble is None
    assert outcomes(run) == {
        "Fake::test_passes": "passed",
        "Fake::test_fails": "failed",
        "Fake::test_skipped": "skipped",
        "Fake::test_expected_to_fail": "skipped",
        "Fake::test_passes_unexpectedly": "failed",
        "Fake::test_part_fails": "failed",
        "Fake::test_cleanup_fails": "failed",
        "test_of_anyio": "passed",
        "test_depends[0]": "passed",
        "test_depends[1]": "failed",
        "test_breaks_afterwards": "failed",
        "test_environment": "passed",
    }
    assert "7 != 0" in run.tests["test_fake.py::Fake::test_fails"].detail
    assert "teardown: " in run.tests["test_fake.py::test_breaks_afterwards"].detail
    assert run.spawned == 2


DIES = """
    def test_1():
        pass

    def test_2():
        os.kill(os.getpid(), signal.SIGKILL)
"""
DIES_AT_THE_EXIT = """
    atexit.register(os.kill, os.getpid(), signal.SIGKILL)

    def test_1():
        on_the_loop("true")
"""
HANGS = """
    def test_1():
        subprocess.Popen(["sleep", "1000"])
        os.read(os.pipe()[0], 1)
"""


@pytest.mark.parametrize(
    ("source", "ended", "trouble"),
    [
        (DIES, {"test_1": "passed", "test_2": "failed"}, "exit status -9; it ended in test_fake.py::test_2"),
        (DIES_AT_THE_EXIT, {"test_1": "passed"}, "exit status -9; all tests had run"),
        ("os._exit(3)", {}, "exit status 3; it has not come to its first test"),
    ],
    ids=["in a test", "at the exit", "at the import"],
)
def test_a_crash_is_a_failure(tmp_path: Path, source: str, ended: dict[str, Outcome], trouble: str) -> None:
    """A process that dies keeps its results, and has not conformed, even if it died in a test that may fail."""
    run = run_suite(tmp_path, source)
    assert outcomes(run) == ended
    waived = [listed("waived", "test_fake.py::test_2")]
    assert judge([run], waived, ()).problems == [f"{run.name}: {trouble}"]


def test_a_suite_that_hangs_is_ended(tmp_path: Path) -> None:
    """After its time a run is ended with its children, and that is a failure."""
    run = run_suite(tmp_path, HANGS, timeout=1)
    assert run.trouble is not None
    assert run.trouble.startswith("ended after 1 s; ")
    assert not judge([run], [], ()).passed


def test_a_module_that_cannot_be_collected_is_a_failure(tmp_path: Path) -> None:
    """A file that pytest cannot import fails by its name."""
    run = run_suite(tmp_path, "import no_such_module")
    assert "no_such_module" in run.tests["test_fake.py"].detail
    assert any("failed: test_fake.py" in problem for problem in judge([run], [], ()).problems)


# ---- the verdict ----

OURS, PLAIN = f"fake on aiovfork, Python {VERSION}: ", f"fake on uvloop, Python {VERSION}: "
FAILED: dict[str, Outcome] = {"a": "failed", "b": "passed"}
PASSED: dict[str, Outcome] = {"a": "passed", "b": "passed"}
SKIPPED: dict[str, Outcome] = {"a": "skipped", "b": "passed"}
NOT_SKIPPED = [made(SKIPPED), made(PASSED, "asyncio")]


@pytest.mark.parametrize(
    ("runs", "lists", "problems", "notes"),
    [
        ([made(FAILED)], [], [OURS + "failed: a"], []),
        ([made(FAILED, "uvloop")], [], [], []),
        *(([made(FAILED)], [listed(kind, "a")], [], []) for kind in exemptions.KINDS),
        ([made(FAILED)], [listed("waived", "a", "aiovfork-uvloop")], [OURS + "failed: a"], []),
        ([made(PASSED)], [listed("waived", "a")], [], [OURS + "waived, but passes: a"]),
        *(
            ([made(PASSED)], [listed(kind, "a")], [f"{OURS}{kind}, but passes; take it off the list: a"], [])
            for kind in ("pending", "refused")
        ),
        ([made(PASSED)], [listed("waived", "gone")], ["waived.txt: names no test: fake: gone"], []),
        (
            [made(PASSED)],
            [listed("waived", "a", "uvloop")],
            ["waived.txt: no judged loop: fake: a on uvloop"],
            [],
        ),
        ([made({})], [], [OURS + "no test has run"], []),
        ([made({"a": "skipped"})], [], [OURS + "no test has run"], []),
        ([made({"a": "skipped"}, "uvloop")], [], [], [PLAIN + "no test has run"]),
        ([Run("fake", VERSION, "", absent="no test package")], [], [], []),
        (NOT_SKIPPED, [], [OURS + "skipped, though asyncio runs it: a"], []),
        (NOT_SKIPPED, [listed("pending", "a")], [], []),
        ([made(SKIPPED), made(SKIPPED, "asyncio")], [], [], []),
        (
            [made(PASSED, spawned=0)],
            [],
            [OURS + "not on that loop: aiovfork has started 0 children"],
            [],
        ),
        (
            [made(PASSED, "uvloop", spawned=3)],
            [],
            [PLAIN + "not on that loop: aiovfork has started 3 children"],
            [],
        ),
    ],
)
def test_what_fails_the_whole(
    runs: list[Run], lists: list[Exemption], problems: list[str], notes: list[str]
) -> None:
    """Problems fail the whole, notes do not: each failure, each silence, and each line that excuses nothing."""
    verdict = judge(runs, lists, {"fake"})
    assert (verdict.problems, verdict.notes) == (problems, notes)
    assert sum(verdict.rows[0].counts.values()) == verdict.rows[0].total == len(runs[0].tests)


def test_an_excused_failure_is_counted_apart() -> None:
    """It is counted under the name of its list."""
    (row,) = judge([made(FAILED)], [listed("refused", "a")], ()).rows
    assert {name: count for name, count in row.counts.items() if count} == {"passed": 1, "refused": 1}


# ---- the lists ----


def test_a_line_without_a_reason_is_refused(tmp_path: Path) -> None:
    """A test is not excused without a word."""
    for kind in exemptions.KINDS:
        (tmp_path / f"{kind}.txt").write_text("# a comment\nfake test_a *\n")
    with pytest.raises(ValueError, match=r"waived\.txt:2: not SUITE TEST LOOP REASON"):
        exemptions.read(tmp_path)


def test_our_own_lists() -> None:
    """Each line names a suite of ours, and each waiver says which private part its test replaces or uses."""
    for line in exemptions.read():
        assert line.suite in SUITES
        if line.kind == "waived":
            assert "replaces" in line.reason or "private" in line.reason


def test_the_page_has_the_lists() -> None:
    """The documentation shows the lists as they are."""
    page = report.PAGE.read_text()
    expected = report.filled_in(page, exemptions.read())
    assert page == expected, "run: python -m conformance --update-docs"


# ---- from the choice to the table ----


class OwnInterpreter(Store):
    """Gives suites the interpreter that runs the tests, which has what they need."""

    def environment(self, version: str, python: str, suite: Suite, wheel: Path) -> Path:
        """The same for all."""
        return Path(sys.executable)

    def sdist(self, name: str) -> Path:
        """There is but one."""
        if name != "fake":
            raise PreparationError(f"no {name}")
        return self.folder


SESSION = """
    def test_fails():
        assert not "always"

    def test_passes_later():
        on_the_loop("true")
        seen = os.path.exists(f"been-here-{plugin.chosen}")
        os.makedirs(f"been-here-{plugin.chosen}", exist_ok=True)
        assert seen
"""


def test_a_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every suite has a run on every loop; one that cannot be had is trouble; what fails is repeated, and shown."""
    write_suite(tmp_path, SESSION)
    monkeypatch.setattr(environments, "find", {VERSION: sys.executable}.get)
    fakes = [dataclasses.replace(FAKE, name=name, sdist=name) for name in ("fake", "gone")]
    store, said = OwnInterpreter(tmp_path, print), list[str]()
    chosen: tuple[list[Suite], list[str], list[str]] = (fakes, ["uvloop", "aiovfork"], [VERSION])
    runs, complete = session.run(*chosen, store, [], said.append, retries=1, wheel=tmp_path)
    assert [(run.suite, run.loop, run.trouble) for run in runs] == [
        ("fake", "uvloop", None),
        ("fake", "aiovfork", None),
        ("gone", "uvloop", "no gone"),
        ("gone", "aiovfork", "no gone"),
    ]
    assert complete == set()  # one version was asked for
    plain, ours = runs[:2]
    assert outcomes(plain) == {"test_fails": "failed", "test_passes_later": "failed"}  # it has one chance
    assert outcomes(ours) == {"test_fails": "failed", "test_passes_later": "passed"}
    verdict = judge([*runs, Run("fake", VERSION, "", absent="no test package")], [], ())
    assert f"{ours.name}: passed only when repeated: test_fake.py::test_passes_later" in verdict.notes
    report.show(verdict, said.append)
    text = "\n".join(said)
    for part in (
        'assert not "always"',
        "no gone",
        f"| fake | {VERSION} | aiovfork | 2 | 1 | 1 |  |  |  |  |",
        "no test package",
    ):
        assert part in text
    assert said[-1] == "does not conform"


def test_an_interpreter_that_is_not_there(tmp_path: Path) -> None:
    """An interpreter that was asked for and is not installed is an error, not a shorter table."""
    with pytest.raises(PreparationError, match=r"no CPython 3\.0 with venv was found"):
        session.run([], [], ["3.0"], Store(tmp_path, print), [], print)
