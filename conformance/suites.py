"""The suites, the versions that they are of, and the command that runs one on a loop."""

import dataclasses
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parent.parent
_INSIDE: Final = Path(__file__).parent / "inside"
# The tree goes last on the path: only `conformance` comes from there.
_BOOT: Final = f"import sys; sys.path.append({str(_ROOT)!r}); import pytest; sys.exit(pytest.console_main())"

#: Newest first. Of each, an interpreter that is found here runs CPython's own suites.
PYTHONS: Final = ("3.13", "3.12", "3.11")
#: Peers whose sdists hold their tests. The same versions are installed.
SDISTS: Final = {"anyio": "4.16.0", "mcp": "2.3.0", "uvloop": "0.23.0"}
_EVERYWHERE: Final = (f"uvloop=={SDISTS['uvloop']}", "pytest==9.2.0")
_FOR_PEERS: Final = (
    *_EVERYWHERE,
    f"anyio=={SDISTS['anyio']}",
    f"mcp=={SDISTS['mcp']}",
    "blockbuster==1.5.29",
    "coverage==7.17.4",
    "dirty-equals==0.11",
    "inline-snapshot==0.36.1",
    "logfire==5.4.0",
    "opentelemetry-sdk==1.45.2",
    "psutil==7.2.2",
    "pytest-examples==0.0.18",
    "pytest-mock==3.17.0",
    "pytest-timeout==2.4.0",
    "trio==0.35.0",
    "trustme==1.2.1",
    "truststore==0.10.5",
)


@dataclasses.dataclass(frozen=True)
class Suite:
    """A suite of somebody else."""

    name: str
    title: str
    #: What pytest is given: files and options.
    arguments: tuple[str, ...]
    #: The sdist that it comes in, None where it is installed with the interpreter.
    sdist: str | None = None
    #: Whether pytest loads the plugins that are installed. Settings of a suite may ask for one by its name.
    plugins: bool = False

    @property
    def requirements(self) -> tuple[str, ...]:
        """What it needs beside aiovfork."""
        return _EVERYWHERE if self.sdist is None else _FOR_PEERS

    def command(self, python: Path, loop: str, records: Path, scratch: Path) -> list[str]:
        """The command that runs it."""
        return [
            str(python), "-P", "-c", _BOOT,
            "-p", "conformance.inside.plugin",
            f"--conformance-loop={loop}",
            f"--conformance-records={records}",
            f"--basetemp={scratch}",
            "-p", "no:cacheprovider",
            # Longer than any test that makes progress.
            "-o", "faulthandler_timeout=60",
            *self.arguments,
        ]  # fmt: skip


SUITES: Final = {
    suite.name: suite
    for suite in (
        Suite("cpython-subprocess", "CPython test_subprocess", (f"{_INSIDE}/cpython.py::SubprocessMixin",)),
        Suite("cpython-events", "CPython test_events", (f"{_INSIDE}/cpython.py::SubprocessTestsMixin",)),
        Suite("uvloop", "uvloop test_process", (f"{_INSIDE}/uvloop_process.py",), "uvloop"),
        Suite("anyio", "anyio test_subprocesses", ("tests/test_subprocesses.py",), "anyio"),
        Suite(
            "mcp",
            "MCP SDK stdio",
            (
                "-o", "log_cli=false", "--color=no",
                "tests/client/test_stdio.py",
                "tests/interaction/transports/test_stdio.py",
                "tests/transports/stdio",
            ),
            "mcp",
            plugins=True,
        ),
    )
}  # fmt: skip
