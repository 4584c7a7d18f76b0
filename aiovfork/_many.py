"""run_many(): many programs, some at a time.

Layer: above run(). Thread: that of a running loop.
"""

from __future__ import annotations

import asyncio
import collections
import functools
import itertools
import operator
import signal as signals
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
from typing import Any, Literal, Required, SupportsFloat, TypeAlias, Unpack, overload

from aiovfork._capture import Input
from aiovfork._checks import grouped, readable_again
from aiovfork._identity import Capabilities
from aiovfork._members import Tree
from aiovfork._options import CHILD_OPTIONS, Descriptor, Env, Stdio, StrOrBytesPath
from aiovfork._outcome import Completed
from aiovfork._outlasting import outlast
from aiovfork._ptmx import session_of
from aiovfork._pty import Pty, pty_of
from aiovfork._run import run
from aiovfork._terms import TERMS, OnCancel, OnLimit, OutputOptions, RunOptions, agreed, stdin_of


class RunCommand(RunOptions, total=False):
    """A command of run_many() with keywords of its own, which take the place of the common ones.

    Attributes:
        args: The program and its arguments.
    """

    args: Required[Sequence[StrOrBytesPath]]


_Command: TypeAlias = Sequence[StrOrBytesPath] | RunCommand
Commands: TypeAlias = Iterable[_Command] | AsyncIterable[_Command]


@overload
def run_many(
    commands: Commands,
    *,
    limit: int,
    ordered: bool = True,
    return_exceptions: Literal[False] = False,
    encoding: None = None,
    **options: Unpack[OutputOptions],
) -> AsyncGenerator[Completed[bytes], None]: ...
@overload
def run_many(
    commands: Commands,
    *,
    limit: int,
    ordered: bool = True,
    return_exceptions: Literal[True],
    encoding: None = None,
    **options: Unpack[OutputOptions],
) -> AsyncGenerator[Completed[bytes] | Exception, None]: ...
@overload
def run_many(
    commands: Commands,
    *,
    limit: int,
    ordered: bool = True,
    return_exceptions: Literal[False] = False,
    encoding: str,
    **options: Unpack[OutputOptions],
) -> AsyncGenerator[Completed[str], None]: ...
@overload
def run_many(
    commands: Commands,
    *,
    limit: int,
    ordered: bool = True,
    return_exceptions: Literal[True],
    encoding: str,
    **options: Unpack[OutputOptions],
) -> AsyncGenerator[Completed[str] | Exception, None]: ...
@overload
def run_many(
    commands: Commands,
    *,
    limit: int,
    ordered: bool = True,
    return_exceptions: bool = False,
    encoding: str | None,
    **options: Unpack[OutputOptions],
) -> AsyncGenerator[Any, None]: ...
def run_many(  # noqa: D417  # the options are described once, at RunOptions and SpawnOptions
    commands: Commands,
    *,
    limit: int,
    ordered: bool = True,
    return_exceptions: bool = False,
    input: Input | str | None = None,  # noqa: A002  # as run
    timeout: SupportsFloat | None = None,
    check: bool = True,
    encoding: str | None = None,
    errors: str = "strict",
    stdin: Stdio = DEVNULL,
    stdout: Stdio = PIPE,
    stderr: Stdio = PIPE,
    max_output: int | None = None,
    on_limit: OnLimit = "raise",
    stop_signal: int = signals.SIGTERM,
    patience: SupportsFloat = 5.0,
    tree: Tree | None = "group",
    on_cancel: OnCancel = "stop",
    drain_timeout: SupportsFloat | None = 0.5,
    pty: bool | Pty = False,
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
) -> AsyncGenerator[Any, None]:
    """Run many programs, at most limit at a time, and iterate over what they come to.

    >>> commands = [("gzip", "-9", name) for name in names]
    >>> async with contextlib.aclosing(aiovfork.run_many(commands, limit=8)) as results:
    ...     async for done in results:
    ...         print(done.index, done.returncode)

    Commands are taken from the iterable when there is a place for them, so there may be any number. At most
    limit programs run at a time, and at most limit results wait to be asked for: then no program is started
    until one is.

    The first exception ends the programs that run, as a cancellation of run() does, and is raised, though the
    turn of its command may not have come. So does leaving the loop early: with contextlib.aclosing() at
    once, else as soon as the loop finds that nobody has the generator any more.

    Args:
        commands: The commands, each a sequence of the program and its arguments, or a RunCommand, which is a
            dict with args and any keywords of run(). An asynchronous iterable will do, too.
        limit: How many programs may run at a time.
        ordered: Whether results come in the order of the commands; else as they are ready.
        return_exceptions: Whether exceptions of run() are results, like others; each has the attribute index.

    The other keywords are those of run(), for all commands.

    Returns:
        An asynchronous generator of Completed; `index` is the place of the command, from 0.

    Raises:
        ValueError, TypeError, LookupError: An argument that cannot be had, at the call. The values of some
            options, such as user and rlimits, are looked at only when a program is started.

    While it is iterated over it raises what run() raises, and what the iterable raises.
    """
    if operator.index(limit) < 1:
        raise ValueError(f"limit must be positive, not {limit!r}")
    if isinstance(commands, (str, bytes, Mapping)) or not isinstance(commands, (AsyncIterable, Iterable)):
        raise TypeError(f"commands must be an iterable of commands, not {type(commands).__name__}")
    # fmt: off
    asked = (  # tools/signatures.py
        executable, cwd, env, close_fds, pass_fds, start_new_session, process_group, umask, restore_signals,
        pipesize, spawn_timeout, user, group, extra_groups, rlimits, nice, cpu_affinity, scheduler,
        io_priority, oom_score_adj, pdeathsig, no_new_privs, signal_mask, default_signals, ignored_signals,
        chroot, cgroup, controlling_tty, foreground, fd_map, listen_fds, capabilities, unshare, best_effort,
    )
    # fmt: on
    common: dict[str, Any] = {
        "input": input,
        "timeout": timeout,
        "check": check,
        "encoding": encoding,
        "errors": errors,
        "stdin": stdin,
        "stdout": stdout,
        "stderr": stderr,
        "max_output": max_output,
        "on_limit": on_limit,
        "stop_signal": stop_signal,
        "patience": patience,
        "tree": tree,
        "on_cancel": on_cancel,
        "drain_timeout": drain_timeout,
        "pty": pty,
        **dict(zip(CHILD_OPTIONS, readable_again(asked), strict=True)),
    }
    spawn = session_of(grouped(tuple(common[name] for name in CHILD_OPTIONS), in_shell=False), pty_of(pty))
    stdin_of(stdin, input, agreed(tuple(common[name] for name in TERMS), spawn))
    return _Many(operator.index(limit), ordered, common).results(commands, return_exceptions)


class _Many:
    """One iteration: a feeder, which is a task, starts a task for each command."""

    _abandoned = False

    def __init__(self, limit: int, ordered: bool, common: dict[str, Any]) -> None:
        self._limit = limit
        self._ordered = ordered
        self._common = common
        self._running: set[asyncio.Task[Any]] = set()
        # In the order in which they are returned: of the commands, or of the ends.
        self._queue: collections.deque[asyncio.Task[Any]] = collections.deque()
        self._failed: list[asyncio.Task[Any]] = []
        self._waiters: list[asyncio.Future[None]] = []

    async def results(self, commands: Commands, return_exceptions: bool) -> AsyncGenerator[Any, None]:
        """Return results until there are no more."""
        loop = asyncio.get_running_loop()
        feeder = loop.create_task(self._feed(commands))
        feeder.add_done_callback(self._over)
        try:
            while True:
                while self._queue and self._queue[0].done():
                    task = self._queue.popleft()
                    self._wake()
                    exc = None if task.cancelled() else task.exception()
                    yield exc if return_exceptions and isinstance(exc, Exception) else task.result()
                for failed in self._failed:
                    if failed is feeder or not return_exceptions:
                        failed.result()
                self._failed.clear()
                if feeder.done() and not self._queue and not self._running:
                    feeder.result()  # it may have failed since
                    return
                await self._news(feeder)
        finally:
            if not self._abandoned and not loop.is_closed():
                await self._end(feeder)

    async def _feed(self, commands: Commands) -> None:
        """Start commands while there is room for them."""
        number = itertools.count()
        if isinstance(commands, AsyncIterable):
            async for command in commands:
                await self._put(command, next(number))
        else:
            for command in commands:
                await self._put(command, next(number))

    async def _put(self, command: _Command, index: int) -> None:
        """Start a command, and wait until there is room for the next one."""
        self._start(_call(command, self._common), index)
        while not self._has_room():
            await self._changed()

    def _has_room(self) -> bool:
        running = len(self._running)
        waiting = len(self._queue) if self._ordered else len(self._queue) + running
        return running < self._limit and waiting <= self._limit

    def _start(self, call: tuple[Any, dict[str, Any]], index: int) -> None:
        task = asyncio.get_running_loop().create_task(_one(call, index))
        self._running.add(task)
        if self._ordered:
            self._queue.append(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[Any]) -> None:
        if task in self._running:
            self._running.discard(task)
            if not self._ordered:
                self._queue.append(task)
        if task.cancelled() or task.exception() is not None:
            self._failed.append(task)
        self._wake()

    def _wake(self, _: object = None) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _changed(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    async def _news(self, feeder: asyncio.Task[None]) -> None:
        """Wait for a change. Before Python 3.13 it alone hears of it when the task is destroyed."""
        try:
            await self._changed()
        except GeneratorExit:  # nobody is there to wait
            self._abandon(feeder)
            raise

    async def _end(self, feeder: asyncio.Task[None]) -> None:
        """Cancel what runs, and wait for it; each further cancellation is passed on."""
        left = {feeder, *self._running, *self._queue}
        _cancel(left)
        try:
            cancelled = await outlast(left, sys.exception(), functools.partial(_cancel, left))
        except GeneratorExit:  # as in _news()
            self._abandon(feeder)
            raise
        for task in left:
            if not task.cancelled():
                task.exception()  # heard of: no "never retrieved"
        if cancelled is not None:
            raise cancelled

    def _abandon(self, feeder: asyncio.Task[None]) -> None:
        """End what runs, without waiting for it: the second cancellation, one round later, kills."""
        self._abandoned = True
        if feeder.get_loop().is_closed():
            return  # its tasks go with it, and kill then
        left = {feeder, *self._running}
        _cancel(left)
        feeder.get_loop().call_soon(_cancel, left)


def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()


def _call(command: Any, common: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the arguments and keywords of a call of run()."""
    if isinstance(command, Mapping):
        own = dict(command)
        if "args" not in own:
            raise TypeError("a command that is a dict needs args")
        args = own.pop("args")
        common = {**common, **own}
    else:
        args = command
    if isinstance(args, (str, bytes)) or not isinstance(args, Sequence):
        raise TypeError(f"a command must be a sequence of arguments or a dict, not {command!r}")
    return args, common


async def _one(call: tuple[Any, dict[str, Any]], index: int) -> Completed[Any]:
    args, options = call
    try:
        done: Completed[Any] = await run(*args, **options)
    except Exception as exc:
        exc.index = index  # type: ignore[attr-defined]  # documented
        raise
    done.index = index
    return done
