"""Plugging into event loops: a mixin, and loops that have it.

asyncio.create_subprocess_exec, anyio and whatever is built on them ask the loop for a child: overriding two
methods of the loop serves them all. No policy, and nothing of asyncio's modules is patched.

Layer: above the API. Thread: the loop's.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal, SupportsFloat, TypeVar

from aiovfork._checks import checked
from aiovfork._identity import Capabilities
from aiovfork._native import Unsupported, agreed, note_native_call, options_for_native
from aiovfork._options import Command, Descriptor, Env, Stdio, StrOrBytesPath
from aiovfork._ports import close_port_of, port_of
from aiovfork._starting import shell_command, spawn
from aiovfork._transport import SubprocessTransport
from aiovfork._uvloop import new_loop

_ProtocolT = TypeVar("_ProtocolT", bound=asyncio.SubprocessProtocol)

# Attributes that install() sets on a loop: its plug, and the number of Installations that want "native".
PLUG: Final = "_aiovfork_plug"
NATIVE: Final = "_aiovfork_native"


class SubprocessLoopMixin(asyncio.AbstractEventLoop):
    """Makes an event loop start its children with aiovfork.

    Put it before the class of the loop: `class Loop(aiovfork.SubprocessLoopMixin, uvloop.Loop): ...`.
    The loop needs add_reader and add_writer, which asyncio's loops on Linux have.

    Attributes:
        unsupported: What becomes of a call that aiovfork refuses and the loop's own implementation takes: one
            with preexec_fn. "refuse": it is a ValueError. "native": the loop's own implementation starts the
            child, by a fork of the whole process on the loop's thread. Each such call is counted in
            Stats.native, and the first one of each line of code gets a RuntimeWarning. The child is the
            loop's own: its transport is not aiovfork's, close() of the loop does not end it if the loop's own
            close() does not, and on_event() does not see it. aiovfork's own functions always refuse.
    """

    unsupported: Unsupported = "refuse"

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Refuse a class whose attribute unsupported has a value that means nothing."""
        super().__init_subclass__(**arguments)
        agreed(cls.unsupported)

    async def subprocess_exec(  # type: ignore[override]  # typeshed's spells each refused option out
        self,
        protocol_factory: Callable[[], _ProtocolT],
        program: StrOrBytesPath,
        *args: StrOrBytesPath,
        stdin: Stdio = subprocess.PIPE,
        stdout: Stdio = subprocess.PIPE,
        stderr: Stdio = subprocess.PIPE,
        executable: StrOrBytesPath | None = None,
        cwd: StrOrBytesPath | int | None = None,
        env: Env | None = None,
        close_fds: bool = True,
        pass_fds: Iterable[int] = (),
        start_new_session: bool = False,
        process_group: int | None = None,
        umask: int = -1,
        restore_signals: bool = True,
        pipesize: int = -1,
        spawn_timeout: SupportsFloat | None = None,
        user: str | int | None = None,
        group: str | int | None = None,
        extra_groups: Iterable[str | int] | None = None,
        rlimits: Mapping[int, int | tuple[int, int]] | None = None,
        nice: int = 0,
        cpu_affinity: Iterable[int] | None = None,
        scheduler: int | tuple[int, int] | None = None,
        io_priority: int | tuple[int, int] | None = None,
        oom_score_adj: int | None = None,
        pdeathsig: int | None = None,
        no_new_privs: bool = False,
        signal_mask: Iterable[int] | None = None,
        default_signals: Iterable[int] = (),
        ignored_signals: Iterable[int] = (),
        chroot: StrOrBytesPath | None = None,
        cgroup: StrOrBytesPath | int | None = None,
        controlling_tty: int | None = None,
        foreground: bool = False,
        fd_map: Mapping[int, Descriptor] | None = None,
        listen_fds: Iterable[Descriptor] | Mapping[str, Descriptor] = (),
        capabilities: Capabilities | None = None,
        unshare: int = 0,
        best_effort: Iterable[str] = (),
        startupinfo: None = None,
        creationflags: int = 0,
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
            restore_signals, pipesize, spawn_timeout, user, group, extra_groups, rlimits, nice, cpu_affinity,
            scheduler, io_priority, oom_score_adj, pdeathsig, no_new_privs, signal_mask, default_signals,
            ignored_signals, chroot, cgroup, controlling_tty, foreground, fd_map, listen_fds, capabilities,
            unshare, best_effort, startupinfo, creationflags, preexec_fn, shell, text, encoding, errors,
            universal_newlines, bufsize,
        )
        # fmt: on
        if preexec_fn is not None and _hands_over(self):
            native = _own(self, "subprocess_exec")
            kept = options_for_native(asked, in_shell=False)
            note_native_call("subprocess_exec", preexec_fn)
            started: tuple[Any, _ProtocolT] = await native(
                protocol_factory, program, *args, stdin=stdin, stdout=stdout, stderr=stderr, **kept
            )
            return started
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
        cwd: StrOrBytesPath | int | None = None,
        env: Env | None = None,
        close_fds: bool = True,
        pass_fds: Iterable[int] = (),
        start_new_session: bool = False,
        process_group: int | None = None,
        umask: int = -1,
        restore_signals: bool = True,
        pipesize: int = -1,
        spawn_timeout: SupportsFloat | None = None,
        user: str | int | None = None,
        group: str | int | None = None,
        extra_groups: Iterable[str | int] | None = None,
        rlimits: Mapping[int, int | tuple[int, int]] | None = None,
        nice: int = 0,
        cpu_affinity: Iterable[int] | None = None,
        scheduler: int | tuple[int, int] | None = None,
        io_priority: int | tuple[int, int] | None = None,
        oom_score_adj: int | None = None,
        pdeathsig: int | None = None,
        no_new_privs: bool = False,
        signal_mask: Iterable[int] | None = None,
        default_signals: Iterable[int] = (),
        ignored_signals: Iterable[int] = (),
        chroot: StrOrBytesPath | None = None,
        cgroup: StrOrBytesPath | int | None = None,
        controlling_tty: int | None = None,
        foreground: bool = False,
        fd_map: Mapping[int, Descriptor] | None = None,
        listen_fds: Iterable[Descriptor] | Mapping[str, Descriptor] = (),
        capabilities: Capabilities | None = None,
        unshare: int = 0,
        best_effort: Iterable[str] = (),
        startupinfo: None = None,
        creationflags: int = 0,
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
            restore_signals, pipesize, spawn_timeout, user, group, extra_groups, rlimits, nice, cpu_affinity,
            scheduler, io_priority, oom_score_adj, pdeathsig, no_new_privs, signal_mask, default_signals,
            ignored_signals, chroot, cgroup, controlling_tty, foreground, fd_map, listen_fds, capabilities,
            unshare, best_effort, startupinfo, creationflags, preexec_fn, shell, text, encoding, errors,
            universal_newlines, bufsize,
        )
        # fmt: on
        if preexec_fn is not None and _hands_over(self):
            native = _own(self, "subprocess_shell")
            kept = options_for_native(asked, in_shell=True)
            note_native_call("subprocess_shell", preexec_fn)
            started: tuple[Any, _ProtocolT] = await native(
                protocol_factory, cmd, stdin=stdin, stdout=stdout, stderr=stderr, **kept
            )
            return started
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


def new_event_loop(*, unsupported: Unsupported = "refuse") -> EventLoop:
    """Return a new EventLoop; a loop factory for asyncio.Runner, asyncio.run and servers.

    Args:
        unsupported: What becomes of calls with preexec_fn, see SubprocessLoopMixin.

    Raises:
        ValueError: A wrong value of unsupported.
    """
    agreed(unsupported)
    loop = EventLoop()
    loop.unsupported = unsupported
    return loop


def new_uvloop_event_loop(*, unsupported: Unsupported = "refuse") -> asyncio.AbstractEventLoop:
    """Return a new uvloop.Loop with children started by aiovfork; a loop factory, as new_event_loop.

    Raises:
        ImportError: uvloop is not installed. Nothing else of aiovfork imports it.
        ValueError: A wrong value of unsupported.
    """
    agreed(unsupported)
    loop: Any = new_loop(SubprocessLoopMixin)
    loop.unsupported = unsupported
    made: asyncio.AbstractEventLoop = loop
    return made


def _hands_over(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the loop's own implementation gets what aiovfork refuses."""
    if isinstance(loop, SubprocessLoopMixin) and agreed(loop.unsupported) == "native":
        return True
    return bool(getattr(loop, NATIVE, 0))


def _own(loop: asyncio.AbstractEventLoop, method: str) -> Any:
    """Return what the loop itself makes of a method."""
    if isinstance(loop, SubprocessLoopMixin):
        return getattr(super(SubprocessLoopMixin, loop), method)
    plug = getattr(loop, PLUG, None)
    return getattr(loop, method) if plug is None else plug.own[method]  # without a plug it is its own again
