"""supervise(): keeps one program running, and starts it again by a policy when it ends.

Each run of the program is a ProcessGroup of its own, in one task: so nothing of a run is left when the next
one begins, and to leave the block, however that happens, is to cancel that task.

Layer: above the process group. Thread: the loop's.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import operator
from asyncio.subprocess import DEVNULL
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, Self, SupportsFloat, TypeAlias, get_args

from aiovfork._checks import grouped, readable_again
from aiovfork._group import ProcessGroup
from aiovfork._identity import Capabilities
from aiovfork._options import CHILD_OPTIONS, Descriptor, Env, Stdio, StrOrBytesPath
from aiovfork._outlasting import outlast
from aiovfork._process import Process
from aiovfork._starting import LIMIT
from aiovfork._tree import Teardown, check_teardown

Restart: TypeAlias = Literal["always", "on-failure", "never"]

_BACKOFF: Final = (0.1, 30.0, 2.0)
_TEARDOWN: Final = Teardown()


Happening: TypeAlias = Literal["started", "ready", "exited", "failed", "waiting", "over"]


class SupervisorEvent(NamedTuple):
    """What has happened to a program that supervise() keeps running.

    Attributes:
        kind: "started": the program runs. "ready": it is ready. "exited": it has exited after that. "failed":
            it was not started, or has exited before it was ready, or `ready` has raised; it has been ended
            then, and error says why. "waiting": it is started again in `delay` seconds. "over": it is not.
        process: The process; None if there is none.
        error: Why it failed; else None.
        delay: Seconds until it is started again; else 0.
    """

    kind: Happening
    process: Process | None = None
    error: Exception | None = None
    delay: float = 0.0


class _Policy(NamedTuple):
    restart: Restart
    backoff: tuple[float, float, float]
    calm: float
    max_restarts: float


class Supervisor:
    """A program that is kept running while the block `async with aiovfork.supervise(...)` lasts.

    Attributes:
        process: The process that runs now, ready or not; None between two runs, and before and after all.
        restarts: How often the program has been started again, or was to be.
    """

    def __init__(
        self,
        start: Callable[[ProcessGroup], Awaitable[Process]],
        policy: _Policy,
        ready: Callable[[Process], object] | None,
        on_event: Callable[[SupervisorEvent], object] | None,
        teardown: Teardown,
    ) -> None:
        self.process: Process | None = None
        self.restarts = 0
        self._start = start
        self._policy = policy
        self._check = ready
        self._on_event = on_event
        self._teardown = teardown
        self._is_ready = self._is_over = False
        self._returncode: int | None = None
        self._error: Exception | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiters: list[asyncio.Future[None]] = []

    # ---- for the application ----

    async def ready(self) -> Process:
        """Wait until the program is ready, and return its process; after one round of the loop if it is.

        Raises:
            RuntimeError: It is not kept running: not yet, or not any more. The last failure is its __cause__.
        """
        await asyncio.sleep(0)  # who asks again and again must hear of the exit
        while True:
            process = self.process
            if process is not None and self._is_ready and process.returncode is None:
                return process
            if self._task is None or self._is_over:
                raise RuntimeError("the program is not kept running") from self._error
            await self._change()

    async def wait(self) -> int | None:
        """Wait until the program is not started any more, and return the return code of its last run.

        Raises:
            Exception: That run failed: the SpawnError, or what `ready` has raised.
        """
        while self._task is not None and not self._is_over:
            await self._change()
        if self._error is not None:
            raise self._error
        return self._returncode

    async def __aenter__(self) -> Self:
        """Begin to keep the program running. This does not wait until it runs: ready() does."""
        if self._task is not None:
            raise RuntimeError("a Supervisor can be entered once")
        self._task = asyncio.get_running_loop().create_task(self._keep())
        self._task.add_done_callback(self._over)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the program, and what it has started. A second cancellation kills."""
        assert self._task is not None
        if exc_type is GeneratorExit:  # the task was destroyed: nobody can wait; a closed loop has killed
            if not self._task.get_loop().is_closed():
                self._task.cancel()
            return
        self._task.cancel()
        cancelled = await outlast([self._task], exc, self._task.cancel)
        if cancelled is not None and (exc is None or isinstance(exc, Exception)):
            raise cancelled
        if exc is None and not self._task.cancelled():
            self._task.result()

    # ---- the task ----

    async def _keep(self) -> None:
        restart, (first, longest, factor), calm, most = self._policy
        loop = asyncio.get_running_loop()
        delay, in_a_row = first, 0
        while True:
            began = loop.time()
            failed = await self._run()
            if loop.time() - began >= calm:
                delay, in_a_row = first, 0
            if restart == "never" or (restart == "on-failure" and not failed) or in_a_row >= most:
                return
            self._tell("waiting", delay=delay)
            await asyncio.sleep(delay)
            delay = min(delay * factor, longest)
            in_a_row += 1
            self.restarts += 1

    async def _run(self) -> bool:
        """Run the program once; nothing of it is left then. Returns whether it has failed."""
        self._returncode = self._error = None
        try:
            async with ProcessGroup(teardown=self._teardown) as group:
                try:
                    self.process = process = await self._start(group)
                except OSError as exc:
                    self._error = exc
                else:
                    self._tell("started", process)
                    self._error = await self._until_ready(process)
                    if self._error is None:
                        self._is_ready = True
                        self._wake()
                        self._tell("ready", process)
                        await process.wait()
                    else:
                        await group.stop()
        finally:
            ended, self.process, self._is_ready = self.process, None, False
            self._returncode = None if ended is None else ended.returncode
        self._tell("exited" if self._error is None else "failed", ended, self._error)
        return self._error is not None or self._returncode != 0

    async def _until_ready(self, process: Process) -> Exception | None:
        """Ask whether the process is ready, and return why it is not."""
        try:
            answer = None if self._check is None else self._check(process)
            if inspect.isawaitable(answer):
                await _unless_exited(process, answer)
        except Exception as exc:  # noqa: BLE001  # of the application: it decides
            return exc
        return None

    def _over(self, task: asyncio.Task[None]) -> None:
        exc = None if task.cancelled() else task.exception()
        if isinstance(exc, Exception):
            self._error = exc
        self._is_over = True
        self._wake()
        self._tell("over", error=self._error)

    def _tell(
        self,
        kind: Happening,
        process: Process | None = None,
        error: Exception | None = None,
        delay: float = 0.0,
    ) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(SupervisorEvent(kind, process, error, delay))
        except Exception as exc:  # noqa: BLE001  # of the application: reported, and the program kept running
            asyncio.get_running_loop().call_exception_handler(
                {"message": "on_event of supervise() failed", "exception": exc}
            )

    async def _change(self) -> None:
        """Wait until the program is ready, or is not kept running any more."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            self._waiters.remove(waiter)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


async def _unless_exited(process: Process, answer: Awaitable[object]) -> None:
    """Wait for the answer, unless the process exits before."""
    check = asyncio.ensure_future(answer)
    end = asyncio.ensure_future(process.wait())
    try:
        await asyncio.wait((check, end), return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        await _cancelled(check, end)
        raise
    await _cancelled(check, end)
    if check.cancelled():
        raise RuntimeError(f"it was not ready when it ended with return code {process.returncode}")
    check.result()


async def _cancelled(*futures: asyncio.Future[Any]) -> None:
    for future in futures:
        future.cancel()
    await asyncio.wait(futures)


def supervise(  # noqa: D417  # the options are described once, at SpawnOptions
    program: StrOrBytesPath,
    *args: StrOrBytesPath,
    restart: Restart = "always",
    backoff: tuple[SupportsFloat, SupportsFloat, SupportsFloat] = _BACKOFF,
    calm: SupportsFloat = 10.0,
    max_restarts: int | None = None,
    ready: Callable[[Process], object] | None = None,
    on_event: Callable[[SupervisorEvent], object] | None = None,
    teardown: Teardown = _TEARDOWN,
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
) -> Supervisor:
    """Keep a program running: start it again when it ends.

    >>> async with aiovfork.supervise("helper", "--port", "8080", ready=answers) as helper:
    ...     process = await helper.ready()

    To leave the block, normally or not, ends the program and what it has started, as teardown says. The same
    is done with what a run of the program has left behind, before the next run.

    Args:
        program: The program; looked up in the PATH of env if it has no slash.
        args: Its arguments, from argv[1] on.
        restart: When it is started again: "always"; "on-failure": when it has failed; "never". It has failed
            if it could not be started, was not ready before it ended, or has a return code other than 0.
        backoff: Seconds until it is started again the first time, the most seconds, and the factor by which
            they grow from one restart to the next.
        calm: Seconds for which a run must have lasted, so that the backoff and the count of max_restarts
            begin again.
        max_restarts: How often in a row it is started again. None: any number of times.
        ready: Gets the process once the program runs. The program is ready when it returns, or when the
            awaitable that it returns is done. If it raises an Exception, the program is ended and has failed.
            It bounds its time itself. None: the program is ready once it runs.
        on_event: Gets a SupervisorEvent for all that happens. It is called on the loop's thread; what it
            raises goes to the loop's exception handler.
        teardown: How the program is ended, and what belongs to it.

    The other keywords are those of ProcessGroup.start().

    Returns:
        What `async with` begins, with `process`, `ready()`, `wait()`, `restarts`.

    Raises:
        ValueError: A wrong value of an argument.
        TypeError: An argument of a wrong type.
    """
    # fmt: off
    asked = (  # tools/signatures.py
        executable, cwd, env, close_fds, pass_fds, start_new_session, process_group, umask, restore_signals,
        pipesize, spawn_timeout, user, group, extra_groups, rlimits, nice, cpu_affinity, scheduler,
        io_priority, oom_score_adj, pdeathsig, no_new_privs, signal_mask, default_signals, ignored_signals,
        chroot, cgroup, controlling_tty, foreground, fd_map, listen_fds, capabilities, unshare, best_effort,
    )
    # fmt: on
    asked = readable_again(asked)
    grouped(asked, in_shell=False)  # wrong ones are refused here, not in each run
    options: dict[str, Any] = dict(zip(CHILD_OPTIONS, asked, strict=True))
    if restart not in get_args(Restart):
        raise ValueError(f"restart must be 'always', 'on-failure' or 'never', not {restart!r}")
    first, longest, factor = map(float, backoff)
    if not (0 <= first <= longest < math.inf and 1 <= factor < math.inf):
        raise ValueError(f"backoff must be (initial, maximum, factor >= 1), not {backoff!r}")
    if not float(calm) >= 0:
        raise ValueError(f"calm must not be negative: {calm!r}")
    if max_restarts is not None and operator.index(max_restarts) < 0:
        raise ValueError(f"max_restarts must not be negative: {max_restarts!r}")
    if operator.index(limit) <= 0:
        raise ValueError(f"limit must be positive: {limit!r}")
    check_teardown(teardown)
    for name, value in (("ready", ready), ("on_event", on_event)):
        if value is not None and not callable(value):
            raise TypeError(f"{name} must be callable, not {type(value).__name__}")
    policy = _Policy(
        restart, (first, longest, factor), float(calm), math.inf if max_restarts is None else max_restarts
    )

    def start(group: ProcessGroup) -> Awaitable[Process]:
        return group.start(program, *args, stdin=stdin, stdout=stdout, stderr=stderr, limit=limit, **options)

    return Supervisor(start, policy, ready, on_event, teardown)
