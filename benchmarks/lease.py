"""A program whose exec the kernel holds up: by a lease on its file, kept by a process of its own.

The keeper must be a process: a loop that is stopped with the GIL held could not let go (keeper.py).
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).parent.parent
_PATIENCE = 10.0


class HeldProgram:
    """A copy of a program, and the keeper of its lease."""

    def __init__(self, path: str, keeper: subprocess.Popen[bytes]) -> None:
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        self.path = path
        self._to_keeper = keeper.stdin.fileno()
        self._from_keeper = keeper.stdout.fileno()

    def hold(self) -> None:
        """Hold up the next exec. Blocks until that is certain."""
        os.write(self._to_keeper, b"h")
        while (answer := os.read(self._from_keeper, 1)) != b"h":
            if not answer:
                raise RuntimeError("the lease's keeper has ended")

    async def reached(self) -> None:
        """Wait until an exec of the program is being held up."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._from_keeper, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._from_keeper)
        if os.read(self._from_keeper, 1) != b"x":
            raise RuntimeError("the lease's keeper has ended")


@contextlib.contextmanager
def held_program(program: str, seconds: float) -> Iterator[HeldProgram]:
    """A copy of program, each exec of which takes so many seconds if hold() was called before it."""
    with tempfile.TemporaryDirectory(prefix="aiovfork-bench-") as folder:
        path = shutil.copy(program, folder)
        command = [sys.executable, "-m", "benchmarks.keeper", path, str(seconds)]
        with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as keeper:
            try:
                yield HeldProgram(path, keeper)
            finally:
                assert keeper.stdin is not None
                keeper.stdin.close()
                keeper.wait(_PATIENCE)
