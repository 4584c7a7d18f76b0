"""The runner of peers' suites judges as it says: it is run here on small suites of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil
import pytest

from conformance import exemptions, report
from conformance.environments import PreparationError, Store
from conformance.exemptions import Exemption, ExemptionError, Kind
from conformance.pythons import Python, find
from conformance.runs import Outcome, Result, Run, Runner
from conformance.session import Choice, Session
from conformance.suites import BY_NAME, PytestSuite, Suite, UnittestSuite
from conformance.verdict import judge

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
HEAD = """
import asyncio
import os
import signal
import subprocess
import unittest

from conformance.loops import FACTORIES


class Base(unittest.TestCase):
    def setUp(self):
        self.loop = FACTORIES[LOOP]()
        self.addCleanup(self.loop.close)

    def exit_status(self, command):
        async def body():
            return await (await asyncio.create_subprocess_shell(command)).wait()

        return self.loop.run_until_complete(body())


def cases(loop):
    global LOOP
    LOOP = loop
    return [Fake]
"""


def suite_of(folder: Path, source: str, name: str = "fake") -> Suite:
    """A suite of unittest's whose class Fake has this source."""
    (folder / "fake_adapter.py").write_text(HEAD + textwrap.dedent(source))
    return UnittestSuite(name, name, ("fake_adapter",), environment=(("PYTHONPATH", str(folder)),))


def pytest_suite_of(folder: Path, *options: str) -> Suite:
    """A suite of pytest: test_fake.py in this folder."""
    (folder / "pytest.ini").touch()  # else the settings of a folder above would count
    alone = (("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1"),)
    return PytestSuite("fake", "fake", (*options, "test_fake.py"), environment=alone)


def run_suite(folder: Path, suite: Suite, loop: str = "aiovfork", timeout: float = 60) -> Run:
    """Run a suite for real, on the interpreter that runs the tests."""
    where = (Path(sys.executable), folder, folder / "run")
    return Runner(timeout).execute(suite, VERSION, loop, *where)


def outcomes(run: Run) -> dict[str, Outcome]:
    """How each test ended."""
    return {test: result.outcome for test, result in run.tests.items()}


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


def test_a_suite_of_unittest_is_read(tmp_path: Path) -> None:
    """Each way in which a test of unittest's can end is written down as what it is, with its reason."""
    suite = suite_of(
        tmp_path,
        """
        class Fake(Base):
            def test_passes(self):
                self.assertEqual(self.exit_status("exit 7"), 7)

            def test_fails(self):
                self.assertEqual(self.exit_status("exit 7"), 0)

            def test_raises(self):
                raise ZeroDivisionError

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
        """,
    )
    run = run_suite(tmp_path, suite)
    assert run.trouble is None
    assert outcomes(run) == {
        "Fake.test_passes": "passed",
        "Fake.test_fails": "failed",
        "Fake.test_raises": "failed",
        "Fake.test_skipped": "skipped",
        "Fake.test_expected_to_fail": "skipped",
        "Fake.test_passes_unexpectedly": "failed",
        "Fake.test_part_fails": "failed",
        "Fake.test_cleanup_fails": "failed",
    }
    assert "7 != 0" in run.tests["Fake.test_fails"].detail
    assert "afterwards" in run.tests["Fake.test_cleanup_fails"].detail
    assert run.tests["Fake.test_skipped"].detail == "not today"
    assert run.spawned == 2


def test_a_suite_of_pytest_is_read_and_gets_its_loop(tmp_path: Path) -> None:
    """A suite that takes its loop from anyio's plugin gets ours; phases of a test count as one."""
    (tmp_path / "conftest.py").write_text(
        textwrap.dedent(
            """
            import pytest

            @pytest.fixture(params=["asyncio", "trio"])
            def anyio_backend(request):
                return request.param

            @pytest.fixture
            def broken():
                yield
                raise ZeroDivisionError
            """
        )
    )
    (tmp_path / "test_fake.py").write_text(
        textwrap.dedent(
            """
            import asyncio
            import anyio
            import pytest

            pytestmark = pytest.mark.anyio

            async def test_passes():
                assert type(asyncio.get_running_loop()).__module__ == "aiovfork._loops"
                assert (await anyio.run_process("exit 7", check=False)).returncode == 7

            @pytest.mark.parametrize("status", [0, 1])
            async def test_depends(status):
                assert (await anyio.run_process(f"exit {status}", check=False)).returncode == 0

            async def test_breaks_afterwards(broken):
                pass

            async def test_skipped():
                pytest.skip("not today")

            @pytest.mark.xfail
            async def test_expected_to_fail():
                assert False
            """
        )
    )
    suite = pytest_suite_of(tmp_path, "-p", "anyio")
    run = run_suite(tmp_path, suite, "aiovfork-uvloop")
    assert run.trouble is None
    assert outcomes(run) == {
        "test_fake.py::test_passes": "passed",
        "test_fake.py::test_depends[0]": "passed",
        "test_fake.py::test_depends[1]": "failed",
        "test_fake.py::test_breaks_afterwards": "failed",
        "test_fake.py::test_skipped": "skipped",
        "test_fake.py::test_expected_to_fail": "skipped",
    }
    assert "teardown: " in run.tests["test_fake.py::test_breaks_afterwards"].detail
    assert run.tests["test_fake.py::test_skipped"].detail == "Skipped: not today"
    assert run.spawned == 3


def test_a_module_that_cannot_be_collected_is_a_failure(tmp_path: Path) -> None:
    """A file that pytest cannot import fails by its name."""
    (tmp_path / "test_fake.py").write_text("import no_such_module")
    run = run_suite(tmp_path, pytest_suite_of(tmp_path))
    assert "no_such_module" in run.tests["test_fake.py"].detail
    assert any("failed: test_fake.py" in problem for problem in judge([run], [], ()).problems)


CRASH = """
class Fake(Base):
    def test_1(self):
        self.assertEqual(self.exit_status("true"), 0)

    def test_2(self):
        os.kill(os.getpid(), signal.SIGKILL)
"""
CRASH_AT_EXIT = """
import atexit

atexit.register(os.kill, os.getpid(), signal.SIGKILL)

class Fake(Base):
    def test_1(self):
        self.assertEqual(self.exit_status("true"), 0)
"""


@pytest.mark.parametrize(
    ("source", "tests", "trouble"),
    [
        (CRASH, {"1": "passed", "2": "failed"}, "exit status -9; it ended in Fake.test_2"),
        (CRASH_AT_EXIT, {"1": "passed"}, "exit status -9; all tests had run"),
        ("import no_such_module", {}, "exit status 1; it has not come to its first test"),
    ],
    ids=["in a test", "at the exit", "at the import"],
)
def test_a_crash_is_a_failure(tmp_path: Path, source: str, tests: dict[str, Outcome], trouble: str) -> None:
    """A process that dies keeps its results, and has not conformed, even if it died in a test that may fail."""
    run = run_suite(tmp_path, suite_of(tmp_path, source))
    assert outcomes(run) == {f"Fake.test_{number}": outcome for number, outcome in tests.items()}
    assert judge([run], [listed("waived", "Fake.test_2")], ()).problems == [f"{run.name}: {trouble}"]
    assert run.log is not None
    assert tests or "no_such_module" in run.log.read_text()


HANGS = """
class Fake(Base):
    def test_hangs(self):
        subprocess.Popen(["sleep", "1000"])
        reader, writer = os.pipe()
        os.read(reader, 1)
"""


def test_a_suite_that_hangs_is_ended(tmp_path: Path) -> None:
    """After its time a run is ended, and that is a failure."""
    run = run_suite(tmp_path, suite_of(tmp_path, HANGS), timeout=1)
    assert run.trouble is not None
    assert run.trouble.startswith("ended after 1 s; ")
    assert not judge([run], [], ()).passed


def test_a_run_can_be_stopped_and_leaves_nothing(tmp_path: Path) -> None:
    """stop() ends what runs, with the children of it."""
    suite = suite_of(tmp_path, HANGS)
    runner = Runner()
    runs: list[Run] = []
    where = (suite, VERSION, "aiovfork", Path(sys.executable), tmp_path, tmp_path / "run")
    thread = threading.Thread(target=lambda: runs.append(runner.execute(*where)))
    thread.start()
    try:
        wait_until(lambda: any(child.name() == "sleep" for child in descendants()))
        left = next(child for child in descendants() if child.name() == "sleep")
    finally:
        runner.stop()
        thread.join()
    wait_until(lambda: not left.is_running() or left.status() == psutil.STATUS_ZOMBIE)
    assert runs[0].trouble == "exit status -9; it ended in Fake.test_hangs"
    assert runner.execute(*where).tests == {}  # nothing is started any more


def descendants() -> list[psutil.Process]:
    """All children of this process, and theirs."""
    return psutil.Process().children(recursive=True)


def wait_until(condition: Callable[[], bool]) -> None:
    """Look again until something is so that nothing announces. pytest's timeout bounds it."""
    while True:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended while we looked
            if condition():
                return
        time.sleep(0.01)


def test_nothing_from_outside_changes_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that change Python or pytest do not reach a suite."""
    for variable in ("PYTEST_ADDOPTS", "PYTHONASYNCIODEBUG", "PYTHONPATH"):
        monkeypatch.setenv(variable, "from outside")
    source = """
    class Fake(Base):
        def test_environment(self):
            self.assertNotIn("from outside", os.environ.values())
    """
    assert outcomes(run_suite(tmp_path, suite_of(tmp_path, source))) == {"Fake.test_environment": "passed"}


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fake test_a *", "waived.txt:2: not SUITE TEST LOOP REASON"),
        ("fake a * one\nfake a * two", "listed twice: fake: a"),
        ("fake a aiovfork one\nfake a * two", "listed twice: fake: a"),
    ],
    ids=["no reason", "twice", "twice for a loop"],
)
def test_a_list_that_is_wrong_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """A line without a reason, or a second one about the same test, is an error."""
    for kind in exemptions.KINDS:
        (tmp_path / f"{kind}.txt").write_text("# a comment\n")
    (tmp_path / "waived.txt").write_text(f"# a comment\n{text}\n")
    with pytest.raises(ExemptionError, match=message.replace("*", r"\*")):
        exemptions.read(tmp_path)


def test_our_own_lists() -> None:
    """Each line names a suite of ours, and each waiver says which private part its test replaces or uses."""
    for line in exemptions.read():
        assert line.suite in BY_NAME
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

    def wheel(self, oldest: Python) -> Path:
        """Nobody looks at it."""
        return self.folder

    def environment(self, python: Python, requirements: Sequence[str], wheel: Path) -> Path:
        """The same for all."""
        return Path(sys.executable)

    def sdist(self, name: str) -> Path:
        """There is but one."""
        if name != "fake":
            raise PreparationError(f"no {name}")
        return self.folder


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Run], list[str]]:
    """A session: a suite and one that cannot be had, on two loops, repeated once where it fails."""
    folder = tmp_path_factory.mktemp("session")
    source = """
    class Fake(Base):
        def test_fails(self):
            self.fail("always")

        def test_passes_later(self):
            self.assertEqual(self.exit_status("true"), 0)
            seen = os.path.exists(f"been-here-{LOOP}")
            os.makedirs(f"been-here-{LOOP}", exist_ok=True)
            self.assertTrue(seen)
    """
    fake = dataclasses.replace(suite_of(folder, source), sdist="fake")
    gone = dataclasses.replace(fake, name="gone", sdist="gone")
    said: list[str] = []
    store = OwnInterpreter(folder / "store", said.append)
    choice = Choice([fake, gone], ["uvloop", "aiovfork"], [VERSION], jobs=1, retries=1)
    return Session(choice, store, [], said.append).run(), said


def test_a_session_runs_what_was_chosen(session: tuple[list[Run], list[str]]) -> None:
    """Every suite has a run on every loop, in order; a suite that cannot be had is trouble, not silence."""
    runs, said = session
    assert [(run.suite, run.loop) for run in runs] == [
        ("fake", "uvloop"),
        ("fake", "aiovfork"),
        ("gone", "uvloop"),
        ("gone", "aiovfork"),
    ]
    assert [run.trouble for run in runs] == [None, None, "no gone", "no gone"]
    lines = [line.partition("s  ")[2] for line in said]
    assert f"fake on uvloop, Python {VERSION}: 2 failed" in lines  # a plain loop has one chance
    assert f"fake on aiovfork, Python {VERSION}: 1 passed, 1 failed" in lines


def test_a_run_with_a_failure_is_repeated(session: tuple[list[Run], list[str]]) -> None:
    """What passes the second time counts as passed, and is noted."""
    runs, _ = session
    assert outcomes(runs[1]) == {"Fake.test_fails": "failed", "Fake.test_passes_later": "passed"}
    verdict = judge(runs, [], ())
    assert f"{runs[1].name}: passed only when repeated: Fake.test_passes_later" in verdict.notes


def test_the_report_shows_all(session: tuple[list[Run], list[str]]) -> None:
    """It has counts, failures with their traceback, trouble, and what an interpreter lacks."""
    runs, _ = session
    said: list[str] = []
    report.show(judge([*runs, Run("fake", VERSION, "", absent="no test package")], [], ()), said.append)
    text = "\n".join(said)
    assert 'self.fail("always")' in text
    assert "no gone" in text
    assert f"| fake | {VERSION} | aiovfork | 2 | 1 | 1 |  |  |  |  |" in text
    assert "no test package" in text
    assert said[-1] == "does not conform"


def test_an_interpreter_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter that was asked for and is not installed is an error, not a shorter table."""
    monkeypatch.setattr("conformance.session.PYTHONS", ("3.0",))
    store = OwnInterpreter(tmp_path, print)
    with pytest.raises(PreparationError, match=r"no CPython 3\.0 with venv was found"):
        Session(Choice([], [], ["3.0"]), store, [], print).run()


def test_one_run_at_a_time(tmp_path: Path) -> None:
    """Two runs do not write into the same folder: the second says that it waits, and then has it."""
    waits = threading.Event()
    events: list[str] = []

    def second() -> None:
        with Store(tmp_path, lambda _: waits.set()).held():
            events.append("second")

    thread = threading.Thread(target=second)
    with Store(tmp_path, print).held():
        thread.start()
        assert waits.wait(60)
        events.append("first")
    thread.join()
    assert events == ["first", "second"]


def test_this_interpreter_is_found() -> None:
    """An interpreter is found by its version, and one that does not exist is not."""
    python = find(VERSION)
    assert python is not None
    assert python.version == VERSION
    assert find("3.0") is None


def test_half_made_things_are_made_again(tmp_path: Path) -> None:
    """What an earlier run has left unfinished is not taken for what it was to be; what is finished is kept."""
    store = Store(tmp_path, print)
    made_in: list[Path] = []

    def fail(folder: Path) -> None:
        (folder / "rest").touch()
        raise PreparationError

    with pytest.raises(PreparationError):
        store.made("thing", fail)
    for _ in range(2):
        assert not (store.made("thing", made_in.append) / "rest").exists()
    assert len(made_in) == 1
