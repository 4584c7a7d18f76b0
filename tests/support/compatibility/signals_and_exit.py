"""Signals that a child starts with, signals that it is sent, and how its exit is told."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import sys
from collections.abc import Iterator
from typing import Final

from aiovfork import _binding
from tests.support import libc_signals
from tests.support.backends import Spawner
from tests.support.compatibility.rows import (
    Group,
    Since,
    Unless,
    name_of,
    yes,
)
from tests.support.seccomp import refuse
from tests.support.view import read_status
from tests.support.window import rounds, until

REAL_TIME: Final = signal.SIGRTMIN + 3
_GLIBC_SIGNALS: Final = {32, 33}

group = Group(__name__)


async def signals_of(spawn: Spawner) -> dict[str, set[int]]:
    """Return the masks of a child that touches no signal."""
    status = read_status((await spawn.output("/bin/cat", "/proc/self/status")).decode())
    masks = {which: int(status[which], 16) for which in ("SigBlk", "SigIgn", "SigCgt")}
    return {
        which: {number for number in range(1, 65) if mask & 1 << number - 1} for which, mask in masks.items()
    }


async def ends_when_told(spawn: Spawner, code: int) -> tuple[asyncio.subprocess.Process, int]:
    """Start a child that exits when the descriptor that is returned with it is closed."""
    child_end, parent_end = os.pipe()
    process = await spawn.exec("sh", "-c", f"read line; exit {code}", stdin=child_end)
    os.close(child_end)
    return process, parent_end


class _Recorder(logging.Handler):
    def __init__(self, records: list[logging.LogRecord]) -> None:
        super().__init__()
        self._records = records

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(record)


@contextlib.contextmanager
def logged() -> Iterator[list[logging.LogRecord]]:
    """Record what asyncio logs."""
    records: list[logging.LogRecord] = []
    logger = logging.getLogger("asyncio")
    handler = _Recorder(records)
    before, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield records
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        logger.propagate = propagate


@group.row("yes", uvloop="no, it is empty")
async def mask(spawn: Spawner) -> str:
    """The child's signal mask is that of the calling thread."""
    signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGUSR1, REAL_TIME})
    blocked = (await signals_of(spawn))["SigBlk"]
    return yes(blocked == {signal.SIGUSR1, REAL_TIME}, "no, it is empty" if not blocked else "no")


@group.row("yes", uvloop="no")
async def ignored_signals(spawn: Spawner) -> str:
    """Ignored signals stay ignored, but for those of `restore_signals`."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return yes(signal.SIGHUP in (await signals_of(spawn))["SigIgn"])


def _posix_spawn_ignores_them() -> bool:
    return sys.version_info >= (3, 13) and libc_signals.posix_spawn_ignores_them()


@group.row(
    "yes",
    Unless("yes", "no", "since 3.13, on glibc 2.36", _posix_spawn_ignores_them),
    "yes",
    differs="better",
)
async def glibcs_own_signals(spawn: Spawner) -> str:
    """Signals 32 and 33, which glibc needs for `setuid()` and the like, are not ignored in the child."""
    libc_signals.reset()  # whoever has started this process may have been another that ignores them
    return yes(not _GLIBC_SIGNALS & (await signals_of(spawn))["SigIgn"])


@group.row("`ProcessLookupError`", "nothing happens", differs="better")
async def signal_beside_a_pipe(spawn: Spawner) -> str:
    """`send_signal()`, `terminate()` and `kill()` after the exit, while a grandchild keeps a pipe open."""
    child_end, parent_end = os.pipe()
    process = await spawn.exec(
        "sh", "-c", f"cat </dev/fd/{child_end} &", stdout=asyncio.subprocess.PIPE, pass_fds=[child_end]
    )
    os.close(child_end)
    await until(lambda: process.returncode is not None)
    try:
        process.kill()
    except ProcessLookupError as exc:
        return name_of(exc)
    finally:
        os.close(parent_end)
        await process.wait()
    return "nothing happens"


@group.row(
    "its exit status",
    Since({"3.11": "255, with a warning", "3.13": "its exit status"}),
    "its exit status",
    differs="better",
)
async def signal_to_a_zombie(spawn: Spawner) -> str:
    """The return code of a child that is sent a signal after its exit, before the loop has seen that."""
    for _ in range(30):  # asyncio's thread, on 3.11, may be quicker
        process, parent_end = await ends_when_told(spawn, 3)
        os.close(parent_end)
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        process.kill()
        if await process.wait() == 255:
            return "255, with a warning"
        assert process.returncode == 3
    return "its exit status"


@group.row("the child's pidfd", "its pid", "its pid", plugged="the child's pidfd", differs="better")
async def signals_go_through(spawn: Spawner) -> str:
    """What signals are sent to."""
    process = await spawn.exec("sleep", "1000")
    refuse({"pidfd_send_signal": "ENOTTY"})
    try:
        process.kill()
    except OSError as exc:
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        return {errno.ENOTTY: "the child's pidfd"}[exc.errno or 0]
    return "its pid"


_TRUE: Final = Unless(
    "its exit status",
    "255, with a warning",
    "before Linux 6.15",
    lambda: _binding.probe().pidfd_info_exit != 0,
)


@group.row(_TRUE, "255, with a warning", "its exit status", differs="better")
async def status_with_sigchld_ignored(spawn: Spawner) -> str:
    """The return code where SIGCHLD is ignored, so that the kernel reaps."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with logged() as records:
        process, parent_end = await ends_when_told(spawn, 7)
        os.close(parent_end)
        await process.wait()
    return _told(process, records)


@group.row(_TRUE, "255, with a warning", "the exit is never seen", differs="better")
async def status_that_was_stolen(spawn: Spawner) -> str:
    """The return code where somebody else has called `waitpid()` for the child."""
    with logged() as records:
        process = await _stolen(spawn)
        waiting = asyncio.ensure_future(process.wait())
        # What is not seen while so many later exits are seen, one after the other, never is.
        for _ in range(50):
            if not waiting.done():
                await (await spawn.exec("true")).wait()
        if not waiting.done():
            waiting.cancel()
            spawn.forget()
            return "the exit is never seen"
    return _told(process, records)


def _told(process: asyncio.subprocess.Process, records: list[logging.LogRecord]) -> str:
    warned = any(record.levelno == logging.WARNING for record in records)
    if warned:
        return f"{process.returncode}, with a warning"
    return {7: "its exit status"}[process.returncode or 0]


async def _stolen(spawn: Spawner) -> asyncio.subprocess.Process:
    """Start a child and reap it. asyncio's thread, on 3.11, may be quicker: as often as that takes."""
    while True:
        process, parent_end = await ends_when_told(spawn, 7)
        os.close(parent_end)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process.pid, 0)
            return process


@group.row("yes", uvloop="no, it is replaced")
async def handler_of_sigchld(spawn: Spawner) -> str:
    """A SIGCHLD handler of the application's is left alone."""
    heard = []
    signal.signal(signal.SIGCHLD, lambda *_: heard.append(True))
    await (await spawn.exec("true")).wait()
    await rounds(20)
    return yes(heard, "no, it is replaced")


@group.row(
    "a sleeping worker each, at most 64",
    Since({"3.11": "a thread each", "3.12": "none"}),
    "none",
    differs="worse",
)
async def threads(spawn: Spawner) -> str:
    """Threads that stay while children live."""
    await (await spawn.exec("true")).wait()
    await until(lambda: len(os.listdir("/proc/self/task")) == 1)
    for _ in range(3):
        await spawn.exec("sleep", "1000")
    workers = [name == "aiovfork" for name in _names_of_other_threads()]
    return {
        (True,) * 3: "a sleeping worker each, at most 64",
        (False,) * 3: "a thread each",
        (): "none",
    }[tuple(workers)]


def _names_of_other_threads() -> Iterator[str]:
    for tid in os.listdir("/proc/self/task"):
        if int(tid) != os.getpid():
            with open(f"/proc/self/task/{tid}/comm") as comm:
                yield comm.read().strip()
