"""A cgroup (v2) of one child's own: whoever descends from the child is in it, and can be ended with it.

What is asked of the cgroup file system may wait for the kernel's one lock of cgroups, so it runs in a thread
of its own, off_loop(): not in the loop's executor, which the application may have filled.

Layer: below the transport. Thread: any; what says that it blocks is for off_loop().
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import pathlib
import signal as signals
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from aiovfork._binding import lib
from aiovfork._errors import Request, spawn_error

T = TypeVar("T")

_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.05
# How long the end of a cgroup that nobody waits for is tried.
_PATIENCE: Final = 10.0


class Cgroup:
    """A leaf of the cgroup file system. Whoever drops it unremoved has its processes killed, off the loop.

    It belongs to the process that has made it. One that was forked from that, and ends, leaves it alone.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._owner = os.getpid()
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        # At the interpreter's exit too.
        self._end = weakref.finalize(self, _end_soon, path, self._owner)

    @classmethod
    def create(cls) -> Cgroup:
        """Make a leaf below the cgroup of this process. Blocks.

        Raises:
            OSError: There is no cgroup v2, or it is not delegated to this user.
        """
        path = os.path.join(_own_directory(), f"aiovfork-{os.getpid()}-{os.urandom(6).hex()}")
        os.mkdir(path)
        try:
            return cls(path)
        except BaseException:
            os.rmdir(path)
            raise

    def close_fd(self) -> None:
        """Close the descriptor, which the spawn alone needs. Idempotent."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def signal(self, signal: int) -> bool:
        """Signal every process in it. Blocks. Returns whether there was one.

        Raises:
            PermissionError: None could be signalled.
        """
        return self._owner == os.getpid() and _signal(self.path, signal)

    def is_populated(self) -> bool:
        """Whether a process in it is alive: zombies do not count. Blocks."""
        return _is_populated(self.path)

    def remove(self) -> bool:
        """Remove it if nobody lives in it, and tell whether it is gone. Blocks. Idempotent."""
        if self._end.alive and (self._owner != os.getpid() or _remove(self.path)):
            self._end.detach()
        return not self._end.alive

    def end_soon(self) -> None:
        """Kill what lives in it, and remove it, in a thread. Idempotent."""
        self._end()

    def let_live(self) -> None:
        """Have what lives in it live on, with the cgroup, whoever drops this."""
        self._end.detach()

    def leave_soon(self) -> None:
        """Remove it in a thread, if nobody lives in it."""
        if self._end.alive:
            _in_thread(self.remove)

    def __del__(self) -> None:
        self.close_fd()


async def own_cgroup(request: Request) -> Cgroup:
    """Make a cgroup for a child that is about to be started.

    Raises:
        SpawnError: It cannot be had. The step is "cgroup".
    """
    try:
        return await off_loop(Cgroup.create)
    except OSError as exc:
        raise spawn_error(request, -(exc.errno or errno.EIO), lib.AVF_STEP_CGROUP) from exc


async def off_loop(function: Callable[[], T]) -> T:
    """Run a function in a thread of its own, and return its result. If cancelled, the result is dropped."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, exc: BaseException | None) -> None:
        if future.done():
            return
        if exc is None:
            future.set_result(result)  # type: ignore[arg-type]  # it is T where there is no exception
        else:
            future.set_exception(exc)

    def work() -> None:
        try:
            settled = functools.partial(settle, function(), None)
        except BaseException as exc:  # noqa: BLE001  # raised again where it is awaited
            settled = functools.partial(settle, None, exc)
        with contextlib.suppress(RuntimeError):  # the loop has closed meanwhile
            loop.call_soon_threadsafe(settled)

    threading.Thread(target=work, name="aiovfork-cgroup", daemon=True).start()
    return await future


def _in_thread(function: Callable[[], object]) -> None:
    try:
        threading.Thread(target=function, name="aiovfork-cgroup", daemon=True).start()
    except RuntimeError:  # no thread can be had, or the interpreter is ending
        function()


# ---- the file system; all of it blocks ----


def _own_directory() -> str:
    """Return the directory of this process' cgroup."""
    own = next((line[3:] for line in _lines("/proc/self/cgroup") if line.startswith("0::")), None)
    for line in _lines("/proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        if own is not None and after.startswith("cgroup2 "):
            root, mount = (_unescaped(field) for field in before.split(" ")[3:5])
            relative = os.path.relpath(own, root)
            if not relative.startswith(".."):
                return os.path.normpath(os.path.join(mount, relative))
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def _lines(path: str) -> list[str]:
    return pathlib.Path(path).read_text(encoding="utf-8", errors="surrogateescape").splitlines()


def _unescaped(field: str) -> str:
    """Undo what the kernel does to blanks, tabs, line feeds and backslashes in /proc/self/mountinfo."""
    for code in ("040", "011", "012", "134"):
        field = field.replace(f"\\{code}", chr(int(code, 8)))
    return field


def _directories(path: str) -> list[str]:
    """Return the cgroup and those that its processes have made in it, the innermost first."""
    return [directory for directory, _, _ in os.walk(path, topdown=False)]


def _pids(path: str) -> Iterator[int]:
    for directory in _directories(path):
        with contextlib.suppress(OSError):  # removed meanwhile
            yield from map(int, _lines(os.path.join(directory, "cgroup.procs")))


def _signal(path: str, signal: int) -> bool:
    if signal == signals.SIGKILL and _kill_at_once(path):
        return True
    refused, found = None, 0
    for pid in _pids(path):
        try:
            found += _signal_member(path, pid, signal)
        except PermissionError as exc:
            refused = exc
    if refused is not None and not found:
        raise refused
    return bool(found)


def _kill_at_once(path: str) -> bool:
    """Whether the kernel could kill all of them in one step: Linux 5.14."""
    try:
        with open(os.path.join(path, "cgroup.kill"), "w", encoding="ascii") as file:
            file.write("1")
    except OSError:
        return False
    return True


def _signal_member(path: str, pid: int, signal: int) -> bool:
    """Signal a process if it is in the cgroup: looked up once the pidfd is there, so it is nobody else."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        own = _lines(f"/proc/{pid}/cgroup")[-1]  # "0::" and the path comes last
        if os.path.basename(path) not in own.split("/"):
            return False
        signals.pidfd_send_signal(pidfd, signal)
    except (ProcessLookupError, FileNotFoundError):
        return False
    finally:
        os.close(pidfd)
    return True


def _is_populated(path: str) -> bool:
    try:
        return "populated 1" in _lines(os.path.join(path, "cgroup.events"))
    except OSError:  # ENOENT, or ENODEV in the midst of its removal
        return False


def _remove(path: str) -> bool:
    """Whether nothing is there any more. EBUSY: somebody lives in it."""
    try:
        for directory in _directories(path):
            os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _end(path: str) -> None:
    """Kill what lives in it until it can be removed."""
    pause, deadline = _FIRST_PAUSE, time.monotonic() + _PATIENCE
    while not _remove(path) and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            _signal(path, signals.SIGKILL)
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _end_soon(path: str, owner: int) -> None:
    if owner == os.getpid():  # else this process was forked, and it is for its parent to say
        _in_thread(functools.partial(_end, path))
