"""The public functions that start a child, and the same for a given loop, which _loops.py plugs into loops.

Layer: above transport and Process. Thread: that of a running loop.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from asyncio.log import logger
from collections.abc import Callable
from typing import Any, Final, TypeVar, Unpack

from aiovfork import _plan
from aiovfork._options import DEFAULT, NOT_GIVEN, Options, SpawnOptions, Stdio, StrOrBytesPath
from aiovfork._ports import port_of
from aiovfork._process import Process
from aiovfork._transport import SubprocessTransport

_ProtocolT = TypeVar("_ProtocolT", bound=asyncio.SubprocessProtocol)

_LIMIT: Final = 2**16
_SHELL: Final = "/bin/sh"
# asyncio's words for the log of debug mode.
_EXECUTE: Final = "execute program"
_SHELL_COMMAND: Final = "run shell command"


async def create_subprocess_exec(
    program: StrOrBytesPath,
    *args: StrOrBytesPath,
    stdin: Stdio = None,
    stdout: Stdio = None,
    stderr: Stdio = None,
    limit: int = _LIMIT,
    **options: Unpack[SpawnOptions],
) -> Process:
    """Start a program without stopping the loop. A drop-in for asyncio.create_subprocess_exec.

    Args:
        program: The program; looked up in the PATH of env if it has no slash.
        args: Its arguments, from argv[1] on.
        stdin: None (the caller's own), PIPE, DEVNULL, a descriptor or an object with fileno().
        stdout: As stdin.
        stderr: As stdin, or STDOUT.
        limit: Bytes that the StreamReader of stdout and stderr buffers (twice that at most).
        **options: See SpawnOptions and the reference.

    Raises:
        OSError: The spawn failed: FileNotFoundError, PermissionError, ... with errno, and filename where the
            program (exec) or cwd (chdir) was the reason; `exc.step` names the step.
        TimeoutError: The program did not run within spawn_timeout seconds; the child was killed.
        ValueError: A NUL in an argument or in env, or an option that cannot be had.
        TypeError: An argument of a wrong type.

    Cancellation: the child is killed and reaped, then CancelledError propagates.
    """
    chosen = _chosen(options)
    _check_exec(chosen)
    return await _create((program, *args), stdin, stdout, stderr, limit, chosen, _EXECUTE)


async def create_subprocess_shell(
    cmd: str | bytes,
    stdin: Stdio = None,
    stdout: Stdio = None,
    stderr: Stdio = None,
    limit: int = _LIMIT,
    **options: Unpack[SpawnOptions],
) -> Process:
    """Run a command with /bin/sh -c. A drop-in for asyncio.create_subprocess_shell.

    The caller is responsible for quoting (shlex.quote). Arguments, errors and cancellation are those of
    create_subprocess_exec; a command that the shell cannot find is not an error here but returncode 127.
    """
    chosen = _chosen(options)
    args = _shell_args(cmd, chosen)
    return await _create(args, stdin, stdout, stderr, limit, chosen, _SHELL_COMMAND)


async def subprocess_exec(
    protocol_factory: Callable[[], _ProtocolT],
    program: StrOrBytesPath,
    *args: StrOrBytesPath,
    stdin: Stdio = subprocess.PIPE,
    stdout: Stdio = subprocess.PIPE,
    stderr: Stdio = subprocess.PIPE,
    **options: Unpack[SpawnOptions],
) -> tuple[SubprocessTransport, _ProtocolT]:
    """Start a program for a protocol. As loop.subprocess_exec, on the running loop.

    Returns:
        (transport, protocol). Arguments, errors and cancellation are those of create_subprocess_exec.
    """
    loop = asyncio.get_running_loop()
    return await spawn_exec(loop, protocol_factory, (program, *args), stdin, stdout, stderr, options)


async def subprocess_shell(
    protocol_factory: Callable[[], _ProtocolT],
    cmd: str | bytes,
    *,
    stdin: Stdio = subprocess.PIPE,
    stdout: Stdio = subprocess.PIPE,
    stderr: Stdio = subprocess.PIPE,
    **options: Unpack[SpawnOptions],
) -> tuple[SubprocessTransport, _ProtocolT]:
    """Run a command with /bin/sh -c for a protocol. As loop.subprocess_shell, on the running loop."""
    loop = asyncio.get_running_loop()
    return await spawn_shell(loop, protocol_factory, cmd, stdin, stdout, stderr, options)


async def spawn_exec(
    loop: asyncio.AbstractEventLoop,
    protocol_factory: Callable[[], _ProtocolT],
    args: tuple[StrOrBytesPath, ...],
    stdin: Stdio,
    stdout: Stdio,
    stderr: Stdio,
    options: SpawnOptions,
) -> tuple[SubprocessTransport, _ProtocolT]:
    """Do subprocess_exec for this loop; args[0] is the program."""
    chosen = _chosen(options)
    _check_exec(chosen)
    protocol = protocol_factory()
    return await _spawn(loop, protocol, args, stdin, stdout, stderr, chosen, _EXECUTE), protocol


async def spawn_shell(
    loop: asyncio.AbstractEventLoop,
    protocol_factory: Callable[[], _ProtocolT],
    cmd: str | bytes,
    stdin: Stdio,
    stdout: Stdio,
    stderr: Stdio,
    options: SpawnOptions,
) -> tuple[SubprocessTransport, _ProtocolT]:
    """Do subprocess_shell for this loop."""
    chosen = _chosen(options)
    args = _shell_args(cmd, chosen)
    protocol = protocol_factory()
    return await _spawn(loop, protocol, args, stdin, stdout, stderr, chosen, _SHELL_COMMAND), protocol


def _chosen(options: SpawnOptions) -> Options:
    return Options(**options) if options else DEFAULT


def _check_exec(options: Options) -> None:
    if options.shell is not NOT_GIVEN and options.shell:
        raise ValueError("shell must be False")


def _shell_args(cmd: Any, options: Options) -> tuple[StrOrBytesPath, ...]:
    if not isinstance(cmd, (bytes, str)):
        raise ValueError("cmd must be a string")  # noqa: TRY004  # asyncio's type
    if not options.shell:
        raise ValueError("shell must be True")
    return (_SHELL if options.executable is None else options.executable, "-c", cmd)


async def _create(
    args: tuple[StrOrBytesPath, ...],
    stdin: Stdio,
    stdout: Stdio,
    stderr: Stdio,
    limit: int,
    options: Options,
    what: str,
) -> Process:
    loop = asyncio.get_running_loop()
    protocol = asyncio.subprocess.SubprocessStreamProtocol(limit=limit, loop=loop)
    transport = await _spawn(loop, protocol, args, stdin, stdout, stderr, options, what)
    return Process(transport, protocol, loop)


async def _spawn(
    loop: asyncio.AbstractEventLoop,
    protocol: asyncio.SubprocessProtocol,
    args: tuple[StrOrBytesPath, ...],
    stdin: Stdio,
    stdout: Stdio,
    stderr: Stdio,
    options: Options,
    what: str,
) -> SubprocessTransport:
    plan = _plan.build(args, stdin, stdout, stderr, options)
    if what is _SHELL_COMMAND:
        plan.popen_args = args[2]
    sys.audit("subprocess.Popen", plan.program, list(args), options.cwd, options.env)
    transport = SubprocessTransport(loop, port_of(loop), protocol, plan)
    if not loop.get_debug():
        await transport.start(options.spawn_timeout)
        return transport
    # The arguments may be long or secret: only the program, or the shell's command, is named.
    what = f"{what} {plan.called!r}"
    logger.debug("%s", " ".join([what, *_describe_stdio(stdin, stdout, stderr)]))
    await transport.start(options.spawn_timeout)
    logger.info("%s: %r", what, transport)
    return transport


def _describe_stdio(stdin: Stdio, stdout: Stdio, stderr: Stdio) -> list[str]:
    """As asyncio's _log_subprocess."""
    names = {subprocess.PIPE: "<pipe>", subprocess.STDOUT: "<stdout>"}
    shown = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
    if stdout is not None and stderr == subprocess.STDOUT:
        shown = {"stdin": stdin, "stdout=stderr": stdout}
    return [
        f"{name}={names.get(value, repr(value)) if isinstance(value, int) else repr(value)}"
        for name, value in shown.items()
        if value is not None
    ]
