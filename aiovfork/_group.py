"""ProcessGroup: processes that end with a block of code, each with all that it has started.

Layer: above run(). Thread: the loop's.
"""

from __future__ import annotations

import asyncio
import operator
import signal as signals
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Self, SupportsFloat, Unpack, overload

from aiovfork._capture import Input
from aiovfork._checks import grouped
from aiovfork._identity import Capabilities
from aiovfork._options import Command, Descriptor, Env, Stdio, StrOrBytesPath
from aiovfork._outcome import Completed
from aiovfork._process import Process
from aiovfork._roster import Roster
from aiovfork._starting import LIMIT, shell_command
from aiovfork._terms import MemberOptions, OnLimit, agreed, stdin_of
from aiovfork._tree import Teardown, check_teardown, signal_number

_TEARDOWN: Final = Teardown()


class ProcessGroup:
    """Processes that end with a block of code, each with all that it has started.

    >>> async with aiovfork.ProcessGroup() as group:
    ...     server = await group.start("server", "--port", "8080")
    ...     await group.run("test-client")
    ...     await group.stop()

    At its end, the block waits for its processes, and then ends what they have left behind. A block that is
    left by an exception or a cancellation ends all at once, each process as teardown says. A second
    cancellation kills. Nothing that was started in the block outlives it, not even descendants of processes
    that have exited long since; but descendants that leave the process group escape, unless teardown has a
    larger tree.

    Each process leads a process group of its own, so a Ctrl-C at the terminal does not reach it; and only the
    terminal's foreground group may read from it, so stdin is DEVNULL by default.

    It belongs to one event loop, and to the thread of that.

    Args:
        limit: How many processes may live at once. A start beyond that waits until another one has exited;
            first come, first served. None: any number.
        teardown: How a process is ended, and what belongs to it.

    Raises:
        ValueError: limit is less than 1.
        TypeError: An argument of a wrong type.
    """

    def __init__(self, limit: int | None = None, teardown: Teardown = _TEARDOWN) -> None:
        if limit is not None and operator.index(limit) < 1:
            raise ValueError(f"limit must be positive or None, not {limit!r}")
        check_teardown(teardown)
        self._teardown = teardown
        self._roster = Roster(limit, teardown)
        self._entered = False

    async def start(
        self,
        program: StrOrBytesPath,
        *args: StrOrBytesPath,
        stdin: Stdio = DEVNULL,
        stdout: Stdio = None,
        stderr: Stdio = None,
        limit: int = LIMIT,
        executable: StrOrBytesPath | None = None,
        cwd: StrOrBytesPath | int | None = None,
        env: Env | None = None,
        close_fds: bool = True,
        pass_fds: Iterable[int] = (),
        start_new_session: bool = False,
        process_group: int | None = 0,
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
    ) -> Process:
        """Start a program; its process ends with the group. As create_subprocess_exec.

        With process_group=None the child stays in the caller's process group, and is ended alone.

        Cancellation: a start that waits for its turn gives it up. A child is killed and reaped.

        Raises:
            RuntimeError: The group is not entered yet, or is left, or was stopped meanwhile. There is no
                child then.
            SpawnError: The spawn failed. The group goes on without it.
        """
        # fmt: off
        asked = (  # tools/signatures.py
            executable, cwd, env, close_fds, pass_fds, start_new_session, process_group, umask,
            restore_signals, pipesize, spawn_timeout, user, group, extra_groups, rlimits, nice, cpu_affinity,
            scheduler, io_priority, oom_score_adj, pdeathsig, no_new_privs, signal_mask, default_signals,
            ignored_signals, chroot, cgroup, controlling_tty, foreground, fd_map, listen_fds, capabilities,
            unshare, best_effort,
        )
        # fmt: on
        options = grouped(asked, in_shell=False)
        return await self._roster.start(Command((program, *args), stdin, stdout, stderr, options), limit)

    async def start_shell(
        self,
        cmd: str | bytes,
        stdin: Stdio = DEVNULL,
        stdout: Stdio = None,
        stderr: Stdio = None,
        limit: int = LIMIT,
        *,
        executable: StrOrBytesPath | None = None,
        cwd: StrOrBytesPath | int | None = None,
        env: Env | None = None,
        close_fds: bool = True,
        pass_fds: Iterable[int] = (),
        start_new_session: bool = False,
        process_group: int | None = 0,
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
    ) -> Process:
        """Run a command with /bin/sh -c; all that the shell starts ends with the group. As start()."""
        # fmt: off
        asked = (  # tools/signatures.py
            executable, cwd, env, close_fds, pass_fds, start_new_session, process_group, umask,
            restore_signals, pipesize, spawn_timeout, user, group, extra_groups, rlimits, nice, cpu_affinity,
            scheduler, io_priority, oom_score_adj, pdeathsig, no_new_privs, signal_mask, default_signals,
            ignored_signals, chroot, cgroup, controlling_tty, foreground, fd_map, listen_fds, capabilities,
            unshare, best_effort,
        )
        # fmt: on
        options = grouped(asked, in_shell=True)
        return await self._roster.start(shell_command(cmd, stdin, stdout, stderr, options), limit)

    @overload
    async def run(
        self,
        program: StrOrBytesPath,
        *args: StrOrBytesPath,
        encoding: None = None,
        **options: Unpack[MemberOptions],
    ) -> Completed[bytes]: ...
    @overload
    async def run(
        self,
        program: StrOrBytesPath,
        *args: StrOrBytesPath,
        encoding: str,
        **options: Unpack[MemberOptions],
    ) -> Completed[str]: ...
    async def run(
        self,
        program: StrOrBytesPath,
        *args: StrOrBytesPath,
        input: Input | str | None = None,  # noqa: A002  # as run()
        timeout: SupportsFloat | None = None,  # noqa: ASYNC109  # as run()
        check: bool = True,
        encoding: str | None = None,
        errors: str = "strict",
        stdin: Stdio = DEVNULL,
        stdout: Stdio = PIPE,
        stderr: Stdio = PIPE,
        max_output: int | None = None,
        on_limit: OnLimit = "raise",
        drain_timeout: SupportsFloat | None = 0.5,
        executable: StrOrBytesPath | None = None,
        cwd: StrOrBytesPath | int | None = None,
        env: Env | None = None,
        close_fds: bool = True,
        pass_fds: Iterable[int] = (),
        start_new_session: bool = False,
        process_group: int | None = 0,
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
    ) -> Completed[Any]:
        """Run a program to its end, and return what it wrote. As aiovfork.run(), within limit and teardown.

        What the program has left behind is ended when this returns. If the group ends the program, this tells
        it as of a program that a signal has ended: by ProcessFailed, or with check=False by the return code.

        Cancellation: the program and what it has started is ended, as teardown says.

        Raises:
            RuntimeError: As start().
            Exception: What aiovfork.run() raises.
        """
        # fmt: off
        asked = (  # tools/signatures.py
            executable, cwd, env, close_fds, pass_fds, start_new_session, process_group, umask,
            restore_signals, pipesize, spawn_timeout, user, group, extra_groups, rlimits, nice, cpu_affinity,
            scheduler, io_priority, oom_score_adj, pdeathsig, no_new_privs, signal_mask, default_signals,
            ignored_signals, chroot, cgroup, controlling_tty, foreground, fd_map, listen_fds, capabilities,
            unshare, best_effort,
        )
        # fmt: on
        options = grouped(asked, in_shell=False)
        given = (
            timeout,
            check,
            encoding,
            errors,
            max_output,
            on_limit,
            # The teardown is that of the group, which also sees to it that there is such a tree.
            signals.SIGTERM,
            _TEARDOWN.patience,
            _TEARDOWN.tree,
            "stop",
        )
        terms = agreed((*given, drain_timeout), options)
        stdin, data = stdin_of(stdin, input, terms)
        return await self._roster.run(Command((program, *args), stdin, stdout, stderr, options), data, terms)

    def __iter__(self) -> Iterator[Process]:
        """Iterate over the processes that have not exited, in the order of their starts."""
        return iter(self._roster)

    def signal(self, sig: int) -> None:
        """Signal all living processes, each with its process group; one that has just exited is no error.

        Raises:
            ValueError: There is no such signal.
        """
        self._roster.signal(signal_number(sig))

    async def stop(self) -> None:
        """End all processes and what they have left behind, all at once; the group stays open.

        A start under way is abandoned: it raises RuntimeError. One that waits for its turn goes on.

        Cancellation: they are killed at once; when they are gone, CancelledError propagates.
        """
        cancelled = await self._roster.end(None)
        if cancelled is not None:
            raise cancelled

    async def __aenter__(self) -> Self:
        """Open the group."""
        if self._entered:
            raise RuntimeError("a ProcessGroup can be entered once")
        self._entered = True
        self._roster.open()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for the processes, or end them after an exception; then end what they have left behind."""
        cancelled: BaseException | None = None
        try:
            if exc is None:
                try:
                    await self._roster.wait_empty()
                except asyncio.CancelledError as caught:
                    cancelled = caught
            elif isinstance(exc, GeneratorExit):
                raise exc
            self._roster.close()
            cancelled = await self._roster.end(exc or cancelled) or cancelled
        except GeneratorExit:  # the task was destroyed: no loop is there to wait in
            self._roster.destroy()
            raise
        if cancelled is not None and (exc is None or isinstance(exc, Exception)):
            raise cancelled
