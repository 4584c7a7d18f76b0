"""Children with descendants: a pipe tells, at once and for sure, whether one of them is alive."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiovfork
from tests.support.window import until

# Each process of the tree has the pipe: a job in the background gets another stdin, but keeps 3.
_PREAMBLE = 'exec 3>&0; say() { echo "$@" >&3; }; '


class Tree:
    """A shell and what it starts. Every process of it has the write end of a pipe."""

    def __init__(self, read_end: int, process: aiovfork.Process) -> None:
        self._read_end = read_end
        self._said = b""
        self.process = process
        self.words: list[str] = []

    @property
    def alive(self) -> bool:
        """Whether a process of it is. A zombie has closed its descriptors."""
        try:
            while chunk := os.read(self._read_end, 2**16):
                self._said += chunk
        except BlockingIOError:
            return True
        return False

    async def heard(self, word: str) -> list[str]:
        """Wait until the tree has said a word, and return what came with it in its line."""
        found: list[list[str]] = []

        def look() -> bool:
            assert self.alive or word.encode() in self._said, f"{word!r} was not said"
            lines = [
                line.split() for line in self._said.decode().splitlines(keepends=True) if line[-1] == "\n"
            ]
            found[:] = [line for line in lines if line[0] == word]
            return bool(found)

        await until(look)
        return found[0][1:]

    async def stops(self) -> None:
        """Wait until the child has stopped by itself (SIGSTOP)."""
        await until(lambda: state(self.process.pid) == "T")


def state(pid: int) -> str:
    """Return what /proc says of a process: "Z" is a zombie."""
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


class Trees:
    """Starts trees, and looks after their pipes."""

    def __init__(self) -> None:
        self._fds: list[int] = []

    async def start(self, script: str, **options: Any) -> Tree:
        """Run a script in a shell, and wait until it has said "ready"."""
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        self._fds.append(read_end)
        try:
            process = await aiovfork.create_subprocess_shell(_PREAMBLE + script, stdin=write_end, **options)
        finally:
            os.close(write_end)
        tree = Tree(read_end, process)
        tree.words = await tree.heard("ready")
        return tree

    def close(self) -> None:
        """Close the pipes."""
        for fd in self._fds:
            os.close(fd)


@contextmanager
def trees() -> Iterator[Trees]:
    """Give trees for the block."""
    found = Trees()
    try:
        yield found
    finally:
        found.close()
