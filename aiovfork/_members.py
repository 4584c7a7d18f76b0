"""Who is in a child's tree: how they are signalled, and whether one of them is alive.

Nobody is signalled by a number that may have become somebody else's. A group is signalled by the pidfd of its
leader, or by the number of a leader that nobody has reaped (csrc/group.c); members of a session or a cgroup
each by a pidfd, after a look at where they belong.

Layer: below the tree. Thread: the loop's.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal as signals
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Literal, Protocol, TypeAlias

from aiovfork._cgroup import Cgroup, off_loop

Tree: TypeAlias = Literal["group", "session", "cgroup"]

# Between two looks at whether somebody lives, in seconds.
_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.05
# Entries of /proc that are read in one round of the loop: 1 ms at most.
_SLICE: Final = 32
# Fields of /proc/PID/stat behind the name (proc(5)).
_STATE, _GROUP, _SESSION = 0, 2, 3


class Stoppable(Protocol):
    """A child, as stop() sees it."""

    @property
    def pid(self) -> int:
        """The child's pid."""

    @property
    def exited(self) -> bool:
        """Whether the exit was told."""

    @property
    def cgroup(self) -> Cgroup | None:
        """The child's own cgroup."""

    def kill(self, signal: int) -> None:
        """Signal the child. Nothing happens once it has exited. May raise PermissionError."""

    def kill_group(self, signal: int) -> bool:
        """Signal the group that the child leads, also after its exit; as CompletionPort.kill_group."""

    def pin(self) -> None:
        """Have the child's pid stay its own after the exit, until release()."""

    def release(self) -> None:
        """Give back what is held of an exited child: its group cannot be reached any more. Idempotent."""

    def wait_exit(self) -> Awaitable[object]:
        """Wait until the exit is told."""


class Members:
    """The child alone; and what is common to all trees."""

    def __init__(self, child: Stoppable) -> None:
        self.child = child

    async def signal(self, signal: int) -> None:
        """Signal all members."""
        self.child.kill(signal)

    def kill_now(self) -> None:
        """Send SIGKILL without waiting for anything."""
        with contextlib.suppress(OSError):
            self.child.kill(signals.SIGKILL)

    async def alive(self) -> bool:
        """Whether a member other than the child, which has exited, is alive."""
        return False

    async def gone(self, patience: float) -> bool:
        """Wait so many seconds at most until the child was reaped and no member is alive."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        if not self.child.exited:
            if not patience:
                return False
            try:
                async with asyncio.timeout_at(deadline):
                    await self.child.wait_exit()
            except TimeoutError:
                return False
        pause = _FIRST_PAUSE
        while await self.alive():
            left = deadline - loop.time()
            if left <= 0:
                return False
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)
        return True


class _Group(Members):
    """The process group that the child leads; the child alone if it leads none."""

    column = _GROUP
    _known: Iterable[int] = ()
    _killed = False

    async def signal(self, signal: int) -> None:
        reached = self.child.kill_group(signal)
        if signal == signals.SIGKILL:
            self._killed = True
        if (
            not reached or self._killed
        ):  # one that has left its group, or has other credentials than the others
            self.child.kill(signal)

    def kill_now(self) -> None:
        with contextlib.suppress(OSError):
            self.child.kill_group(signals.SIGKILL)
        super().kill_now()

    async def alive(self) -> bool:
        """Ask the kernel; if there are members, look whether one is more than a zombie."""
        try:
            if not self.child.kill_group(0):
                return False
        except PermissionError:  # of all that are left
            return False
        # Those that were alive the last time are asked first.
        self._known = list(filter(self.is_member, self._known))
        if self._known:
            return True
        try:
            self._known = await _scan(self.is_member)
        except OSError:  # no /proc: the kernel's word counts, until nobody in the group can be alive
            return not self._killed
        if not self._known and not self._killed:
            # Zombies only, or one that was forked behind the back of the scan: SIGKILL misses nobody.
            self._killed = True
            with contextlib.suppress(PermissionError):
                self.child.kill_group(signals.SIGKILL)
            self._known = await _scan(self.is_member)
        return bool(self._known)

    def is_member(self, pid: int) -> bool:
        """Whether the process is a living member, and may be signalled."""
        fields = _stat(pid)
        return fields is not None and fields[self.column] == str(self.child.pid) and _may_signal(pid)


class _Session(_Group):
    """The session that the child leads: its group, and the others.

    The child stays unreaped meanwhile, a member of its group. So its number is the session's for sure.
    """

    column = _SESSION

    def __init__(self, child: Stoppable) -> None:
        super().__init__(child)
        child.pin()

    async def signal(self, signal: int) -> None:
        await super().signal(signal)
        with contextlib.suppress(FileNotFoundError):  # no /proc
            for pid in await _scan(self.is_member):
                self._signal_member(pid, signal)

    def _signal_member(self, pid: int, signal: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            pidfd = os.pidfd_open(pid)
            try:
                fields = _stat(pid)  # the group has been signalled
                if self.is_member(pid) and fields is not None and fields[_GROUP] != str(self.child.pid):
                    signals.pidfd_send_signal(pidfd, signal)
            finally:
                os.close(pidfd)


class _InCgroup(Members):
    """The child's own cgroup."""

    def __init__(self, child: Stoppable, cgroup: Cgroup) -> None:
        super().__init__(child)
        self.cgroup = cgroup

    async def signal(self, signal: int) -> None:
        await off_loop(lambda: self.cgroup.signal(signal))

    def kill_now(self) -> None:
        super().kill_now()
        self.cgroup.end_soon()

    async def alive(self) -> bool:
        return await off_loop(self.cgroup.is_populated)

    async def gone(self, patience: float) -> bool:
        gone = await super().gone(patience)
        if gone:
            await off_loop(self.cgroup.remove)
        return gone


def members_of(child: Stoppable, tree: Tree | None) -> Members:
    if tree == "group":
        return _Group(child)
    if tree == "session":
        return _Session(child)
    if tree == "cgroup":
        if child.cgroup is None:
            raise ValueError("tree='cgroup' needs a child that was started with own_cgroup=True")
        return _InCgroup(child, child.cgroup)
    return Members(child)


async def leaders_of_the_living(tree: Tree | None) -> set[int]:
    """Return the numbers of the groups, or of the sessions, that have a member that is alive."""
    column = _SESSION if tree == "session" else _GROUP
    found: set[int] = set()

    def note(pid: int) -> bool:
        fields = _stat(pid)
        if fields is not None:
            found.add(int(fields[column]))
        return False

    await _scan(note)
    return found


async def _scan(is_member: Callable[[int], bool]) -> list[int]:
    """Look through all processes, in slices."""
    found: list[int] = []
    with os.scandir("/proc") as entries:
        pids = (int(entry.name) for entry in entries if entry.name.isdigit())
        while part := list(itertools.islice(pids, _SLICE)):
            found += filter(is_member, part)
            await asyncio.sleep(0)
    return found


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat behind the name, or None for a process that is dead or gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            fields = file.read().rpartition(b")")[2].decode("ascii").split()
    except OSError:
        return None
    return fields if fields and fields[_STATE] not in "ZXx" else None


def _may_signal(pid: int) -> bool:
    """Whether the kernel would let us. One that it would not cannot be ended, and is not waited for."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
