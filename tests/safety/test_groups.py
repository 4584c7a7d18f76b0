"""The core's groups: a signal reaches every member of a child's process group, and nobody else, ever."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import pathlib
import signal
import subprocess
from collections.abc import Iterator
from typing import Literal

import pytest

from aiovfork import _binding
from aiovfork._binding import lib
from tests.support.core import LEADS, Port
from tests.support.isolated import isolated

SET_CHILD_SUBREAPER = 36
LAST_PID = pathlib.Path("/proc/sys/kernel/ns_last_pid")
Group = Literal["pidfd", "number"]


@pytest.fixture(params=["pidfd", "number"])
def way(request: pytest.FixtureRequest) -> Iterator[Group]:
    """Run the test with groups signalled by pidfd, and as before Linux 6.9."""
    way: Group = request.param
    if way == "pidfd" and _binding.probe().pidfd_signal_group:
        pytest.skip("Linux before 6.9, or a filter")
    _binding.force(group=way)
    yield way
    _binding.force()


@pytest.fixture
def port() -> Iterator[Port]:
    """A port of the test's own."""
    port = Port()
    yield port
    lib.avf_port_free(port.port)


class Family:
    """A child and its descendant, which sleeps in the child's group: a pipe ends when both are gone."""

    def __init__(self, port: Port, then: str = "exit 3", *, leads: bool = True, flags: int = 0) -> None:
        self.read_end, write_end = os.pipe()
        # A job in the background has /dev/null for its standard input.
        script = f"exec 3>&0; sleep 60 & echo $! >&3; {then}"
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, write_end)
            self.ticket = port.spawn(
                "sh", "-c", script, stdin=write_end, steps=[LEADS] if leads else [], flags=flags
            )
            (self.pid,) = port.records(lib.AVF_SPAWNED, 1)
        with open(self.read_end, "rb", buffering=0, closefd=False) as pipe:
            self.descendant = int(pipe.readline())

    def is_over(self) -> None:
        """Wait until the child and its descendant are dead."""
        assert os.read(self.read_end, 1) == b""
        os.close(self.read_end)

    def lives(self) -> bool:
        """Whether the descendant is alive."""
        return pathlib.Path(f"/proc/{self.descendant}/stat").read_text().split()[2] not in "ZX"


def test_a_group_outlives_its_leader(port: Port, way: Group) -> None:
    """The record of the exit says that the group lives; signals reach it until the ticket is released."""
    family = Family(port)
    (exited,) = port.events(lib.AVF_EXITED, 1)
    assert exited.status == 3 << 8
    assert exited.flags == lib.AVF_GROUP_LIVES
    assert lib.avf_kill(family.ticket, 0) == -errno.ESRCH
    assert lib.avf_kill_group(family.ticket, 0) == 0
    assert lib.avf_kill_group(family.ticket, 1000) == -errno.EINVAL
    assert family.lives()
    assert lib.avf_kill_group(family.ticket, signal.SIGTERM) == 0
    family.is_over()
    assert lib.avf_release(family.ticket) == 0
    assert lib.avf_release(family.ticket) == -errno.ESRCH
    assert lib.avf_kill_group(family.ticket, 0) == -errno.ESRCH


def test_a_group_whose_leader_runs(port: Port, way: Group) -> None:
    """A signal to the group of a child that runs reaches the child and its descendants."""
    family = Family(port, "exec sleep 60")
    assert lib.avf_kill_group(family.ticket, signal.SIGTERM) == 0
    family.is_over()
    (exited,) = port.events(lib.AVF_EXITED, 1)
    assert exited.status == signal.SIGTERM
    lib.avf_release(family.ticket)


def test_a_leader_alone(port: Port, way: Group) -> None:
    """A leader without descendants costs nothing after its exit. Before Linux 6.9 nobody can tell, so it stays."""
    ticket = port.spawn("true", steps=[LEADS])
    (pid,) = port.records(lib.AVF_SPAWNED, 1)
    (exited,) = port.events(lib.AVF_EXITED, 1)
    assert exited.flags == (0 if way == "pidfd" else lib.AVF_GROUP_LIVES)
    if way == "pidfd":
        assert lib.avf_release(ticket) == -errno.ESRCH
    else:
        assert os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        assert lib.avf_release(ticket) == 0
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def test_one_that_leads_none(port: Port, way: Group) -> None:
    """A child in its caller's group is no leader: the caller's group gets no signal."""
    family = Family(port, leads=False)
    assert lib.avf_kill_group(family.ticket, signal.SIGKILL) == -errno.ESRCH
    (exited,) = port.events(lib.AVF_EXITED, 1)
    assert exited.flags == 0
    os.kill(family.descendant, signal.SIGKILL)
    family.is_over()


def test_a_pinned_pid(port: Port, way: Group) -> None:
    """With AVF_PLAN_PIN others can join the group after the leader's exit: its number is its own until the release."""
    ticket = port.spawn("true", steps=[LEADS], flags=lib.AVF_PLAN_PIN)
    (pid,) = port.records(lib.AVF_SPAWNED, 1)
    (exited,) = port.events(lib.AVF_EXITED, 1)
    assert exited.flags == lib.AVF_GROUP_LIVES
    joined = subprocess.Popen(["sleep", "60"], process_group=pid)
    assert lib.avf_kill_group(ticket, signal.SIGTERM) == 0
    assert joined.wait() == -signal.SIGTERM
    assert lib.avf_release(ticket) == 0
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def test_somebody_else_reaps_the_leader(port: Port, way: Group) -> None:
    """By pidfd the group is reached even then. By number nobody is: the number may be anybody's."""
    family = Family(port, "exec sleep 60")
    os.kill(family.pid, signal.SIGTERM)
    os.waitid(os.P_PID, family.pid, os.WEXITED)
    (exited,) = port.events(lib.AVF_EXITED, 1)
    assert bool(exited.flags & lib.AVF_GROUP_LIVES) == (way == "pidfd")
    signalled = lib.avf_kill_group(family.ticket, signal.SIGKILL)
    assert signalled == (0 if way == "pidfd" else -errno.ESRCH)
    if way == "number":
        os.kill(family.descendant, signal.SIGKILL)
    family.is_over()
    lib.avf_release(family.ticket)


@pytest.mark.parametrize("way", ["pidfd", "number"])
def test_a_number_is_given_again(way: Group) -> None:
    """Once a group is gone, its ticket signals nobody, whoever has the number by then."""
    if not isolated(_give_a_number_again, way):
        pytest.skip("the next pid cannot be chosen here")


def _give_a_number_again(way: Group) -> bool:
    ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1)  # so that the descendant's zombie can be reaped here
    _binding.force(group=way)
    port = Port()
    family = Family(port)
    port.events(lib.AVF_EXITED, 1)
    assert lib.avf_kill_group(family.ticket, signal.SIGKILL) == 0
    family.is_over()
    if way == "number":  # as long as the ticket is held, the number is not given again
        assert os.waitid(os.P_PID, family.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        lib.avf_release(family.ticket)
    os.waitpid(family.descendant, 0)
    stranger = None
    while stranger is None or stranger.pid != family.pid:  # somebody else may be faster
        if stranger is not None:
            stranger.kill()
            stranger.wait()
        try:
            LAST_PID.write_text(str(family.pid - 1))
        except OSError:
            return False
        stranger = subprocess.Popen(["sleep", "60"], process_group=0)
    assert os.getpgid(stranger.pid) == family.pid
    assert lib.avf_kill_group(family.ticket, signal.SIGKILL) == -errno.ESRCH
    lib.avf_release(family.ticket)
    assert stranger.poll() is None
    stranger.kill()
    assert stranger.wait() == -signal.SIGKILL
    lib.avf_port_free(port.port)
    return True


def test_the_port_closes(way: Group) -> None:
    """Tickets that are held are released with the port; the groups live on, as plain children's do."""
    port = Port()
    family = Family(port)
    port.events(lib.AVF_EXITED, 1)
    lib.avf_port_free(port.port)
    assert lib.avf_kill_group(family.ticket, 0) == -errno.ESRCH
    assert family.lives()
    os.kill(family.descendant, signal.SIGKILL)
    family.is_over()


@pytest.mark.parametrize("then", ["exit 3", "exec sleep 60"])
@pytest.mark.parametrize("end", ["dispose", "close"])
def test_a_group_dies_with_its_leader(way: Group, then: str, end: str) -> None:
    """With AVF_PLAN_GROUP_DIES whoever ends the child for want of a receiver ends its group."""
    port = Port()
    family = Family(port, then, flags=lib.AVF_PLAN_GROUP_DIES)
    if then == "exit 3":
        port.events(lib.AVF_EXITED, 1)
    if end == "close":
        lib.avf_port_close(port.port)
    lib.avf_dispose(family.ticket)
    family.is_over()
    lib.avf_port_free(port.port)


def test_a_child_that_was_disposed_of_is_not_held(port: Port, way: Group) -> None:
    """Nobody will release it."""
    family = Family(port, "exec sleep 60")
    assert lib.avf_dispose(family.ticket) == 0
    (exited,) = port.events(lib.AVF_EXITED, 1)
    assert exited.flags == 0
    assert lib.avf_release(family.ticket) == -errno.ESRCH
    os.kill(family.descendant, signal.SIGKILL)
    family.is_over()


def test_fork(port: Port, way: Group) -> None:
    """A forked child has no pidfd of a ticket that is held, and cannot signal the group."""
    family = Family(port)
    port.events(lib.AVF_EXITED, 1)
    pid = os.fork()
    if pid == 0:
        pidfds = [fd for fd in os.listdir("/proc/self/fd") if _is_pidfd(fd)]
        os._exit(len(pidfds) + (lib.avf_kill_group(family.ticket, 0) != -errno.ESRCH))
    assert os.waitpid(pid, 0) == (pid, 0)
    assert lib.avf_kill_group(family.ticket, signal.SIGKILL) == 0
    family.is_over()
    lib.avf_release(family.ticket)


def _is_pidfd(fd: str) -> bool:
    try:
        return "pidfd" in os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        return False
