"""The core's cgroups: a child is born into the cgroup whose directory its plan names, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
from collections.abc import Iterator

import pytest

from aiovfork import _binding
from aiovfork._binding import ffi, lib
from tests.support.core import Port, plan

MOUNTS = [line.split() for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
MOUNT = next((fields[1] for fields in MOUNTS if fields[2] == "cgroup2"), None)


@pytest.fixture
def leaf() -> Iterator[pathlib.Path]:
    """A cgroup of the test's own."""
    own = pathlib.Path("/proc/self/cgroup").read_text().rpartition("0::")[2].strip()
    leaf = pathlib.Path(f"{MOUNT}{own}", f"aiovfork-test-{os.getpid()}")
    try:
        leaf.mkdir()
    except OSError as exc:
        pytest.skip(f"cgroup v2 is not delegated here: {exc}")
    yield leaf
    leaf.rmdir()


@pytest.fixture
def port() -> Iterator[Port]:
    """A port of the test's own."""
    port = Port()
    yield port
    lib.avf_port_free(port.port)


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[int]:
    """Open a directory for the block."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def spawn(port: Port, cgroup: int) -> int:
    """Ask for a child in that cgroup, and return the ticket."""
    block = plan("sleep", "60", cgroup=cgroup)
    ticket: int = lib.avf_spawn(port.port, block, len(block), ffi.NULL, ffi.new("int32_t *"))
    return ticket


def test_a_child_is_born_there(port: Port, leaf: pathlib.Path) -> None:
    """The child is in the cgroup when it runs; the descriptor may be closed as soon as the call has returned."""
    with opened(leaf) as fd:
        spawn(port, fd)
    (pid,) = port.records(lib.AVF_SPAWNED, 1)
    assert pathlib.Path(f"/proc/{pid}/cgroup").read_text().rstrip().endswith(f"/{leaf.name}")
    assert leaf.joinpath("cgroup.procs").read_text().split() == [str(pid)]
    leaf.joinpath("cgroup.kill").write_text("1")
    port.events(lib.AVF_EXITED, 1)


def test_it_fails_without_clone3(port: Port, leaf: pathlib.Path) -> None:
    """Where clone3 cannot be used, no child is started outside of the cgroup: the spawn fails."""
    _binding.force("clone")
    try:
        with opened(leaf) as fd:
            spawn(port, fd)
        failed(port, errno.ENOSYS)
    finally:
        _binding.force()


def test_a_cgroup_that_was_removed(port: Port, leaf: pathlib.Path) -> None:
    """The spawn fails at the step "cgroup"."""
    with opened(leaf) as fd:
        leaf.rmdir()
        spawn(port, fd)
        failed(port, errno.ENOENT, errno.ENODEV)
    leaf.mkdir()


def test_what_is_no_cgroup(port: Port) -> None:
    """The spawn fails at the step "cgroup"; a number that is closed is refused at the call."""
    with opened(pathlib.Path("/")) as fd:
        spawn(port, fd)
        failed(port, errno.EBADF)
    assert spawn(port, fd) == -errno.EBADF


def failed(port: Port, *errors: int) -> None:
    """Wait for the record of a failure at the step "cgroup"."""
    (event,) = port.events(lib.AVF_FAILED, 1)
    assert event.step == lib.AVF_STEP_CGROUP
    assert -event.error in errors
