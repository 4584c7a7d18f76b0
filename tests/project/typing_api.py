"""How the public API looks to a type checker: checked by mypy --strict, never run."""

from __future__ import annotations

import asyncio
import decimal
import pathlib
import re
import resource
import socket
import subprocess
import sys
from typing import assert_type

import aiovfork


class Protocol(asyncio.SubprocessProtocol):
    """Some protocol."""


async def processes() -> None:
    """Both ways to a Process, and what it has."""
    process = await aiovfork.create_subprocess_exec("program", b"bytes", pathlib.Path("path"))
    assert_type(process, aiovfork.Process)
    assert_type(await aiovfork.create_subprocess_shell("command"), aiovfork.Process)
    assert_type(await aiovfork.create_subprocess_shell(b"command"), aiovfork.Process)

    assert_type(process.pid, int)
    assert_type(process.returncode, int | None)
    assert_type(process.stdin, asyncio.StreamWriter | None)
    assert_type(process.stdout, asyncio.StreamReader | None)
    assert_type(process.stderr, asyncio.StreamReader | None)
    assert_type(await process.wait(), int)
    assert_type(process.pidfd, int | None)
    assert_type(process.rusage, resource.struct_rusage | None)
    assert_type(process.returncode_known, bool)
    process.send_signal(15)
    process.terminate()
    process.kill()

    assert_type(await process.communicate(b"input"), tuple[bytes, bytes])
    await process.communicate("text")  # type: ignore[arg-type]
    plain: asyncio.subprocess.Process = process
    await plain.communicate(b"input")
    async with process as entered:
        assert_type(entered, aiovfork.Process)
    async with await aiovfork.create_subprocess_exec("program", stdin=aiovfork.PIPE) as short:
        assert_type(short, aiovfork.Process)


def unsupported_calls() -> None:
    """What loops do with calls that aiovfork refuses."""
    assert_type(aiovfork.new_event_loop(unsupported="native"), aiovfork.EventLoop)
    assert_type(aiovfork.new_uvloop_event_loop(unsupported="refuse"), asyncio.AbstractEventLoop)
    assert_type(aiovfork.install(unsupported="native"), aiovfork.Installation)
    aiovfork.new_event_loop(unsupported="ignore")  # type: ignore[arg-type]
    assert_type(aiovfork.stats().native, int)


async def options() -> None:
    """Every option, each with a value of each of its types."""
    with open("file", "rb") as file:
        await aiovfork.create_subprocess_exec(
            "program",
            stdin=file,
            stdout=aiovfork.PIPE,
            stderr=aiovfork.STDOUT,
            limit=1024,
            executable=pathlib.Path("other"),
            cwd=b"directory",
            env={"NAME": "value"},
            close_fds=True,
            pass_fds=[3, 4],
            start_new_session=True,
            process_group=0,
            umask=0o077,
            restore_signals=False,
            pipesize=65536,
            spawn_timeout=1.5,
            startupinfo=None,
            creationflags=0,
        )
    await aiovfork.create_subprocess_shell("command", cwd=None, env=None, spawn_timeout=None, stdin=None)
    await aiovfork.create_subprocess_exec(
        "program", env={b"NAME": b"value"}, pass_fds=(3,), process_group=None
    )
    await aiovfork.create_subprocess_exec(
        *("program", "argument"),
        user="nobody",
        group=65534,
        extra_groups=["users", 5],
        rlimits={7: 5, 1: (2, -1)},
        cpu_affinity={0},
        scheduler=(1, 1),
        io_priority=aiovfork.IOPriority.IDLE,
        signal_mask=[],
        cgroup=b"/sys/fs/cgroup",
        fd_map={3: 5, 4: sys.stdin},
        listen_fds={"http": socket.socket()},
        capabilities=aiovfork.Capabilities(ambient=["CAP_KILL", 5]),
        best_effort={"nice"},
    )
    await aiovfork.run("program", listen_fds=[3, socket.socket()], cwd=5, chroot="/", nice=5)
    # What cannot be had is an error before it runs.
    await aiovfork.create_subprocess_exec("program", preexec_fn=print)  # type: ignore[arg-type]
    await aiovfork.create_subprocess_exec("program", text=True)  # type: ignore[arg-type]
    await aiovfork.create_subprocess_exec("program", no_such_option=1)  # type: ignore[call-arg]
    await aiovfork.create_subprocess_exec(3)  # type: ignore[arg-type]
    await aiovfork.create_subprocess_exec("program", cwd=3.5)  # type: ignore[arg-type]


async def whole_runs() -> None:
    """What run(), run_shell() and run_many() return, with an encoding and without."""
    assert_type(await aiovfork.run("program", b"bytes", timeout=1.5), aiovfork.Completed[bytes])
    assert_type(await aiovfork.run("program", encoding="utf-8", input="text"), aiovfork.Completed[str])
    assert_type(await aiovfork.run_shell("command", cwd="/"), aiovfork.Completed[bytes])
    done = await aiovfork.run_shell(b"command", encoding="utf-8", max_output=1, on_limit="truncate")
    assert_type(done.stdout, str)
    assert_type(done.duration, float)
    assert_type(done.index, int | None)
    plain: subprocess.CompletedProcess[str] = done
    plain.check_returncode()
    chosen: aiovfork.RunOptions = {"timeout": 1, "on_cancel": "kill", "tree": None}
    await aiovfork.run("program", **chosen)
    await aiovfork.run("program", on_limit="stop")  # type: ignore[call-overload]
    await aiovfork.run("program", user=0.5)  # type: ignore[call-overload]
    commands: list[tuple[str, ...] | aiovfork.RunCommand] = [
        ("program",),
        {"args": ["program"], "timeout": 1},
    ]
    async for result in aiovfork.run_many(commands, limit=2):
        assert_type(result, aiovfork.Completed[bytes])
    async for either in aiovfork.run_many(commands, limit=2, return_exceptions=True, encoding="ascii"):
        assert_type(either, aiovfork.Completed[str] | Exception)
    try:
        await aiovfork.run("program")
    except aiovfork.ProcessFailed as exc:
        assert_type(exc.returncode, int)
        assert_type(exc.pid, int | None)
    except aiovfork.ProcessTimeout as exc:
        assert_type(exc.timeout, float)


async def reusable_options() -> None:
    """SpawnOptions is for code that passes options on."""
    chosen: aiovfork.SpawnOptions = {"cwd": "/", "start_new_session": True}
    await aiovfork.create_subprocess_exec("program", **chosen)


async def failures() -> None:
    """SpawnError has a step, and all that an OSError has."""
    try:
        await aiovfork.create_subprocess_exec("program", spawn_timeout=decimal.Decimal(5))
    except aiovfork.SpawnError as exc:
        assert_type(exc.step, str)
        assert_type(exc.errno, int | None)
        plain: OSError = exc
        plain.add_note("note")


async def transports() -> None:
    """Transports with the protocol of the factory."""
    transport, protocol = await aiovfork.subprocess_exec(Protocol, "program", "argument", cwd="/")
    assert_type(transport, aiovfork.SubprocessTransport)
    assert_type(protocol, Protocol)
    transport, protocol = await aiovfork.subprocess_shell(Protocol, "command", stdin=None)
    assert_type(protocol, Protocol)
    plain: asyncio.SubprocessTransport = transport
    plain.close()
    assert_type(transport.get_pid(), int)
    assert_type(transport.get_returncode(), int | None)
    assert_type(transport.get_pipe_transport(1), asyncio.BaseTransport | None)


async def loops() -> None:
    """Loops with aiovfork plugged in are loops; install() is a context manager."""
    assert_type(aiovfork.new_event_loop(), aiovfork.EventLoop)
    plain: asyncio.SelectorEventLoop = aiovfork.EventLoop()
    assert_type(aiovfork.new_uvloop_event_loop(), asyncio.AbstractEventLoop)
    with asyncio.Runner(loop_factory=aiovfork.new_event_loop) as runner:
        runner.run(loops())
    assert_type(aiovfork.install(), aiovfork.Installation)
    with aiovfork.install(plain) as installation:
        assert_type(installation, aiovfork.Installation)
        installation.undo()
    aiovfork.install("loop")  # type: ignore[arg-type]
    transport, protocol = await aiovfork.new_event_loop().subprocess_exec(Protocol, "program", cwd="/")
    assert_type(transport, aiovfork.SubprocessTransport)
    assert_type(protocol, Protocol)


async def terminals(process: aiovfork.Process) -> None:
    """What is found is of the type of the pattern."""
    assert_type(process.pty, aiovfork.Terminal | None)
    terminal = (await aiovfork.create_subprocess_exec("program", pty=aiovfork.Pty(rows=25))).pty
    assert terminal is not None
    assert_type(terminal.reader, asyncio.StreamReader)
    assert_type(terminal.writer, asyncio.StreamWriter)
    assert_type(terminal.size, tuple[int, int])
    assert_type(await terminal.expect(b"$ "), aiovfork.Expected[bytes])
    assert_type((await terminal.expect("$ ", timeout=1)).before, str)
    found = await terminal.expect(re.compile(r"\w+"))
    assert_type(found.match, re.Match[str])
    assert_type(await aiovfork.run("program", pty=True), aiovfork.Completed[bytes])
    await aiovfork.create_subprocess_exec("program", pty=None)  # type: ignore[arg-type]


def counters(process: aiovfork.Process) -> None:
    """Plain data."""
    stats = aiovfork.stats()
    assert_type(stats, aiovfork.Stats)
    assert_type(stats.spawned, int)
    assert_type(stats.in_flight_peak, int)
    assert_type(stats.exec_time, aiovfork.Histogram)
    assert_type(stats.exec_time.quantile(0.99), float)
    info = process.spawn_info
    assert_type(info, aiovfork.SpawnInfo)
    assert_type(info.exec_us, float)
    stats.spawned = 0  # type: ignore[misc]


def callback(event: aiovfork.Event) -> None:
    """The kinds of events are told apart by their types."""
    assert_type(event.ticket, int)
    assert_type(event.time, float)
    if isinstance(event, aiovfork.FailedEvent):
        assert_type(event.step, str)
    elif isinstance(event, aiovfork.SpawnedEvent):
        assert_type(event.spawn_info, aiovfork.SpawnInfo)
    else:
        assert_type(event, aiovfork.ExitedEvent)


def events() -> None:
    """A subscription is a context manager."""
    with aiovfork.on_event(callback) as subscription:
        assert_type(subscription, aiovfork.Subscription)
    subscription.remove()
