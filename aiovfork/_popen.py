"""What get_extra_info("subprocess") returns: the part of Popen that makes sense for a running child.

Layer: below the transport. Thread: the loop's.
"""

from __future__ import annotations

import asyncio

from aiovfork._options import StrOrBytesPath


class PopenView:
    """pid, args, returncode, poll() and the signals of a child, for code that was written for Popen.

    The pipes belong to the loop; use get_pipe_transport(). There is no wait(): it would stall the loop.
    """

    __slots__ = ("_transport", "args")

    def __init__(
        self, transport: asyncio.SubprocessTransport, args: tuple[StrOrBytesPath, ...] | StrOrBytesPath
    ) -> None:
        self._transport = transport
        self.args = args

    @property
    def pid(self) -> int:
        """The pid of the child."""
        return self._transport.get_pid()

    @property
    def returncode(self) -> int | None:
        """As asyncio.SubprocessTransport.get_returncode()."""
        return self._transport.get_returncode()

    def poll(self) -> int | None:
        """As asyncio.SubprocessTransport.get_returncode(); never reaps anything."""
        return self._transport.get_returncode()

    def send_signal(self, signal: int) -> None:
        """As asyncio.SubprocessTransport.send_signal()."""
        self._transport.send_signal(signal)

    def terminate(self) -> None:
        """As asyncio.SubprocessTransport.terminate()."""
        self._transport.terminate()

    def kill(self) -> None:
        """As asyncio.SubprocessTransport.kill()."""
        self._transport.kill()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} pid={self.pid} returncode={self.returncode} args={self.args!r}>"
