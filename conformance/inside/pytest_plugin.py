"""A pytest plugin for suites that use anyio's: it puts the loop into them, and writes down what happens."""

from pathlib import Path
from typing import Any

import pytest

from conformance.inside.records import Recorder
from conformance.loops import FACTORIES


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --conformance-loop and --conformance-records."""
    group = parser.getgroup("conformance")
    group.addoption("--conformance-loop", required=True, choices=[*FACTORIES])
    group.addoption("--conformance-records", required=True, type=Path)


def pytest_configure(config: pytest.Config) -> None:
    """Start."""
    factory = FACTORIES[config.getoption("--conformance-loop")]
    config.pluginmanager.register(Loops(factory), "conformance-loops")
    config.pluginmanager.register(Events(config.getoption("--conformance-records")), "conformance-events")


class Loops:
    """Replaces the fixture from which anyio's plugin learns the loop, before pytest looks for it."""

    def __init__(self, factory: Any) -> None:
        # debug, as in anyio's own conftest.py.
        self._backend = ("asyncio", {"debug": True, "loop_factory": factory})

    @pytest.hookimpl(tryfirst=True)
    def pytest_plugin_registered(self, plugin: object) -> None:
        """Look at each conftest.py."""
        if hasattr(plugin, "anyio_backend") and getattr(plugin, "__file__", "").endswith("conftest.py"):
            plugin.anyio_backend = pytest.fixture(scope="session", name="anyio_backend")(
                lambda: self._backend
            )


class Events:
    """Writes down what happens. A test has failed if any of its phases has."""

    def __init__(self, path: Path) -> None:
        self._recorder = Recorder(path)
        self._outcome = ("passed", "")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test begins."""
        self._outcome = ("passed", "")
        self._recorder.start(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A phase of it has ended."""
        if report.failed:
            earlier = self._outcome[1] + "\n" if self._outcome[0] == "failed" else ""
            self._outcome = ("failed", f"{earlier}{report.when}: {report.longreprtext}")
        elif report.skipped and self._outcome[0] == "passed":
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else "expected to fail"
            self._outcome = ("skipped", reason)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """It has ended."""
        self._recorder.end(nodeid, *self._outcome)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module that cannot be collected is a failure by its name."""
        if report.failed:
            self._recorder.start(report.nodeid)
            self._recorder.end(report.nodeid, "failed", report.longreprtext)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """The end; an interrupted session has none."""
        if exitstatus in (
            pytest.ExitCode.OK,
            pytest.ExitCode.TESTS_FAILED,
            pytest.ExitCode.NO_TESTS_COLLECTED,
        ):
            self._recorder.done()
