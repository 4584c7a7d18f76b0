"""The suites: where each comes from, what it needs, and the command that runs it on a loop."""

import abc
import dataclasses
from pathlib import Path
from typing import Final

from conformance import pins

_ROOT: Final = Path(__file__).parent.parent
# The tree goes last on the path: only `conformance` comes from there.
_BOOT: Final = f"""
import runpy, sys
sys.path.append({str(_ROOT)!r})
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@dataclasses.dataclass(frozen=True)
class Suite(abc.ABC):
    """A suite of somebody else."""

    name: str
    title: str
    #: Arguments of the module that runs it, after which come the loop and the file for the records.
    arguments: tuple[str, ...]
    #: The sdist that it comes in, None where it is installed with the interpreter.
    sdist: str | None = None
    requirements: tuple[str, ...] = pins.FOR_PEERS
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def is_cpythons(self) -> bool:
        """Whether every interpreter has one of its own."""
        return self.sdist is None

    @abc.abstractmethod
    def command(self, python: Path, loop: str, records: Path, scratch: Path) -> list[str]:
        """The command that runs it."""


@dataclasses.dataclass(frozen=True)
class UnittestSuite(Suite):
    """One of unittest's; arguments is the adapter that makes its classes, see inside/unittests.py."""

    def command(self, python: Path, loop: str, records: Path, scratch: Path) -> list[str]:
        """As Suite.command."""
        del scratch
        runner = "conformance.inside.unittests"
        return [str(python), "-P", "-c", _BOOT, runner, *self.arguments, loop, str(records)]


@dataclasses.dataclass(frozen=True)
class PytestSuite(Suite):
    """One of pytest's that takes its loop from anyio's plugin; arguments are files and options."""

    def command(self, python: Path, loop: str, records: Path, scratch: Path) -> list[str]:
        """As Suite.command."""
        return [
            str(python), "-P", "-c", _BOOT, "pytest",
            "-p", "conformance.inside.pytest_plugin",
            f"--conformance-loop={loop}",
            f"--conformance-records={records}",
            f"--basetemp={scratch}",
            "-p", "no:cacheprovider",
            "-o", "faulthandler_timeout=60",
            *self.arguments,
        ]  # fmt: skip


SUITES: Final[tuple[Suite, ...]] = (
    UnittestSuite(
        "cpython-subprocess",
        "CPython test_subprocess",
        ("conformance.inside.cpython", "test_subprocess", "SubprocessMixin"),
        requirements=pins.EVERYWHERE,
    ),
    UnittestSuite(
        "cpython-events",
        "CPython test_events",
        ("conformance.inside.cpython", "test_events", "SubprocessTestsMixin"),
        requirements=pins.EVERYWHERE,
    ),
    UnittestSuite(
        "uvloop", "uvloop test_process", ("conformance.inside.uvloop_process",), sdist="uvloop"
    ),
    PytestSuite(
        "anyio",
        "anyio test_subprocesses",
        ("tests/test_subprocesses.py",),
        sdist="anyio",
        # Its own settings ask for what it needs.
        environment=(("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1"),),
    ),
    PytestSuite(
        "mcp",
        "MCP SDK stdio",
        (
            "-o", "log_cli=false", "--color=no",
            "tests/client/test_stdio.py",
            "tests/interaction/transports/test_stdio.py",
            "tests/transports/stdio",
        ),
        sdist="mcp",
    ),
)  # fmt: skip
BY_NAME: Final = {suite.name: suite for suite in SUITES}
