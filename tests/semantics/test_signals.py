"""Signals: the mask and dispositions that a child starts with, and signals sent to it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from tests.support.backends import Spawner, compare, compare_error, in_thread, run_on_each
from tests.support.view import read_status, view_of
from tests.support.window import rounds

REAL_TIME = signal.SIGRTMIN + 3
GLIBC_SIGNALS = {32, 33}


@contextlib.contextmanager
def blocked(signals: Iterable[int]) -> Iterator[None]:
    """Block signals in this thread."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def handled(handlers: dict[int, Any]) -> Iterator[None]:
    """Set dispositions."""
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _mask(status: dict[str, str], which: str) -> set[int]:
    return {number for number in range(1, 65) if int(status[which], 16) & 1 << number - 1}


async def all_signals_of(spawn: Spawner, program: str = "cat", **options: Any) -> dict[str, set[int]]:
    """Return what a child that touches no signal says of itself."""
    status = read_status((await spawn.output(program, "/proc/self/status", **options)).decode())
    return {which: _mask(status, which) for which in ("SigBlk", "SigIgn", "SigCgt")}


async def signals_of(spawn: Spawner, **options: Any) -> dict[str, set[int]]:
    """As all_signals_of, but for those of glibc, which this process may ignore if posix_spawn started it."""
    seen = await all_signals_of(spawn, **options)
    return {which: signals - GLIBC_SIGNALS for which, signals in seen.items()}


@pytest.mark.usefixtures("engine_mode")
@pytest.mark.parametrize(
    "mask",
    [[], [signal.SIGUSR1], [signal.SIGCHLD, signal.SIGINT, REAL_TIME], signal.valid_signals()],
    ids=["none", "one", "some", "all"],
)
def test_the_mask_is_the_callers(mask: Iterable[int]) -> None:
    """The child's signal mask is that of the calling thread, though the worker blocks everything."""
    with blocked(mask):
        seen = compare(signals_of)
    assert seen["SigBlk"] == set(mask) - {signal.SIGKILL, signal.SIGSTOP}


def test_the_mask_is_that_of_the_thread_that_calls() -> None:
    """A loop in another thread gives its children its own mask, not the main thread's."""

    def other_thread() -> dict[str, set[int]]:
        with blocked([signal.SIGUSR2]):
            return compare(signals_of)

    with blocked([signal.SIGUSR1]):
        # A thread starts with the mask of the one that made it.
        assert in_thread(other_thread)["SigBlk"] == {signal.SIGUSR1, signal.SIGUSR2}
        assert compare(signals_of)["SigBlk"] == {signal.SIGUSR1}


@pytest.mark.usefixtures("engine_mode")
@pytest.mark.parametrize("restore_signals", [True, False])
def test_ignored_signals(restore_signals: bool) -> None:
    """Ignored signals stay ignored, but for SIGPIPE, SIGXFSZ (and SIGXFZ) unless restore_signals=False."""
    ignored = {signal.SIGHUP, signal.SIGUSR1, signal.SIGTSTP, REAL_TIME, signal.SIGPIPE, signal.SIGXFSZ}
    with handled(dict.fromkeys(ignored, signal.SIG_IGN)):
        seen = compare(lambda spawn: signals_of(spawn, restore_signals=restore_signals))
    assert seen["SigIgn"] & ignored == ignored - (
        {signal.SIGPIPE, signal.SIGXFSZ} if restore_signals else set()
    )


@pytest.mark.usefixtures("engine_mode")
def test_handlers_become_default() -> None:
    """No handler, Python's or C's, is left in the child."""

    def handler(number: int, frame: object) -> None:
        del number, frame

    with handled(dict.fromkeys([signal.SIGUSR1, signal.SIGTERM, signal.SIGPIPE, REAL_TIME], handler)):
        seen = compare(signals_of)
    assert seen["SigCgt"] == set()
    assert not seen["SigIgn"] & {signal.SIGUSR1, signal.SIGTERM, signal.SIGPIPE, REAL_TIME}


@pytest.mark.usefixtures("engine_mode")
@pytest.mark.parametrize("program", ["cat", "/bin/cat"])
@pytest.mark.parametrize("restore_signals", [True, False])
def test_glibcs_own_signals_are_not_ignored(program: str, restore_signals: bool) -> None:
    """32 and 33 are not ignored in the child: posix_spawn(3) leaks that, and set*id() would break there."""

    async def body(spawn: Spawner) -> None:
        seen = await all_signals_of(spawn, program, restore_signals=restore_signals)
        assert not GLIBC_SIGNALS & (seen["SigIgn"] | seen["SigBlk"])

    run_on_each(body)


def test_the_callers_own_signals_are_untouched() -> None:
    """A spawn changes neither mask nor dispositions of the thread and process that it was called in."""

    async def body(spawn: Spawner) -> None:
        before = read_status(_own_status())
        await view_of(spawn, restore_signals=True)
        after = read_status(_own_status())
        for which in ("SigBlk", "SigIgn", "SigCgt"):
            assert before[which] == after[which]

    run_on_each(body)


def _own_status() -> str:
    with open("/proc/thread-self/status") as file:
        return file.read()


@pytest.mark.parametrize(
    ("send", "returncode"),
    [
        (lambda process: process.terminate(), -signal.SIGTERM),
        (lambda process: process.kill(), -signal.SIGKILL),
        (lambda process: process.send_signal(signal.SIGUSR1), -signal.SIGUSR1),
        (lambda process: process.send_signal(REAL_TIME), -REAL_TIME),
        (lambda process: process._transport.terminate(), -signal.SIGTERM),
        (lambda process: process._transport.send_signal(signal.SIGHUP), -signal.SIGHUP),
    ],
    ids=[
        "terminate",
        "kill",
        "send_signal",
        "a real-time signal",
        "transport.terminate",
        "transport.send_signal",
    ],
)
def test_a_signal_ends_the_child(send: Any, returncode: int) -> None:
    """terminate, kill and send_signal reach the child; its returncode is the negative number."""

    async def body(spawn: Spawner) -> tuple[int, int | None]:
        process = await spawn.exec("sleep", "1000")
        send(process)
        return await process.wait(), process.returncode

    assert compare(body) == (returncode, returncode)


def test_a_signal_that_does_not_end_the_child() -> None:
    """Signals that the child handles, stops and continues by leave it running."""

    async def body(spawn: Spawner) -> tuple[list[bytes], int | None, int]:
        # A trap may or may not interrupt the shell's read.
        script = "trap 'echo got' USR1; echo ready; until test \"$line\" = end; do read line; done; exit 5"
        process = await spawn.exec("sh", "-c", script, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        lines = [await process.stdout.readline()]
        process.send_signal(signal.SIGUSR1)
        lines.append(await process.stdout.readline())
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        process.send_signal(0)
        returncode = process.returncode
        process.send_signal(signal.SIGCONT)
        process.stdin.write(b"end\n")
        return lines, returncode, await process.wait()

    assert compare(body) == ([b"ready\n", b"got\n"], None, 5)


@pytest.mark.parametrize("method", ["send_signal", "terminate", "kill"])
def test_a_signal_after_the_exit_was_seen(method: str) -> None:
    """send_signal, terminate and kill after the exit and the end of every pipe raise ProcessLookupError."""

    async def body(spawn: Spawner) -> str:
        process = await spawn.exec("true")
        await process.wait()
        await rounds()  # since 3.14.7, asyncio's wait() may return before the transport has ended
        args = (signal.SIGTERM,) if method == "send_signal" else ()
        with pytest.raises(ProcessLookupError) as info:
            getattr(process, method)(*args)
        with pytest.raises(ProcessLookupError):
            getattr(process._transport, method)(*args)  # type: ignore[attr-defined]
        return info.type.__name__

    compare(body)


@pytest.mark.parametrize("number", [-1, 65, 4096])
def test_a_number_that_is_no_signal(number: int) -> None:
    """A signal that does not exist is OSError 22 (EINVAL), and the child goes on."""

    async def body(spawn: Spawner) -> None:
        process = await spawn.exec("sleep", "1000")
        try:
            process.send_signal(number)
        finally:
            assert process.returncode is None

    raised = compare_error(body)
    assert (raised.type, raised.errno, raised.filename) == (OSError, errno.EINVAL, None)


def test_a_signal_for_a_zombie_nobody_has_seen() -> None:
    """A child whose exit the loop has not seen yet takes a signal; its returncode stays true."""

    async def body(spawn: Spawner) -> None:
        child_end, parent_end = os.pipe()
        try:
            process = await spawn.exec("sh", "-c", "read line; exit 3", stdin=child_end)
        finally:
            os.close(child_end)
            os.close(parent_end)
        # From here to wait() the loop does not run.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        process.kill()
        assert await process.wait() == 3

    run_on_each(body)


@pytest.mark.parametrize("returncode", [0, 1, 2, 126, 127, 128, 137, 254, 255])
def test_exit_codes(returncode: int) -> None:
    """The returncode is the child's, whatever it resembles."""

    async def body(spawn: Spawner) -> tuple[int, int | None]:
        process = await spawn.exec("sh", "-c", f"exit {returncode}")
        return await process.wait(), process.returncode

    assert compare(body) == (returncode, returncode)


def test_many_waiters() -> None:
    """Any number of tasks wait for one child; a cancelled one does not disturb the others."""

    async def body(spawn: Spawner) -> list[int | str]:
        process = await spawn.exec("cat", stdin=subprocess.PIPE)
        assert process.stdin is not None
        waiters = [asyncio.ensure_future(process.wait()) for _ in range(5)]
        await asyncio.sleep(0)
        waiters[2].cancel()
        process.stdin.close()
        results = await asyncio.gather(*waiters, return_exceptions=True)
        return [
            result if isinstance(result, int) else type(result).__name__
            for result in (*results, await process.wait())
        ]

    assert compare(body) == [0, 0, "CancelledError", 0, 0, 0]
