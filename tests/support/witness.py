"""Whether anybody of a family of processes is alive: a pipe that all of them hold ends with the last of them."""

from __future__ import annotations

import os
import select
from types import TracebackType
from typing import Self


class Witness:
    """A pipe whose write end a program and its descendants keep, given to it in pass_fds.

    A zombie holds nothing, so it does not count.
    """

    def __enter__(self) -> Self:
        self._read_end, self.fd = os.pipe()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._let_go()
        os.close(self._read_end)

    def nobody_lives(self) -> bool:
        """Whether none is left that holds the pipe. From now on it cannot be given to another."""
        self._let_go()
        return self._read_end in select.select([self._read_end], [], [], 0)[0]

    def wait_gone(self) -> None:
        """Wait until none is left."""
        self._let_go()
        assert os.read(self._read_end, 1) == b""

    def _let_go(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
