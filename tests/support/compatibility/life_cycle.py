"""From the call to the end: who is called when, cancellation, and what nobody waits for."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from typing import Any, Final

import aiovfork
from tests.support.audits import recorded
from tests.support.backends import PIPES, Backend, Spawner
from tests.support.compatibility.rows import Group, Since, yes
from tests.support.compatibility.signals_and_exit import logged
from tests.support.protocols import Recorder
from tests.support.view import read_status
from tests.support.window import rounds, until

PIPE = asyncio.subprocess.PIPE

group = Group(__name__)


def _children() -> list[int]:
    """This process' children, whichever thread has made them; without a look at everybody else's."""
    found: list[int] = []
    for thread in pathlib.Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that is over
            found += map(int, (thread / "children").read_text().split())
    return found


def _killed(pid: int) -> bool:
    """Tell whether a process has been killed, or is gone."""
    try:
        with open(f"/proc/{pid}/status") as file:
            status = read_status(file.read())
    except (FileNotFoundError, ProcessLookupError):
        return True
    pending = int(status["SigPnd"], 16) | int(status["ShdPnd"], 16)
    return status["State"][0] in "ZX" or bool(pending & 1 << signal.SIGKILL - 1)


def _reaped(pid: int) -> bool:
    return not os.path.exists(f"/proc/{pid}")


@group.row("yes", uvloop="no")
async def transport_is_asyncios(spawn: Spawner) -> str:
    """`isinstance(transport, asyncio.SubprocessTransport)`."""
    transport, _ = await spawn.protocol_exec(asyncio.SubprocessProtocol, "true")
    return yes(isinstance(transport, asyncio.SubprocessTransport))


@group.row("yes")
async def private_transport(spawn: Spawner) -> str:
    """`process._transport` has `get_pid()`, `get_returncode()`, `get_pipe_transport()`, `close()`, `_wait()`."""
    process: Any = await spawn.exec("cat", stdin=PIPE)
    transport = process._transport
    assert transport.get_pid() == process.pid
    assert transport.get_returncode() is None
    transport.get_pipe_transport(0).close()
    found = await transport._wait()
    transport.close()
    return yes(found == 0)


@group.row("yes", uvloop="no")
async def popen(spawn: Spawner) -> str:
    """`get_extra_info("subprocess")` has the `pid`, `args`, `returncode`, `poll()` and `kill()` of a `Popen`."""
    process: Any = await spawn.exec("cat", stdin=PIPE)
    view = process._transport.get_extra_info("subprocess")
    if view is None:
        return "no"
    assert (view.pid, list(view.args), view.returncode, view.poll()) == (process.pid, ["cat"], None, None)
    view.kill()
    return yes(await process.wait() == view.returncode == view.poll() == -signal.SIGKILL)


@group.row("yes", uvloop="no")
async def order_of_calls(spawn: Spawner) -> str:
    """`connection_made` comes first; `connection_lost` comes last, after the exit and the end of every pipe."""

    async def one() -> list[str]:
        _, protocol = await spawn.protocol_exec(Recorder, "sh", "-c", "echo out; echo err >&2")
        await protocol.wait_for("lost")
        await rounds(5)
        calls: list[str] = protocol.calls
        return calls

    found = await asyncio.gather(*[one() for _ in range(20)])
    assert all(len(calls) == 8 for calls in found)
    return yes(all((calls[0], calls[-1]) == ("made", "lost") for calls in found))


_AT_THE_END: Final = "at the end of the pipe"
_AT_THE_EXIT: Final = "at the exit"


@group.row(
    _AT_THE_EXIT,
    # gh-119710, which 3.13 and 3.14 were given later.
    Since({"3.11": _AT_THE_END, "3.13.15": _AT_THE_EXIT, "3.14": _AT_THE_END, "3.14.7": _AT_THE_EXIT}),
    _AT_THE_EXIT,
    differs="better",
)
async def wait(spawn: Spawner) -> str:
    """When `wait()` returns if a grandchild keeps a pipe open."""
    child_end, parent_end = os.pipe()
    script = f"read line </dev/fd/{child_end}; cat </dev/fd/{child_end} & exit 6"
    process = await spawn.exec("sh", "-c", script, stdout=PIPE, pass_fds=[child_end])
    os.close(child_end)
    waiting = asyncio.ensure_future(process.wait())
    await rounds(5)
    os.write(parent_end, b"\n")
    await until(lambda: process.returncode is not None)
    await rounds(20)
    found = "at the exit" if waiting.done() else _AT_THE_END
    os.close(parent_end)
    assert await waiting == 6
    return found


_CONTEXT = contextvars.ContextVar("_CONTEXT", default="nobody")


class _InContext(Recorder):
    def __init__(self) -> None:
        super().__init__()
        self.contexts: dict[str, str] = {}

    def _note(self, call: str) -> None:
        super()._note(call)
        self.contexts[call] = _CONTEXT.get()


@group.row("yes", Since({"3.11": "not `process_exited`, `connection_lost`", "3.12": "yes"}), differs="better")
async def context(spawn: Spawner) -> str:
    """A protocol is called in the context of the task that asked for the child."""

    async def one(name: str) -> set[str]:
        _CONTEXT.set(name)
        transport, protocol = await spawn.protocol_exec(_InContext, "sh", "-c", "echo out; read line")
        await protocol.wait_for("data 1")
        transport.get_pipe_transport(0).close()
        await protocol.wait_for("lost")
        return {call for call, seen in protocol.contexts.items() if seen != name}

    await asyncio.create_task(one("first"))
    other = await asyncio.create_task(one("second"))
    return yes(not other, "not `process_exited`, `connection_lost`" if other == {"exited", "lost"} else "no")


@group.row("yes", "no", differs="better", uvloop="yes")
async def is_closing(spawn: Spawner) -> str:
    """`transport.is_closing()` is true once child and pipes have ended."""
    transport, protocol = await spawn.protocol_exec(Recorder, "true")
    await protocol.wait_for("lost")
    return yes(transport.is_closing())


@group.row("the child is killed and reaped", uvloop="the child is killed, and reaped later")
async def cancelled(spawn: Spawner) -> str:
    """A `create_subprocess_exec` that is cancelled, when `CancelledError` comes out."""
    at_once = True
    for steps in range(1, 100):
        spawning = asyncio.ensure_future(spawn.exec("sleep", "1000", **PIPES))
        await rounds(steps)
        if not spawning.cancel():
            break
        await asyncio.wait([spawning])
        for child in _children():
            assert _killed(child)
            at_once = False
            await until(functools.partial(_reaped, child))
    return "the child is killed and reaped" if at_once else "the child is killed, and reaped later"


class _Outlived:
    """A child with pipes that has outlived its loop."""

    def __init__(self, backend: Backend, *, others: bool = False) -> None:
        self._others = others  # whether more children are started later
        self.raised: list[str] = []
        sys.unraisablehook = lambda args: self.raised.append(str(args.exc_value))
        warnings.simplefilter("ignore")  # of whom it is, each warns
        create: Any = asyncio if backend.calls_asyncio else aiovfork

        async def spawn() -> Any:
            return await create.create_subprocess_exec("sleep", "1000", **PIPES)

        with asyncio.Runner(loop_factory=backend.new_loop) as runner:
            self.process = runner.run(spawn())
        self.pid = self.process.pid
        gc.collect()

    def state(self) -> str:
        """Tell what has become of the child."""
        if not _killed(self.pid):
            return "the child runs on"
        while not _reaped(self.pid):
            time.sleep(0.001)
            if self._others:
                subprocess.run(["true"], check=True)
        return "the child is killed and reaped"

    def drop(self) -> None:
        """Drop the process object."""
        del self.process
        gc.collect()


@group.row("the child runs on", plugged="the child is killed and reaped", differs="better")
def closed_loop(backend: Backend) -> str:
    """`loop.close()` beside a child that runs."""
    return _Outlived(backend).state()


_NOISE: Final = 'the child runs on, and `__del__` says "Event loop is closed"'


@group.row(
    "the child is killed and reaped",
    # gh-114177
    Since({"3.11": "the child runs on", "3.12": _NOISE, "3.13.4": "the child is killed and reaped"}),
    "the child runs on",
    differs="better",
)
def dropped_after_its_loop(backend: Backend) -> str:
    """A process object with pipes that is dropped after that, once the next `Popen` has reaped what asyncio left."""
    child = _Outlived(backend, others=True)
    child.drop()
    return _NOISE if child.raised == ["Event loop is closed"] else child.state()


@group.row(
    "killed and reaped at its end", "`TypeError`", "`TypeError`", plugged="`TypeError`", differs="better"
)
async def async_with(spawn: Spawner) -> str:
    """`async with process`: the child that still runs."""
    async with await spawn.exec("cat", **PIPES) as process:  # type: ignore[attr-defined]  # asyncio's has none
        pass
    return {True: "killed and reaped at its end"}[process.returncode == -9 and _reaped(process.pid)]


@group.row("of the process", "no", "no", plugged="of the transport", differs="better")
async def extras(spawn: Spawner) -> str:
    """`rusage`, `pidfd`, `spawn_info`, `returncode_known`."""
    process: Any = await spawn.exec("true")
    await process.wait()
    names = ("rusage", "pidfd", "spawn_info", "returncode_known")
    for owner, called in ((process, "of the process"), (process._transport, "of the transport")):
        if all(hasattr(owner, name) for name in names):
            return called
    return yes(any(hasattr(owner, name) for name in names for owner in (process, process._transport)))


@group.row("yes", uvloop="no")
async def debug_log(spawn: Spawner) -> str:
    """In debug mode, program, pid and return code are logged."""
    spawn.loop.set_debug(True)
    with logged() as records:
        await (await spawn.exec("true")).wait()
    said = "\n".join(record.getMessage() for record in records)
    return yes(
        re.search(r"^execute program 'true'(?s:.*)^process 'true' created: pid \d+$", said, re.MULTILINE)
        and "exited with return code 0" in said
    )


@group.row("yes", uvloop="no")
async def audit(spawn: Spawner) -> str:
    """The audit event `subprocess.Popen` is raised, before anything is started."""
    with recorded("subprocess.Popen") as events:
        await spawn.exec("true", cwd="/")
    return yes([args for _, args in events] == [("true", ["true"], "/", None)])


@group.row("no", Since({"3.11": "no", "3.13": "yes"}), "no", differs="worse")
async def audit_of_posix_spawn(spawn: Spawner) -> str:
    """The audit event `os.posix_spawn` is raised for a program that is given by its absolute path."""
    program = shutil.which("true")
    assert program is not None
    with recorded("os.posix_spawn") as events:
        await (await spawn.exec(program)).wait()
    return yes(events)
