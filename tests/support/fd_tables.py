"""The client of children/fd_table.py: spawns from arbitrary tables of descriptors, in a process apart."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from types import TracebackType
from typing import Any, Self

SERVER = pathlib.Path(__file__).parents[1] / "children" / "fd_table.py"


class FdTables:
    """A server for one backend. Each case is a dict: closed, inheritable, and options of the spawn."""

    def __init__(self, backend: str, directory: pathlib.Path) -> None:
        self.directory = str(directory)
        self._server = subprocess.Popen(
            [sys.executable, os.fspath(SERVER), backend, self.directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ask([])  # fails here, not in the first test, if the server cannot start

    def ask(self, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Have the spawns made, one after the other, and return what each child's table was."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(cases), file=self._server.stdin, flush=True)
        answers = json.loads(self._server.stdout.readline() or "null")
        assert answers is not None, "the server of the descriptor tables has died, see its stderr"
        for answer in answers:
            if "fds" in answer:
                answer["fds"] = {int(fd): self._name(target) for fd, target in answer["fds"].items()}
        return list(answers)

    def _name(self, target: str) -> str:
        return target.removeprefix(self.directory + "/")

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the server."""
        self._server.communicate(timeout=30)
        assert self._server.returncode == 0
