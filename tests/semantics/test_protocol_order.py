"""Protocols and transports: the order of callbacks, and the parts of the transport that people reach for."""

from __future__ import annotations

import asyncio
import os
import subprocess
from typing import Any

import pytest

import aiovfork
from tests.support.backends import Spawner, compare, run_on_each
from tests.support.protocols import Recorder

NO_PIPES = {"stdin": None, "stdout": None, "stderr": None}
EVERYTHING = ["data 1", "data 2", "exited", "lost", "made", "pipe lost 0", "pipe lost 1", "pipe lost 2"]


async def _end(protocol: Recorder) -> list[str]:
    await protocol.wait_for("lost")
    # Whatever came after the last call would be one too many.
    await asyncio.sleep(0)
    return protocol.calls


def test_without_pipes() -> None:
    """connection_made, process_exited, connection_lost, once each, in this order."""

    async def body(spawn: Spawner) -> list[str]:
        _, protocol = await spawn.protocol_exec(Recorder, "true", **NO_PIPES)
        return await _end(protocol)

    assert compare(body) == ["made", "exited", "lost"]


def test_pipes_end_before_the_child() -> None:
    """pipe_connection_lost comes when a pipe is closed, process_exited at the exit, connection_lost last."""

    async def body(spawn: Spawner) -> list[str]:
        script = "echo out; exec >&-; read line; echo err >&2; exec 2>&-; read line; exit 3"
        transport, protocol = await spawn.protocol_exec(Recorder, "sh", "-c", script)
        await protocol.wait_for("pipe lost 1")
        transport.get_pipe_transport(0).write(b"\n")
        await protocol.wait_for("pipe lost 2")
        transport.get_pipe_transport(0).close()
        await protocol.wait_for("pipe lost 0")
        calls = await _end(protocol)
        # Which of these two is first is the kernel's to say.
        assert sorted(calls[-3:-1]) == ["exited", "pipe lost 0"]
        return [*calls[:-3], calls[-1], str(protocol.returncode_at_exit)]

    assert compare(body) == ["made", "data 1", "pipe lost 1", "data 2", "pipe lost 2", "lost", "3"]


def test_the_child_ends_before_its_pipes() -> None:
    """process_exited comes at the exit though a grandchild keeps stdout; connection_lost waits for it."""

    async def body(spawn: Spawner) -> list[str]:
        # cat inherits stdout and lives until its stdin, which is ours, is closed.
        child_end, parent_end = os.pipe()
        script = f"cat </dev/fd/{child_end} & echo out"
        try:
            _, protocol = await spawn.protocol_exec(
                Recorder, "sh", "-c", script, stdin=None, stderr=None, pass_fds=[child_end]
            )
        finally:
            os.close(child_end)
        await protocol.wait_for("exited")
        await protocol.wait_for("data 1")
        before = sorted(protocol.calls)
        os.close(parent_end)
        return [*before, *(await _end(protocol))[3:]]

    assert compare(body) == ["data 1", "exited", "made", "pipe lost 1", "lost"]


@pytest.mark.parametrize(
    "script", ["echo out; echo err >&2", "cat /proc/self/maps; cat /proc/self/status >&2; exit 9"]
)
def test_the_promised_order(script: str) -> None:
    """made is first, lost is last, data of a pipe precedes its end, and nothing comes twice."""

    async def body(spawn: Spawner) -> list[str]:
        _, protocol = await spawn.protocol_exec(Recorder, "sh", "-c", script)
        calls = await _end(protocol)
        assert calls[0] == "made"
        assert calls[-1] == "lost"
        for fd in (1, 2):
            assert max(at for at, call in enumerate(calls) if call == f"data {fd}") < calls.index(
                f"pipe lost {fd}"
            )
        return sorted(set(calls))

    assert compare(body) == EVERYTHING
    for _ in range(10):
        run_on_each(_discard(body))


def _discard(body: Any) -> Any:
    async def discarding(spawn: Spawner) -> None:
        calls = await body(spawn)
        assert calls == EVERYTHING

    return discarding


def test_connection_made_precedes_everything_of_a_short_child() -> None:
    """A child that is over before anybody looks is told from the start, in order, for any number at once."""

    async def body(spawn: Spawner) -> None:
        async def one() -> list[str]:
            _, protocol = await spawn.protocol_exec(Recorder, "sh", "-c", "echo out; exit 1", stderr=None)
            calls = await _end(protocol)
            assert calls[0] == "made"
            assert calls[-1] == "lost"
            assert protocol.output[1] == b"out\n"
            assert protocol.returncode_at_exit == 1
            return sorted(calls)

        for calls in await asyncio.gather(*[one() for _ in range(20)]):
            assert calls == ["data 1", "exited", "lost", "made", "pipe lost 0", "pipe lost 1"]

    run_on_each(body)


def test_the_caller_gets_what_the_protocol_got() -> None:
    """subprocess_exec returns (transport, protocol) after connection_made was called with that transport."""

    async def body(spawn: Spawner) -> list[bool]:
        transport, protocol = await spawn.protocol_exec(Recorder, "cat")
        shell_transport, shell_protocol = await spawn.protocol_shell(Recorder, "cat")
        return [
            protocol.transport is transport,
            shell_protocol.transport is shell_transport,
            transport.get_protocol() is protocol,
            isinstance(transport, asyncio.SubprocessTransport),
            transport.is_closing(),
            transport.get_returncode() is None,
        ]

    assert compare(body) == [True, True, True, True, False, True]


def test_the_streams_of_a_process_are_there_at_once() -> None:
    """stdin, stdout and stderr are set when create_subprocess_exec returns."""

    async def body(spawn: Spawner) -> list[bool]:
        process = await spawn.exec("cat", stdin=-1, stdout=-1, stderr=-1)
        readers = [isinstance(stream, asyncio.StreamReader) for stream in (process.stdout, process.stderr)]
        return [isinstance(process.stdin, asyncio.StreamWriter), *readers]

    assert compare(body) == [True, True, True]


def test_a_process_is_asyncios() -> None:
    """isinstance(process, asyncio.subprocess.Process), with the attributes that it has there."""

    async def body(spawn: Spawner) -> list[Any]:
        process = await spawn.exec("sh", "-c", "exit 4")
        found: list[Any] = [isinstance(process, asyncio.subprocess.Process), process.pid > 0]
        found += [
            repr(process).startswith(f"<Process {process.pid}"),
            await process.wait(),
            process.returncode,
        ]
        return found

    assert compare(body) == [True, True, True, 4, 4]


def test_get_extra_info_subprocess() -> None:
    """get_extra_info("subprocess") has the pid, args, returncode and poll() of a Popen."""

    async def body(spawn: Spawner) -> list[Any]:
        process = await spawn.exec("cat", "-", stdin=subprocess.PIPE)
        transport = process._transport  # type: ignore[attr-defined]
        popen = transport.get_extra_info("subprocess")
        found = [
            popen.pid == process.pid == transport.get_pid(),
            list(popen.args),
            popen.returncode,
            popen.poll(),
        ]
        found.append(transport.get_extra_info("no such name", "default"))
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
        return [*found, popen.returncode, popen.poll()]

    assert compare(body) == [True, ["cat", "-"], None, None, "default", 0, 0]


@pytest.mark.parametrize("signal", ["terminate", "kill"])
def test_the_popen_of_a_transport_takes_signals(signal: str) -> None:
    """get_extra_info("subprocess") can end the child."""

    async def body(spawn: Spawner) -> int:
        process = await spawn.exec("sleep", "1000")
        getattr(process._transport.get_extra_info("subprocess"), signal)()  # type: ignore[attr-defined]
        return await process.wait()

    assert compare(body) < 0


def test_pipe_transports() -> None:
    """get_pipe_transport gives the pipes, to pause, write and close; closing stdin is EOF for the child."""

    async def body(spawn: Spawner) -> tuple[bytes, int, Any]:
        process = await spawn.exec("cat", stdin=-1, stdout=-1)
        transport = process._transport  # type: ignore[attr-defined]
        stdin, stdout = transport.get_pipe_transport(0), transport.get_pipe_transport(1)
        stdout.pause_reading()
        stdin.write(b"paused")
        stdout.resume_reading()
        stdin.close()
        assert process.stdout is not None
        return await process.stdout.read(), await process.wait(), transport.get_pipe_transport(2)

    assert compare(body) == (b"paused", 0, None)


def test_set_protocol() -> None:
    """set_protocol changes who hears of what comes later."""

    async def body(spawn: Spawner) -> tuple[list[str], list[str]]:
        transport, first = await spawn.protocol_exec(Recorder, "cat", stdout=None, stderr=None)
        second = Recorder()
        second.transport = transport
        transport.set_protocol(second)
        transport.get_pipe_transport(0).close()
        return first.calls, sorted(await _end(second))

    assert compare(body) == (["made"], ["exited", "lost", "pipe lost 0"])


def test_flow_control_reaches_the_protocol() -> None:
    """pause_writing and resume_writing are called on the protocol for stdin."""

    class Flow(Recorder):
        def pause_writing(self) -> None:
            self._note("pause")

        def resume_writing(self) -> None:
            self._note("resume")

    async def body(spawn: Spawner) -> list[str]:
        transport, protocol = await spawn.protocol_exec(
            Flow, "sh", "-c", "read go; cat >/dev/null", stdout=None, stderr=None
        )
        stdin = transport.get_pipe_transport(0)
        stdin.write(b"x" * 2**18)
        await protocol.wait_for("pause")
        stdin.write(b"\n")
        await protocol.wait_for("resume")
        stdin.close()
        return (await _end(protocol))[:3]

    assert compare(body) == ["made", "pause", "resume"]


def test_the_transports_public_type() -> None:
    """What subprocess_exec returns is the documented aiovfork.SubprocessTransport."""

    async def body(spawn: Spawner) -> None:
        transport, _ = await spawn.protocol_exec(Recorder, "true")
        assert type(transport) is aiovfork.SubprocessTransport

    run_on_each(body)
