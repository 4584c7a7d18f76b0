"""Plugging into event loops: a mixin, loops that have it, and install() for one that already runs.

asyncio.create_subprocess_exec, anyio and whatever is built on them ask the loop for a child: overriding two
methods of the loop serves them all. No policy, and nothing of asyncio's modules is patched.

Layer: above the API. Thread: the loop's.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import types
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Final, Literal, Self, SupportsFloat, TypeVar

from aiovfork._api import shell_command, spawn
from aiovfork._options import Command, Env, Stdio, StrOrBytesPath, checked
from aiovfork._ports import close_port_of, port_of
from aiovfork._transport import SubprocessTransport
from aiovfork._uvloop import new_loop

_ProtocolT = TypeVar("_ProtocolT", bound=asyncio.SubprocessProtocol)

# Where a loop that install() has plugged keeps its plug.
_PLUG: Final = "_aiovfork_plug"


class SubprocessLoopMixin(asyncio.AbstractEventLoop):
    """Makes an event loop start its children with aiovfork.

    Put it before the class of the loop: `class Loop(aiovfork.SubprocessLoopMixin, uvloop.Loop): ...`.
    The loop needs add_reader and add_writer, which asyncio's loops on Linux have.
    """

    async def subprocess_exec(  # type: ignore[override]  # typeshed's spells each refused option out
        self,
        protocol_factory: Callable[[], _ProtocolT],
        program: StrOrBytesPath,
        *args: StrOrBytesPath,
        stdin: Stdio = subprocess.PIPE,
        stdout: Stdio = subprocess.PIPE,
        stderr: Stdio = subprocess.PIPE,
        executable: StrOrBytesPath | None = None,
        cwd: StrOrBytesPath | None = None,
        env: Env | None = None,
        close_fds: bool = True,
        pass_fds: Iterable[int] = (),
        start_new_session: bool = False,
        process_group: int | None = None,
        umask: int = -1,
        restore_signals: bool = True,
        pipesize: int = -1,
        spawn_timeout: SupportsFloat | None = None,
        startupinfo: None = None,
        creationflags: int = 0,
        user: None = None,
        group: None = None,
        extra_groups: None = None,
        preexec_fn: None = None,
        shell: bool = False,
        text: Literal[False] | None = None,
        encoding: None = None,
        errors: None = None,
        universal_newlines: Literal[False] = False,
        bufsize: Literal[0] = 0,
    ) -> tuple[SubprocessTransport, _ProtocolT]:
        """Start a program for a protocol; see aiovfork.subprocess_exec."""
        # fmt: off
        asked = (  # tools/signatures.py
            executable, cwd, env, close_fds, pass_fds, start_new_session, process_group, umask,
            restore_signals, pipesize, spawn_timeout, startupinfo, creationflags, user, group, extra_groups,
            preexec_fn, shell, text, encoding, errors, universal_newlines, bufsize,
        )
        # fmt: on
        options = checked(asked, in_shell=False)
        command = Command((program, *args), stdin, stdout, stderr, options)
        return await spawn(self, protocol_factory, command)

    async def subprocess_shell(  # type: ignore[override]  # likewise
        self,
        protocol_factory: Callable[[], _ProtocolT],
        cmd: str | bytes,
        *,
        stdin: Stdio = subprocess.PIPE,
        stdout: Stdio = subprocess.PIPE,
        stderr: Stdio = subprocess.PIPE,
        executable: StrOrBytesPath | None = None,
        cwd: StrOrBytesPath | None = None,
        env: Env | None = None,
        close_fds: bool = True,
        pass_fds: Iterable[int] = (),
        start_new_session: bool = False,
        process_group: int | None = None,
        umask: int = -1,
        restore_signals: bool = True,
        pipesize: int = -1,
        spawn_timeout: SupportsFloat | None = None,
        startupinfo: None = None,
        creationflags: int = 0,
        user: None = None,
        group: None = None,
        extra_groups: None = None,
        preexec_fn: None = None,
        shell: bool = True,
        text: Literal[False] | None = None,
        encoding: None = None,
        errors: None = None,
        universal_newlines: Literal[False] = False,
        bufsize: Literal[0] = 0,
    ) -> tuple[SubprocessTransport, _ProtocolT]:
        """Run a command with /bin/sh -c for a protocol; see aiovfork.subprocess_shell."""
        # fmt: off
        asked = (  # tools/signatures.py
            executable, cwd, env, close_fds, pass_fds, start_new_session, process_group, umask,
            restore_signals, pipesize, spawn_timeout, startupinfo, creationflags, user, group, extra_groups,
            preexec_fn, shell, text, encoding, errors, universal_newlines, bufsize,
        )
        # fmt: on
        options = checked(asked, in_shell=True)
        command = shell_command(cmd, stdin, stdout, stderr, options)
        return await spawn(self, protocol_factory, command)

    def run_forever(self) -> None:
        """Run until stop() is called.

        Also what run_until_complete() runs. The descriptors that report on children are opened here, not at
        the first spawn: to whoever counts descriptors around one, they would look like a leak.
        """
        with contextlib.suppress(OSError):  # the first spawn says it, if it comes to that
            port_of(self)
        super().run_forever()

    def close(self) -> None:
        """Close the loop. Children that still run are killed, and reaped without blocking.

        Nobody could wait for them any more. asyncio kills them too, but only when their transports are
        collected, and where they have pipes that fails with "Event loop is closed".
        """
        close_port_of(self)
        super().close()


class EventLoop(SubprocessLoopMixin, asyncio.SelectorEventLoop):  # type: ignore[misc]  # likewise
    """asyncio's event loop, with children started by aiovfork."""


def new_event_loop() -> EventLoop:
    """Return a new EventLoop; a loop factory for asyncio.Runner, asyncio.run and servers."""
    return EventLoop()


def new_uvloop_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new uvloop.Loop with children started by aiovfork; a loop factory, as new_event_loop.

    Raises:
        ImportError: uvloop is not installed. Nothing else of aiovfork imports it.
    """
    return new_loop(SubprocessLoopMixin)


def install(loop: asyncio.AbstractEventLoop | None = None) -> Installation:
    """Make a loop that exists already start its children with aiovfork: the running one, unless given.

    Where you can choose the loop, use new_event_loop or the mixin instead. Until the returned Installation is
    undone, or the loop closed, the loop does what SubprocessLoopMixin describes, close() included. Installing
    again does nothing more: the loop is itself again when each Installation has been undone. What the loop's
    own class makes of subprocess_exec and subprocess_shell is not called meanwhile.

    Call it on the loop's thread.

    Raises:
        RuntimeError: No loop is running, or it is closed.
        TypeError: This is no event loop.
    """
    if loop is None:
        loop = asyncio.get_running_loop()
    if not isinstance(loop, asyncio.AbstractEventLoop):
        raise TypeError(f"loop must be an asyncio event loop, not {type(loop).__name__!r}")
    if loop.is_closed():
        raise RuntimeError("Event loop is closed")
    if isinstance(loop, SubprocessLoopMixin):
        return Installation(None)
    plug: _Plug | None = getattr(loop, _PLUG, None)
    if plug is None:
        plug = _Plug(loop)
    plug.holders += 1
    return Installation(plug)


class Installation:
    """What install() has done to a loop. As a context manager, it is undone at the end of the block."""

    def __init__(self, plug: _Plug | None) -> None:
        self._plug = plug

    def undo(self) -> None:
        """Give the loop its own methods back, unless another Installation still holds it. Idempotent.

        Children that run already are not affected. A method that somebody else has replaced since stays
        theirs.
        """
        plug, self._plug = self._plug, None
        if plug is not None:
            plug.holders -= 1
            if not plug.holders:
                plug.pull()

    def __enter__(self) -> Self:
        """Return the installation."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Undo it."""
        self.undo()


class _Plug:
    """The mixin's methods on an instance: bound to it, and laid over whatever it had."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.holders = 0
        self._loop = loop
        self._close = loop.close
        self._methods: dict[str, Any] = {
            "subprocess_exec": types.MethodType(SubprocessLoopMixin.subprocess_exec, loop),
            "subprocess_shell": types.MethodType(SubprocessLoopMixin.subprocess_shell, loop),
            "close": self.close,
            _PLUG: self,
        }
        attributes = vars(loop)
        self._before = {name: attributes[name] for name in self._methods if name in attributes}
        attributes.update(self._methods)

    def close(self) -> None:
        """As SubprocessLoopMixin.close."""
        close_port_of(self._loop)
        self._close()
        self.pull()

    def pull(self) -> None:
        """Take the methods off; idempotent."""
        attributes = vars(self._loop)
        for name, method in self._methods.items():
            if attributes.get(name) is not method:  # somebody else's by now
                continue
            if name in self._before:
                attributes[name] = self._before[name]
            else:
                del attributes[name]
        self._methods = {}
