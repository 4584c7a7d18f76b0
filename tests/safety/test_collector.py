"""The collector: what a child writes is kept whole, and nothing of it is left, however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import warnings
from typing import Any

import psutil
import pytest

import aiovfork
from aiovfork._capture import AT_HAND, Capture, immutable
from aiovfork._events import Captured
from aiovfork._options import Options
from aiovfork._ports import port_of
from tests.support.backends import LOOP_FACTORIES
from tests.support.capturing import Run, output
from tests.support.isolated import isolated
from tests.support.window import until

MIB = 2**20

# Writes a reproducible stream of so many bytes to stdout, and another to stderr.
_WRITE = """
import os, random, sys
for fd, size in ((1, int(sys.argv[1])), (2, int(sys.argv[2]))):
    rng = random.Random(fd)
    while size:
        piece = rng.randbytes(min(size, 1 << 20))
        size -= len(piece)
        while piece:
            piece = piece[os.write(fd, piece):]
"""


def _expected(fd: int, size: int) -> bytes:
    rng, pieces = random.Random(fd), []  # noqa: S311
    while size:
        pieces.append(rng.randbytes(min(size, MIB)))
        size -= len(pieces[-1])
    return b"".join(pieces)


@pytest.mark.parametrize(
    "size",
    [
        0,
        1,
        2,
        4095,
        4096,
        4097,
        AT_HAND,
        AT_HAND + 1,
        126_927,
        126_928,
        126_929,
        385_023,
        3 * MIB + 7,
        33 * MIB,
        70 * MIB + 1,
    ],
)
async def test_output_is_whole(size: int) -> None:
    """Output of any size is what the child wrote, to the byte: through each way that it can take."""
    stdout, stderr = await output(sys.executable, "-c", _WRITE, str(size), str(size // 3))
    assert type(stdout) is bytes
    assert hashlib.sha256(stdout).digest() == hashlib.sha256(_expected(1, size)).digest()
    assert hashlib.sha256(stderr).digest() == hashlib.sha256(_expected(2, size // 3)).digest()


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 5 * MIB + 1])
async def test_input_and_output_at_once(size: int) -> None:
    """A child that writes before it has read all gets its input nonetheless."""
    data = os.urandom(size)
    assert await output("cat", data=data) == (data, b"")


@pytest.mark.parametrize(
    "program", [["true"], ["head", "-c", "1"], ["sh", "-c", "exec <&-; sleep 0; echo done"]]
)
async def test_input_that_nobody_wants(program: list[str]) -> None:
    """A child that does not read its input is no error, and ends the capture as it does."""
    run = Run(*program, data=bytes(10 * MIB))
    await run.output()
    event = run.over.result()
    assert event.exited is not None
    assert (event.error, event.exited.returncode) == (0, 0)


async def test_status_rusage_and_times() -> None:
    """One record tells the pid, the exit, what the child used, and how it was started."""
    run = Run("sh", "-c", "exit 3")
    await run.output()
    event = run.over.result()
    assert event.exited is not None
    assert (event.exited.returncode, event.exited.known) == (3, True)
    assert event.exited.rusage is not None
    assert event.pid > 0
    assert min(event.queue_ns, event.clone_ns, event.exec_ns) >= 0


async def test_a_failed_start() -> None:
    """A program that cannot be executed is a failure as ever, and the capture can be freed."""
    run = Run("/nonexistent")
    with pytest.raises(FileNotFoundError):
        await run.over
    run.capture.free()


async def test_a_limit_ends_the_capture() -> None:
    """What is kept is the limit, exactly; the pipes are closed, and the child's own end is told."""
    run = Run("yes", limit=10_000)
    assert await run.output() == ((b"y\n" * 5000), b"")
    event = run.over.result()
    assert event.limited
    assert event.exited is None
    assert (await run.exit).returncode == -signal.SIGPIPE


async def test_the_limit_itself_is_no_excess() -> None:
    """A child that writes just as much as is allowed has exceeded nothing."""
    run = Run("head", "-c", "10000", "/dev/zero", limit=10_000)
    assert await run.output() == (bytes(10_000), b"")
    assert not run.over.result().limited


async def test_truncation() -> None:
    """With truncate the child goes on; what comes after the limit is counted and thrown away."""
    run = Run("head", "-c", str(3 * MIB), "/dev/zero", limit=5000, truncate=True)
    event = await run.over
    assert run.capture.total == (3 * MIB, 0)
    assert await run.output() == (bytes(5000), b"")
    assert event.exited is not None
    assert event.exited.returncode == 0


async def test_a_descendant_that_keeps_the_pipes() -> None:
    """Reading ends drain_timeout after the exit, with what was read, though somebody holds the pipes."""
    run = Run("sh", "-c", "sleep 60 & echo $!", drain_timeout=0.01)
    stdout, _ = await run.output()
    os.kill(int(stdout), signal.SIGKILL)
    assert run.over.result().cut


async def test_what_a_descendant_writes_late() -> None:
    """Without a drain_timeout reading goes on after the exit, to the end of the pipes."""
    read_end, write_end = os.pipe()
    command = f"(read x </dev/fd/{read_end}; echo $x) & echo early"
    run = Run("sh", "-c", command, options=Options(pass_fds=[read_end]))
    await until(lambda: aiovfork.stats().capturing == 1)  # the shell runs
    await until(lambda: not psutil.Process().children())  # the shell is over, and reaped
    os.write(write_end, b"late\n")
    assert await run.output() == (b"early\nlate\n", b"")
    assert not run.over.result().cut
    os.close(read_end)
    os.close(write_end)


async def test_a_stopped_child_is_in_nobodys_way() -> None:
    """While one child stands still, others are captured; it is captured when it goes on."""
    stopped = Run("sh", "-c", "echo $$; kill -STOP $$; echo on")
    for number in range(20):
        assert await output("echo", str(number)) == (b"%d\n" % number, b"")
    await until(lambda: [child.status() for child in psutil.Process().children()] == [psutil.STATUS_STOPPED])
    stopped.port.kill(stopped.ticket, signal.SIGCONT)
    stdout, _ = await stopped.output()
    assert stdout.endswith(b"\non\n")


async def test_freed_at_any_moment() -> None:
    """A capture that is freed while its child is queued, starts, runs or has ended takes the child with it."""
    for rounds in range(40):
        run = Run("sh", "-c", "echo $$; exec sleep 60")
        for _ in range(rounds % 20):
            await asyncio.sleep(0.0002 if rounds % 2 else 0)
        run.port.dispose(run.ticket)
        run.capture.free()
        run.capture.free()
        run.over.cancel() if not run.over.done() else run.over.exception()
    # The leak fixture looks for what is left.


def test_after_it_was_freed() -> None:
    """Whoever is collected as garbage after his capture asks it in vain, and is not told of a wrong type."""
    capture = Capture(b"input")
    capture.free()
    ends: dict[int, int] = {}
    capture.have_back(ends)
    capture.hurry(1.0)
    assert (capture.take_back(), ends, capture.written) == (None, {}, 0)


async def test_freed_while_it_is_copied() -> None:
    """After free() nobody writes to the memory of the result."""
    run = Run("head", "-c", str(64 * MIB), "/dev/zero")
    await run.over
    task = asyncio.ensure_future(run.capture.output(run.port))
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    run.capture.free()


async def test_a_cancelled_copy_can_be_repeated() -> None:
    """output() that was cancelled gives the whole result when it is called again."""
    run = Run("head", "-c", str(64 * MIB), "/dev/zero")
    await run.over
    task = asyncio.ensure_future(run.capture.output(run.port))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    stdout, _ = await run.output()
    assert stdout == bytes(64 * MIB)


class _Pipes:
    def __init__(self) -> None:
        self.over: asyncio.Future[Captured] = asyncio.get_running_loop().create_future()

    def captured(self, event: Captured) -> None:
        self.over.set_result(event)


def _ends(*fds: int) -> tuple[dict[int, int], list[int]]:
    ours, theirs = {}, []
    for fd in fds:
        read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        ours[fd], their = (write_end, read_end) if fd == 0 else (read_end, write_end)
        theirs.append(their)
    return ours, theirs


async def test_taken_back_and_given_again() -> None:
    """take_back() returns the ends and loses nothing; the capture goes on where it was when it is given them again."""
    port = port_of(asyncio.get_running_loop())
    ends, (out, err) = _ends(1, 2)
    capture, sink = Capture(), _Pipes()
    port.collect(capture.pointer, ends, sink)
    assert not ends
    os.write(out, b"one ")
    os.write(err, b"x")
    back = capture.take_back()
    assert back is not None
    assert set(back) == {1, 2}
    assert capture.take_back() is None
    if capture.length[0] == 0:  # the collector had not come to it yet
        capture.feed(1, os.read(back[1], 100))
    assert capture.partial()[0] == b"one "
    port.collect(capture.pointer, back, sink)
    os.write(out, b"two")
    os.close(out)
    os.close(err)
    event = await sink.over
    assert event.exited is None
    assert await capture.output(port) == (b"one two", b"x")
    capture.free()


async def test_begun_again_before_its_record_is_heard() -> None:
    """A capture whose record waits for the loop can be begun again: the old record says nothing of it any more."""
    port = port_of(asyncio.get_running_loop())
    capture, sinks = Capture(), [_Pipes(), _Pipes()]
    for number, sink in enumerate(sinks):
        ends, (out,) = _ends(1)
        port.collect(capture.pointer, ends, sink)
        os.write(out, b"%d" % number)
        os.close(out)
        while aiovfork.stats().capturing:  # the loop does not turn meanwhile: the record waits
            pass
        assert capture.take_back() is None
    capturing = [sink.over for sink in sinks]
    await asyncio.wait(capturing)
    assert await capture.output(port) == (b"01", b"")
    capture.free()
    assert await output("echo", "on") == (b"on\n", b"")


async def test_signals_reach_a_child_whose_record_waits() -> None:
    """Beyond the limit the child lives on; before the loop has heard of that, it can be signalled as ever."""
    before = aiovfork.stats().captures
    run = Run("sh", "-c", "head -c 100 /dev/zero; exec sleep 60", limit=10)
    while aiovfork.stats().captures == before or aiovfork.stats().capturing:  # the loop does not turn
        pass
    run.port.kill(run.ticket, signal.SIGKILL)
    assert (await run.over).limited
    assert (await run.exit).returncode == -signal.SIGKILL
    run.capture.free()


async def test_what_is_fed_comes_first() -> None:
    """feed() puts what somebody else has read before what is captured, however much it is."""
    port = port_of(asyncio.get_running_loop())
    ends, (out,) = _ends(1)
    capture, sink = Capture(), _Pipes()
    prefix = os.urandom(300_000)
    capture.feed(1, prefix)
    port.collect(capture.pointer, ends, sink)
    os.write(out, b"end")
    os.close(out)
    await sink.over
    assert b"".join(capture.pieces(1)) == prefix + b"end"
    assert await capture.output(port) == (prefix + b"end", b"")
    capture.free()


async def test_detached() -> None:
    """A detached child lives on, its output is thrown away, and it is reaped when it ends."""
    read_end, write_end = os.pipe()
    run = Run(
        "sh",
        "-c",
        f"read x </dev/fd/{read_end}; head -c 1000000 /dev/zero",
        options=Options(pass_fds=[read_end]),
    )
    await until(lambda: aiovfork.stats().capturing == 1)
    exited = aiovfork.stats().alive
    assert run.capture.detach(run.port, run.ticket)
    os.write(write_end, b"go\n")
    await until(lambda: aiovfork.stats().alive < exited)
    os.close(read_end)
    os.close(write_end)


async def test_a_thousand_at_once() -> None:
    """A thousand captures of 1 MiB are whole, and need a thread no more than their spawns do."""
    number = 1000
    before = len(os.listdir("/proc/self/task"))
    results = await asyncio.gather(*[output("head", "-c", str(MIB), "/dev/zero") for _ in range(number)])
    assert all(result == (bytes(MIB), b"") for result in results)
    assert len(os.listdir("/proc/self/task")) <= before + 80


@pytest.mark.parametrize("data", ["text", 5, None, [1], object()])
def test_input_of_a_wrong_type(data: Any) -> None:
    """What is no bytes-like object that a pipe takes is refused at once."""
    with pytest.raises(TypeError, match="input must be bytes"):
        immutable(data)


def test_input_is_a_snapshot() -> None:
    """What can be changed is copied; what cannot is not."""
    changing, fixed = bytearray(b"abc"), b"abc"
    snapshots = [
        immutable(changing),
        immutable(memoryview(changing)),
        immutable(memoryview(changing).toreadonly()),
    ]
    changing[:] = b"xyz"
    assert snapshots == [b"abc"] * 3
    assert immutable(fixed) is fixed
    view = memoryview(fixed)
    assert immutable(view) is view
    assert immutable(memoryview(b"abcd")[::2]) == b"ac"


async def _no_memory(limit: int) -> list[Any]:
    await output("true")
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * os.sysconf("SC_PAGESIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + limit, resource.RLIM_INFINITY))
    run = Run("head", "-c", str(256 * MIB), "/dev/zero")
    event = await run.over
    kept = run.capture.length[0]
    exited = event.exited or await run.exit
    run.capture.free()
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    again = await output("echo", "on")
    return [event.error, kept > 0, exited.returncode, again[0].decode()]


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_no_memory(loop: str) -> None:
    """ENOMEM ends the capture with that error and what was read; the child's end is told, and the next capture works."""
    assert isolated(_no_memory, 20 * MIB, loop=loop) == [-errno.ENOMEM, True, -signal.SIGPIPE, "on\n"]


async def _no_address_space_for_a_copy() -> list[Any]:
    run = Run("head", "-c", str(100 * MIB), "/dev/zero")
    await run.over
    copying = asyncio.ensure_future(run.capture.output(run.port))
    resource.setrlimit(resource.RLIMIT_AS, (64 * MIB, resource.RLIM_INFINITY))
    await asyncio.wait([copying])
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    with contextlib.suppress(MemoryError):
        return [copying.result()[0] == bytes(100 * MIB)]
    return [await run.output() == (bytes(100 * MIB), b"")]


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_no_address_space_for_a_copy(loop: str) -> None:
    """A limit that is lowered below what the process has leaves no hole in the result."""
    assert isolated(_no_address_space_for_a_copy, loop=loop) == [True]


async def _close_with_captures_under_way() -> int:
    runs = [Run("sh", "-c", "echo $$; exec sleep 60") for _ in range(10)]
    await until(lambda: aiovfork.stats().alive == 10)
    return len(runs)


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_the_loop_closes(loop: str) -> None:
    """Captures whose loop closes end with their children; no descriptor or thread is left."""
    assert isolated(_close_with_captures_under_way, loop=loop) == 10


def _exit_with_captures_under_way() -> int:
    """Run an interpreter that ends while children are captured, copied and fed, and return how."""
    code = (
        "import asyncio, sys; sys.path.append('.')\n"
        "from tests.support.capturing import Run\n"
        "async def main():\n"
        "    runs = [Run('cat', '/dev/zero') for _ in range(3)] + [Run('sleep', '60', data=bytes(10**7))]\n"
        "    done = Run('head', '-c', '200000000', '/dev/zero')\n"
        "    await done.over\n"
        "    asyncio.ensure_future(done.capture.output(done.port))\n"
        "    await asyncio.sleep(0)\n"
        "    sys.modules['kept'] = runs\n"
        "    raise KeyboardInterrupt\n"
        "asyncio.run(main())\n"
    )
    return subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL, check=False).returncode


def test_the_interpreter_ends() -> None:
    """An interpreter that ends with captures under way just ends."""
    assert {_exit_with_captures_under_way() for _ in range(5)} <= {1, -signal.SIGINT, 130}


def _fork_with_captures_under_way() -> list[Any]:
    async def main() -> list[Any]:
        before = _pipes()
        runs = [Run("sh", "-c", "read x; echo $x", data=b"") for _ in range(3)]
        endless = Run("sleep", "60", data=None)
        await until(lambda: endless.port.pid(endless.ticket) is not None)
        pid = os.fork()
        if pid == 0:
            os._exit(_in_the_forked_child(before))
        results = [await run.output() for run in runs]
        endless.port.dispose(endless.ticket)
        event = await endless.over
        endless.capture.free()
        _, status = os.waitpid(pid, 0)
        assert event.exited is not None
        return [len(results), event.exited.returncode, status]

    warnings.simplefilter("ignore", DeprecationWarning)
    return asyncio.run(main())


def _in_the_forked_child(before: set[str]) -> int:
    asyncio.events._set_running_loop(None)
    pipes = _pipes()
    said = asyncio.run(output("echo", "here"))
    # Their number: where there was a loop of libuv's, its fork handler renews a pipe.
    return 0 if said == (b"here\n", b"") and len(pipes) == len(before) else 1


def _pipes() -> set[str]:
    return {target for fd in os.listdir("/proc/self/fd") if (target := _target(fd)).startswith("pipe:")}


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def test_fork_with_captures_under_way() -> None:
    """P11. The forked process holds no pipe of its parent's captures, and captures itself; the parent's go on."""
    assert isolated(_fork_with_captures_under_way, check_leaks=False) == [3, -signal.SIGKILL, 0]


def _captures_in_threads() -> int:
    wrong: list[Any] = []

    async def main() -> None:
        for number in range(50):
            said = await output("echo", str(number))
            if said != (b"%d\n" % number, b""):
                wrong.append(said)

    threads = [threading.Thread(target=asyncio.run, args=[main()]) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(wrong)


def test_loops_in_threads() -> None:
    """Loops come and go in several threads, and each hears of its own captures only."""
    assert isolated(_captures_in_threads) == 0
