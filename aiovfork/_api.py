"""The public functions that start a child.

Layer: above the start. Thread: that of a running loop.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, SupportsFloat, TypeVar

from aiovfork._checks import checked
from aiovfork._identity import Capabilities
from aiovfork._options import Command, Descriptor, Env, Stdio, StrOrBytesPath
from aiovfork._process import Process
from aiovfork._ptmx import session_of, with_pty
from aiovfork._pty import Pty, pty_of
from aiovfork._starting import LIMIT, create, shell_command, spawn
from aiovfork._transport import SubprocessTransport
from aiovfork._tree import OnCancel, Teardown, ending

_ProtocolT = TypeVar("_ProtocolT", bound=asyncio.SubprocessProtocol)


async def create_subprocess_exec(  # noqa: D417  # the options are described once, at SpawnOptions
    program: StrOrBytesPath,
    *args: StrOrBytesPath,
    stdin: Stdio = None,
    stdout: Stdio = None,
    stderr: Stdio = None,
    limit: int = LIMIT,
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
    teardown: Teardown | None = None,
    on_cancel: OnCancel | None = None,
    own_cgroup: bool = False,
    pty: bool | Pty = False,
) -> Process:
    """Start a program without stopping the loop. A drop-in for asyncio.create_subprocess_exec.

    Args:
        program: The program; looked up in the PATH of env if it has no slash.
        args: Its arguments, from argv[1] on.
        stdin: None (the caller's own), PIPE, DEVNULL, a descriptor or an object with fileno().
        stdout: As stdin.
        stderr: As stdin, or STDOUT.
        limit: Bytes that the StreamReader of stdout and stderr buffers (twice that at most).
        teardown: How `async with process:` ends the child and its descendants; None: it kills the child at
            once. With tree="group" the child leads a group of its own, unless start_new_session gives it one.
        on_cancel: What a cancelled communicate(), and a cancelled `async with process:`, does with the child
            and its descendants: "kill" at once, "stop" as teardown says, or "detach": leave them alone for
            good. None: communicate() leaves the child as it is, `async with` ends as ever.
        own_cgroup: Whether the child gets a cgroup (v2) of its own, for tree="cgroup": whoever descends from
            it is in there. It ends with the Process.
        pty: Whether the child runs on a terminal of its own, True or a Pty: it leads a session, the terminal
            is its controlling one, and its streams that are None here. `process.pty` is the other side.

    The other keywords are described at SpawnOptions, and in the reference.

    Raises:
        SpawnError: The spawn failed. It is a FileNotFoundError, PermissionError, ... too, with errno, and
            with filename where the program (exec) or cwd (chdir) was the reason; `exc.step` names the step.
        TimeoutError: A SpawnError too. The program did not run within spawn_timeout seconds; the child was
            killed.
        ValueError: A NUL in an argument or in env, or an option that cannot be had.
        TypeError: An argument of a wrong type.

    Cancellation: the child is killed and reaped, then CancelledError propagates.
    """
    # fmt: off
    asked = (  # tools/signatures.py
        executable, cwd, env, close_fds, pass_fds, start_new_session, process_group, umask, restore_signals,
        pipesize, spawn_timeout, user, group, extra_groups, rlimits, nice, cpu_affinity, scheduler,
        io_priority, oom_score_adj, pdeathsig, no_new_privs, signal_mask, default_signals, ignored_signals,
        chroot, cgroup, controlling_tty, foreground, fd_map, listen_fds, capabilities, unshare, best_effort,
        startupinfo, creationflags, preexec_fn, shell, text, encoding, errors, universal_newlines, bufsize,
    )
    # fmt: on
    options = checked(asked, in_shell=False)
    terminal = pty_of(pty)
    said, options = ending(teardown, on_cancel, own_cgroup, session_of(options, terminal))
    command = Command((program, *args), stdin, stdout, stderr, options)
    return await create(with_pty(command, terminal), limit, said)


async def create_subprocess_shell(
    cmd: str | bytes,
    stdin: Stdio = None,
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
    teardown: Teardown | None = None,
    on_cancel: OnCancel | None = None,
    own_cgroup: bool = False,
    pty: bool | Pty = False,
) -> Process:
    """Run a command with /bin/sh -c. A drop-in for asyncio.create_subprocess_shell.

    The caller is responsible for quoting (shlex.quote). Arguments, errors and cancellation are those of
    create_subprocess_exec; a command that the shell cannot find is not an error here but returncode 127.
    """
    # fmt: off
    asked = (  # tools/signatures.py
        executable, cwd, env, close_fds, pass_fds, start_new_session, process_group, umask, restore_signals,
        pipesize, spawn_timeout, user, group, extra_groups, rlimits, nice, cpu_affinity, scheduler,
        io_priority, oom_score_adj, pdeathsig, no_new_privs, signal_mask, default_signals, ignored_signals,
        chroot, cgroup, controlling_tty, foreground, fd_map, listen_fds, capabilities, unshare, best_effort,
        startupinfo, creationflags, preexec_fn, shell, text, encoding, errors, universal_newlines, bufsize,
    )
    # fmt: on
    options = checked(asked, in_shell=True)
    terminal = pty_of(pty)
    said, options = ending(teardown, on_cancel, own_cgroup, session_of(options, terminal))
    command = shell_command(cmd, stdin, stdout, stderr, options)
    return await create(with_pty(command, terminal), limit, said)


async def subprocess_exec(
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
    """Start a program for a protocol. As loop.subprocess_exec, on the running loop.

    Returns:
        (transport, protocol). Arguments, errors and cancellation are those of create_subprocess_exec.
    """
    # fmt: off
    asked = (  # tools/signatures.py
        executable, cwd, env, close_fds, pass_fds, start_new_session, process_group, umask, restore_signals,
        pipesize, spawn_timeout, user, group, extra_groups, rlimits, nice, cpu_affinity, scheduler,
        io_priority, oom_score_adj, pdeathsig, no_new_privs, signal_mask, default_signals, ignored_signals,
        chroot, cgroup, controlling_tty, foreground, fd_map, listen_fds, capabilities, unshare, best_effort,
        startupinfo, creationflags, preexec_fn, shell, text, encoding, errors, universal_newlines, bufsize,
    )
    # fmt: on
    options = checked(asked, in_shell=False)
    command = Command((program, *args), stdin, stdout, stderr, options)
    return await spawn(asyncio.get_running_loop(), protocol_factory, command)


async def subprocess_shell(
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
    """Run a command with /bin/sh -c for a protocol. As loop.subprocess_shell, on the running loop."""
    # fmt: off
    asked = (  # tools/signatures.py
        executable, cwd, env, close_fds, pass_fds, start_new_session, process_group, umask, restore_signals,
        pipesize, spawn_timeout, user, group, extra_groups, rlimits, nice, cpu_affinity, scheduler,
        io_priority, oom_score_adj, pdeathsig, no_new_privs, signal_mask, default_signals, ignored_signals,
        chroot, cgroup, controlling_tty, foreground, fd_map, listen_fds, capabilities, unshare, best_effort,
        startupinfo, creationflags, preexec_fn, shell, text, encoding, errors, universal_newlines, bufsize,
    )
    # fmt: on
    options = checked(asked, in_shell=True)
    command = shell_command(cmd, stdin, stdout, stderr, options)
    return await spawn(asyncio.get_running_loop(), protocol_factory, command)
