"""A pipe that a test's children write to: what they say, and whether one of them is alive still."""

from __future__ import annotations

import asyncio
import os
from types import TracebackType
from typing import Self


class Speakers:
    """Give `fd` to children and descendants as their stdout: the pipe ends when the last one is gone."""

    def __init__(self) -> None:
        self._read_end, self.fd = os.pipe()
        os.set_blocking(self._read_end, False)
        self._open = {self._read_end, self.fd}
        self._heard = b""

    async def line(self) -> str:
        """Return the next line that one of them writes."""
        while b"\n" not in self._heard:
            data = await self._read()
            assert data, "all are gone"
            self._heard += data
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode()

    async def lines(self, number: int) -> list[str]:
        """Return the next lines, sorted."""
        return sorted([await self.line() for _ in range(number)])

    def seal(self) -> None:
        """Close our own end: nobody gets the pipe from us any more."""
        if self.fd in self._open:
            self._open.discard(self.fd)
            os.close(self.fd)

    def all_gone(self) -> bool:
        """Whether nobody has the pipe any more. What they have said until then is dropped."""
        self.seal()
        try:
            while os.read(self._read_end, 65536):
                pass
        except BlockingIOError:
            return False
        return True

    async def end(self) -> None:
        """Wait until nobody has the pipe any more."""
        self.seal()
        while await self._read():
            pass

    async def _read(self) -> bytes:
        loop = asyncio.get_running_loop()
        while True:
            try:
                return os.read(self._read_end, 65536)
            except BlockingIOError:
                readable = loop.create_future()
                loop.add_reader(self._read_end, readable.set_result, None)
                try:
                    await readable
                finally:
                    loop.remove_reader(self._read_end)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close both ends."""
        self.seal()
        os.close(self._read_end)
