"""The start of a child that has a transport: for the running loop, or a given one, as _loops.py needs it.

Layer: above transport and Process, below the public functions. Thread: that of a running loop.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

from aiovfork import _plan
from aiovfork._cgroup import Cgroup
from aiovfork._cgroup import own_cgroup as own_cgroup_of
from aiovfork._compat import StreamProtocol, logger
from aiovfork._options import Command, Options, Stdio
from aiovfork._ports import port_of
from aiovfork._process import Process
from aiovfork._ptmx import SLAVE, Ends, on_terminal, open_terminal
from aiovfork._slow import log_if_slow, under_way
from aiovfork._terminal import Terminal
from aiovfork._transport import SubprocessTransport
from aiovfork._tree import Ending

_ProtocolT = TypeVar("_ProtocolT", bound=asyncio.SubprocessProtocol)

#: Bytes that a StreamReader buffers, by default.
LIMIT: Final = 2**16
_SHELL: Final = "/bin/sh"


def shell_command(cmd: str | bytes, stdin: Stdio, stdout: Stdio, stderr: Stdio, options: Options) -> Command:
    """Return the command that runs cmd in a shell: /bin/sh or the one that executable names."""
    if not isinstance(cmd, (bytes, str)):
        raise ValueError("cmd must be a string")  # noqa: TRY004  # asyncio's type
    shell = _SHELL if options.executable is None else options.executable
    return Command((shell, "-c", cmd), stdin, stdout, stderr, options, is_shell=True)


async def spawn(
    loop: asyncio.AbstractEventLoop, protocol_factory: Callable[[], _ProtocolT], command: Command
) -> tuple[SubprocessTransport, _ProtocolT]:
    """Do what subprocess_exec and subprocess_shell do, for this loop."""
    protocol = protocol_factory()
    return await _start(loop, protocol, command), protocol


async def create(command: Command, limit: int, said: Ending) -> Process:
    """Start a child with streams for the running loop."""
    loop = asyncio.get_running_loop()
    return await process_of(loop, StreamProtocol(limit=limit, loop=loop), command, said)


async def process_of(
    loop: asyncio.AbstractEventLoop,
    protocol: StreamProtocol,
    command: Command,
    said: Ending,
    begun: Callable[[SubprocessTransport], None] | None = None,
) -> Process:
    """Start a child for a StreamProtocol, or what derives from it, with what was said of its end.

    begun() gets the transport when the start begins, and may refuse it.
    """
    cgroup = await own_cgroup_of(command) if said.own_cgroup else None
    try:
        transport = await _start(loop, protocol, command, said.plan_flags, cgroup, begun)
    except BaseException:
        if cgroup is not None:
            cgroup.end_soon()
        raise
    finally:
        if cgroup is not None:
            cgroup.close_fd()
    return Process(transport, protocol, loop, said)


async def _start(
    loop: asyncio.AbstractEventLoop,
    protocol: asyncio.SubprocessProtocol,
    command: Command,
    flags: int = 0,
    cgroup: Cgroup | None = None,
    begun: Callable[[SubprocessTransport], None] | None = None,
) -> SubprocessTransport:
    if command.pty is None:
        return await _submit(loop, protocol, command, flags, cgroup, begun, None)
    terminal = Terminal(loop, port_of(loop), Ends())
    try:
        open_terminal(terminal.ends, command.pty)
        command = on_terminal(command, terminal.ends[SLAVE])
        return await _submit(loop, protocol, command, flags, cgroup, begun, terminal)
    except BaseException:
        terminal.close()
        raise


async def _submit(
    loop: asyncio.AbstractEventLoop,
    protocol: asyncio.SubprocessProtocol,
    command: Command,
    flags: int,
    cgroup: Cgroup | None,
    begun: Callable[[SubprocessTransport], None] | None,
    terminal: Terminal | None,
) -> SubprocessTransport:
    plan = _plan.build(command, flags=flags, cgroup_fd=-1 if cgroup is None else cgroup.fd)
    sys.audit("subprocess.Popen", command.program, list(command.args), command.cwd, command.options.env)
    transport = SubprocessTransport(loop, port_of(loop), protocol, command)
    transport.cgroup, transport.terminal = cgroup, terminal
    if begun is not None:
        begun(transport)
    if not loop.get_debug():
        await transport.start(plan)
        return transport
    action = f"{command.action} {command.called!r}"
    logger.debug("%s", " ".join([action, *_described_stdio(command)]))
    others = under_way()
    await transport.start(plan)
    logger.info("%s: %r", action, transport)
    log_if_slow(loop, command, transport.spawn_info, others)
    return transport


def _described_stdio(command: Command) -> list[str]:
    """As asyncio's _log_subprocess."""
    names: dict[Any, str] = {subprocess.PIPE: "<pipe>", subprocess.STDOUT: "<stdout>"}
    if command.pty is not None and command.options.controlling_tty is not None:
        names[command[1 + command.options.controlling_tty]] = "<pty>"
    shown = {"stdin": command.stdin, "stdout": command.stdout, "stderr": command.stderr}
    if command.stdout is not None and command.stderr == subprocess.STDOUT:
        shown = {"stdin": command.stdin, "stdout=stderr": command.stdout}
    return [
        f"{name}={names.get(value, repr(value)) if isinstance(value, int) else repr(value)}"
        for name, value in shown.items()
        if value is not None
    ]
