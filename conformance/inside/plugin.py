"""A pytest plugin that puts the loop into a suite, and writes down what happens.

Each event is one line of JSON, flushed, so that a crash loses none.
"""

import json
from pathlib import Path
from typing import Any

import pytest

import aiovfork
from conformance.loops import FACTORIES

#: The loop's name. The adapters beside this file make their classes for it.
chosen: str


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --conformance-loop and --conformance-records."""
    group = parser.getgroup("conformance")
    group.addoption("--conformance-loop", required=True, choices=[*FACTORIES])
    group.addoption("--conformance-records", required=True, type=Path)


def pytest_configure(config: pytest.Config) -> None:
    """Start."""
    global chosen  # noqa: PLW0603  # a unittest class has no other way to ask pytest for something
    chosen = config.getoption("--conformance-loop")
    config.pluginmanager.register(Events(config.getoption("--conformance-records")), "conformance-events")


@pytest.hookimpl(tryfirst=True)
def pytest_plugin_registered(plugin: object) -> None:
    """Replace the fixture of a conftest.py from which anyio's plugin learns the loop."""
    if hasattr(plugin, "anyio_backend") and getattr(plugin, "__file__", "").endswith("conftest.py"):
        plugin.anyio_backend = pytest.fixture(scope="session", name="anyio_backend")(
            # debug, as in anyio's own conftest.py.
            lambda: ("asyncio", {"debug": True, "loop_factory": FACTORIES[chosen]})
        )


class Events:
    """Writes down what happens. A test has failed if any of its phases has."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w")  # for the life of the process
        self._outcome = ("passed", "")

    def _write(self, event: str, **fields: Any) -> None:
        print(json.dumps({"event": event, **fields}), file=self._file, flush=True)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test begins; if nothing follows, it did not survive."""
        self._outcome = ("passed", "")
        self._write("start", test=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A phase of it, or a subtest, has ended."""
        if report.failed:
            earlier = self._outcome[1] + "\n" if self._outcome[0] == "failed" else ""
            self._outcome = ("failed", f"{earlier}{report.when}: {report.longreprtext}")
        elif report.skipped and self._outcome[0] == "passed":
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else "expected to fail"
            self._outcome = ("skipped", reason)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """It has ended."""
        outcome, detail = self._outcome
        self._write("end", test=nodeid, outcome=outcome, detail=detail)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module that cannot be collected is a failure by its name."""
        if report.failed:
            self._write("end", test=report.nodeid, outcome="failed", detail=report.longreprtext)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """All tests have run; an interrupted session has no such end."""
        if exitstatus != pytest.ExitCode.INTERRUPTED:
            self._write("done", spawned=aiovfork.stats().spawned)
