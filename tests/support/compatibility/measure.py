"""Asks the probes, each in a process of its own: some crash, hang, or change what a process has but one of.

Started as a program it is a small interpreter without loops and threads that forks once for each probe and
column, which costs a hundredth of what an interpreter for each would.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from typing import Self

    from tests.support.compatibility.rows import Column, Row

_ROOT: Final = pathlib.Path(__file__).parents[3]
# A probe takes milliseconds; one that takes so long hangs.
_PATIENCE: Final = 30.0


class Measurer:
    """The interpreter that forks, as a context manager."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            # -P: the modules beside this one are no modules of the standard library.
            [sys.executable, "-P", "-X", "faulthandler", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def answers(self, name: str) -> dict[str, str]:
        """Return what the probe of this name has seen, by the names of the backends."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(name, file=self._process.stdin)
        result = self._process.stdout.readline()
        assert result, "the interpreter that forks has ended"
        answers: dict[str, str] = json.loads(result)
        return answers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.communicate()


def _answer(row: Row, column: Column) -> str:
    """Ask a probe, in this process."""
    from tests.support.backends import run  # noqa: PLC0415  # the path is known only at run time
    from tests.support.compatibility.rows import name_of  # noqa: PLC0415

    try:
        if inspect.iscoroutinefunction(row.probe):
            return str(run(column.backend, row.probe))
        return str(row.probe(column.backend))
    except (AssertionError, KeyError):  # what it has seen is nothing that it has a word for
        return f"the probe failed:\n{traceback.format_exc()}"
    except Exception as exc:  # noqa: BLE001  # it is an answer
        return name_of(exc)


@contextlib.contextmanager
def _asked(row: Row, column: Column) -> Iterator[tuple[int, int]]:
    """Fork a process that asks a probe. Yields the descriptors of its answer, and of what it says."""
    read_end, write_end = os.pipe()
    said = os.memfd_create("said")
    pid = os.fork()
    if not pid:
        try:
            os.setsid()
            os.dup2(said, 1)
            os.dup2(said, 2)
            os.write(write_end, _answer(row, column).encode())
        finally:  # no teardown: what a probe has left is not the matter
            os._exit(0)
    os.close(write_end)
    try:
        yield read_end, said
    finally:
        os.close(read_end)
        os.close(said)
        for kill in (os.kill, os.killpg):  # what it has left, too
            with contextlib.suppress(ProcessLookupError):
                kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _answers(row: Row) -> dict[str, str]:
    """Ask a probe in each column, all at once."""
    deadline = time.monotonic() + _PATIENCE
    found = {}
    with contextlib.ExitStack() as stack:
        asked = {column.backend.name: stack.enter_context(_asked(row, column)) for column in row.columns}
        for name, (answer_fd, said_fd) in asked.items():
            readable = select.select([answer_fd], [], [], max(0.0, deadline - time.monotonic()))[0]
            answer = os.read(answer_fd, 2**16).decode() if readable else "it hangs"
            said = os.pread(said_fd, 2**20, 0).decode(errors="replace")
            found[name] = answer or f"it died:\n{said}"
    return found


def main() -> None:
    """Be the interpreter: answer the names that come until the end of the requests."""
    # What is installed is tested, not what lies beside the tests: the tree comes last.
    sys.path.append(str(_ROOT))
    from tests.support.compatibility.rows import rows  # noqa: PLC0415  # the path is known only now

    by_name: dict[str, Any] = {row.name: row for row in rows()}
    # No probe has the pipes as its standard streams, and no child inherits them.
    with open(os.dup(0)) as requests, open(os.dup(1), "w", buffering=1) as results:
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(2, 1)
        os.close(null)
        for line in requests:
            print(json.dumps(_answers(by_name[line.strip()])), file=results)


if __name__ == "__main__":
    main()
