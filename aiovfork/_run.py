"""run() and run_shell(): a program from start to end, in one call.

Layer: above _running. Thread: that of a running loop.
"""

from __future__ import annotations

import signal as signals
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Iterable, Mapping
from typing import Any, SupportsFloat, Unpack, overload

from aiovfork._capture import Input
from aiovfork._checks import grouped
from aiovfork._identity import Capabilities
from aiovfork._members import Tree
from aiovfork._options import Command, Descriptor, Env, Stdio, StrOrBytesPath
from aiovfork._outcome import Completed
from aiovfork._ptmx import at_terminal, session_of
from aiovfork._pty import Pty, pty_of
from aiovfork._running import complete
from aiovfork._starting import shell_command
from aiovfork._terms import OnCancel, OnLimit, OutputOptions, agreed, stdin_of


@overload
async def run(
    program: StrOrBytesPath,
    *args: StrOrBytesPath,
    encoding: None = None,
    **options: Unpack[OutputOptions],
) -> Completed[bytes]: ...
@overload
async def run(
    program: StrOrBytesPath,
    *args: StrOrBytesPath,
    encoding: str,
    **options: Unpack[OutputOptions],
) -> Completed[str]: ...
@overload
async def run(
    program: StrOrBytesPath,
    *args: StrOrBytesPath,
    encoding: str | None,
    **options: Unpack[OutputOptions],
) -> Completed[Any]: ...
async def run(  # noqa: D417  # the options are described once, at RunOptions and SpawnOptions
    program: StrOrBytesPath,
    *args: StrOrBytesPath,
    input: Input | str | None = None,  # noqa: A002  # the name in subprocess.run()
    timeout: SupportsFloat | None = None,  # noqa: ASYNC109  # what is over is told with the output
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
) -> Completed[Any]:
    """Run a program to its end, and return what it wrote.

    >>> done = await aiovfork.run("git", "log", "--oneline", encoding="utf-8", timeout=10)
    >>> done.stdout

    The output is read by a thread of C: however much it is, the loop goes on. The program gets a process
    group of its own, with all that it starts. When the call is cancelled, or a time or a limit is over, the
    whole group is ended: stop_signal, and SIGKILL patience seconds later. Output until then is in the
    exception.

    At a terminal this means: Ctrl-C reaches your program alone, which cancels run(); and a program that reads
    the terminal is stopped by the kernel (SIGTTIN). For that give process_group=None and stdin=None; then the
    program stays in your group, and it alone is ended.

    A program that ends well may leave descendants: they live on. If one of them holds stdout or stderr, what
    it writes is read for drain_timeout seconds more, and the result says drained=False.

    Args:
        program: The program; looked up in the PATH of env if it has no slash.
        args: Its arguments, from argv[1] on.

    The other keywords are described at RunOptions and SpawnOptions, and in the reference.

    Raises:
        ProcessFailed: The return code is not 0, with check=True. What the program has left of its group was
            ended. It is a subprocess.CalledProcessError too.
        ProcessTimeout: The time is over, in the queue, in exec or later. It is a subprocess.TimeoutExpired
            and a TimeoutError too.
        OutputLimitExceeded: It wrote more than max_output bytes, with on_limit="raise".
        SpawnError: The program did not start, as with create_subprocess_exec. After spawn_timeout that is a
            TimeoutError too.
        UnicodeError: The output is not text of the encoding. Its attribute `completed` has the bytes.
        OSError: The output could not be read on, for want of memory. Its attribute `completed` has the rest.
        ValueError, TypeError, LookupError: An argument that cannot be had; nothing was started.

    Cancellation: nothing of the group is left when CancelledError propagates; its attribute `completed` has
    what is known. A second cancellation kills at once. With on_cancel="detach" the child goes on, even if the
    loop is closed; its stdin is closed, and what it writes is thrown away.
    """
    terminal = pty_of(pty)
    # fmt: off
    asked = (  # tools/signatures.py
        executable, cwd, env, close_fds, pass_fds, start_new_session, process_group, umask, restore_signals,
        pipesize, spawn_timeout, user, group, extra_groups, rlimits, nice, cpu_affinity, scheduler,
        io_priority, oom_score_adj, pdeathsig, no_new_privs, signal_mask, default_signals, ignored_signals,
        chroot, cgroup, controlling_tty, foreground, fd_map, listen_fds, capabilities, unshare, best_effort,
    )
    # fmt: on
    options = grouped(asked, in_shell=False)
    options = session_of(options, terminal)
    terms = agreed(
        (
            timeout,
            check,
            encoding,
            errors,
            max_output,
            on_limit,
            stop_signal,
            patience,
            tree,
            on_cancel,
            drain_timeout,
        ),
        options,
    )
    stdin, data = stdin_of(stdin, input, terms)
    command = Command((program, *args), stdin, stdout, stderr, options)
    return await complete(*at_terminal(command, data, terminal), terms)


@overload
async def run_shell(
    command: str | bytes,
    *,
    encoding: None = None,
    **options: Unpack[OutputOptions],
) -> Completed[bytes]: ...
@overload
async def run_shell(
    command: str | bytes,
    *,
    encoding: str,
    **options: Unpack[OutputOptions],
) -> Completed[str]: ...
@overload
async def run_shell(
    command: str | bytes,
    *,
    encoding: str | None,
    **options: Unpack[OutputOptions],
) -> Completed[Any]: ...
async def run_shell(
    command: str | bytes,
    *,
    input: Input | str | None = None,  # noqa: A002  # as run
    timeout: SupportsFloat | None = None,  # noqa: ASYNC109  # what is over is told with the output
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
) -> Completed[Any]:
    """Run a command with /bin/sh -c to its end, and return what it wrote.

    The caller is responsible for quoting (shlex.quote). The rest is as with run(): the whole group is ended,
    so no part of a pipeline outlives the shell. A command that the shell cannot find is return code 127.
    """
    terminal = pty_of(pty)
    # fmt: off
    asked = (  # tools/signatures.py
        executable, cwd, env, close_fds, pass_fds, start_new_session, process_group, umask, restore_signals,
        pipesize, spawn_timeout, user, group, extra_groups, rlimits, nice, cpu_affinity, scheduler,
        io_priority, oom_score_adj, pdeathsig, no_new_privs, signal_mask, default_signals, ignored_signals,
        chroot, cgroup, controlling_tty, foreground, fd_map, listen_fds, capabilities, unshare, best_effort,
    )
    # fmt: on
    options = grouped(asked, in_shell=True)
    options = session_of(options, terminal)
    terms = agreed(
        (
            timeout,
            check,
            encoding,
            errors,
            max_output,
            on_limit,
            stop_signal,
            patience,
            tree,
            on_cancel,
            drain_timeout,
        ),
        options,
    )
    stdin, data = stdin_of(stdin, input, terms)
    in_shell = shell_command(command, stdin, stdout, stderr, options)
    return await complete(*at_terminal(in_shell, data, terminal), terms)
