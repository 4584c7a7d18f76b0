"""Programs that draw a screen, driven through a terminal of aiovfork's and looked at with pyte's eyes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import shutil
from collections.abc import AsyncIterator, Callable

import pyte
import pytest

import aiovfork

ENV = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "TERM": "linux", "LANG": "C.UTF-8"}


class Screen:
    """What a program draws."""

    def __init__(self, terminal: aiovfork.Terminal) -> None:
        self.terminal = terminal
        rows, cols = terminal.size
        self.pyte = pyte.Screen(cols, rows)
        self._stream = pyte.ByteStream(self.pyte)

    @property
    def lines(self) -> list[str]:
        """The lines, without what is empty at the right."""
        return [line.rstrip() for line in self.pyte.display]

    async def draws(self, expected: Callable[[list[str]], bool]) -> None:
        """Read until the screen is as expected."""
        while not expected(self.lines):
            try:
                async with asyncio.timeout(20):
                    data = await self.terminal.reader.read(4096)
            except TimeoutError:
                data = b""
            assert data, f"the program shows no more, and this is the screen: {self.lines}"
            self._stream.feed(data)

    def press(self, keys: str) -> None:
        """Type."""
        self.terminal.writer.write(keys.encode())

    def resize(self, rows: int, cols: int) -> None:
        """Both the terminal and the picture of it."""
        self.pyte.resize(rows, cols)
        self.terminal.resize(rows, cols)


@contextlib.asynccontextmanager
async def drawn(program: str, *args: str) -> AsyncIterator[tuple[aiovfork.Process, Screen]]:
    """A program, if it is here, and its screen."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    size = aiovfork.Pty(rows=8, cols=40)
    async with await aiovfork.create_subprocess_exec(program, *args, pty=size, env=ENV) as process:
        assert process.pty is not None
        yield process, Screen(process.pty)


async def test_less(tmp_path: pathlib.Path) -> None:
    """less shows a page, goes on by a key, finds, draws again at another size, ends by q."""
    text = tmp_path / "text"
    text.write_text("".join(f"line {number}\n" for number in range(100)))
    async with drawn("less", str(text)) as (process, screen):
        await screen.draws(lambda lines: lines[0] == "line 0" and lines[6] == "line 6" and lines[7] != "")
        screen.press(" ")
        await screen.draws(lambda lines: (lines[0], lines[7]) == ("line 7", ":"))
        screen.press("/line 42\n")
        await screen.draws(lambda lines: (lines[0], lines[6], lines[7]) == ("line 42", "line 48", ":"))
        screen.resize(5, 20)
        screen.press("r")  # a SIGWINCH that comes just before less waits for a key is seen with the next key
        await screen.draws(lambda lines: (lines[0], lines[3], lines[4]) == ("line 42", "line 45", ":"))
        screen.press("q")
        assert await process.wait() == 0


async def test_vim(tmp_path: pathlib.Path) -> None:
    """vim edits and writes a file: modes, cursor keys, undo; at another size it draws its screen again."""
    file = tmp_path / "file"
    async with drawn("vim", "-u", "NONE", "-N", "-n", "-i", "NONE", str(file)) as (process, screen):
        await screen.draws(lambda lines: lines[1] == "~" and "file" in lines[7])
        screen.press("ione\rtwo\x1b")
        await screen.draws(lambda lines: lines[:2] == ["one", "two"])
        screen.press("ddu:set number\r")
        await screen.draws(lambda lines: [line.split() for line in lines[:2]] == [["1", "one"], ["2", "two"]])
        screen.resize(12, 30)
        await screen.draws(lambda lines: lines[9] == "~" and lines[1].split() == ["2", "two"])
        screen.press(":wq\r")
        await screen.terminal.reader.read()
        assert await process.wait() == 0
    assert file.read_text() == "one\ntwo\n"
