"""P8, P7, P10: files that a child is given. Holding them has no side effects on the caller's own."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import pathlib
import resource
import shutil
import signal
import socket
import struct
from collections.abc import Iterator
from typing import Any, Final, Self

import pytest

import aiovfork
from aiovfork import DEVNULL, PIPE
from aiovfork._binding import lib
from tests.support.backends import LOOP_FACTORIES
from tests.support.core import Port
from tests.support.dead_mount import dead_mount
from tests.support.hold import Hold, held
from tests.support.isolated import isolated
from tests.support.seccomp import SYSCALLS, refuse
from tests.support.window import BOUND, children_in_window, in_queue, reaped, task_cancelled, until

_OFD_GETLK: Final = 36  # F_OFD_GETLK; Python has no name for it before 3.12
_FLOCK: Final = "hhqqi4x"  # struct flock: type, whence, start, length, pid


class Locked:
    """A file with a record lock of this process. What looks at the lock must not close the file: that would drop it."""

    def __init__(self, path: pathlib.Path) -> None:
        path.touch()
        self._observer = os.open(path, os.O_RDWR)
        self.file = open(path, "r+b")  # noqa: SIM115  # closed by __exit__
        fcntl.lockf(self.file, fcntl.LOCK_EX)

    @property
    def is_locked(self) -> bool:
        """Whether this process has the lock."""
        look = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, *_, pid = struct.unpack(_FLOCK, fcntl.fcntl(self._observer, _OFD_GETLK, look))
        return bool(kind != fcntl.F_UNLCK and pid == os.getpid())

    def unlock(self) -> None:
        """Give the lock up."""
        fcntl.lockf(self.file, fcntl.LOCK_UN)

    def __enter__(self) -> Self:
        assert self.is_locked
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        os.close(self._observer)


def _options(file: Any, how: str) -> dict[str, Any]:
    return {"pass_fds": [file.fileno()]} if how == "pass_fds" else {how: file}


GIVEN: Final = ("stdin", "stdout", "stderr", "pass_fds")


@contextlib.contextmanager
def _standard_output(fd: int) -> Iterator[None]:
    saved = os.dup(1)
    os.dup2(fd, 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


async def _lock_beside_spawns(directory: str) -> dict[str, list[bool]]:
    found: dict[str, list[bool]] = {}
    for how in GIVEN:
        with Locked(pathlib.Path(directory) / how) as locked:
            options = _options(locked.file, how)
            await reaped(asyncio.ensure_future(aiovfork.create_subprocess_exec("true", **options)))
            found[how] = [locked.is_locked]
            with pytest.raises(FileNotFoundError):
                await aiovfork.create_subprocess_exec("/no/such/program", **options)
            with pytest.raises(FileNotFoundError):
                await aiovfork.create_subprocess_exec("true", **options, cwd="/no/such/directory")
            found[how].append(locked.is_locked)
    with Locked(pathlib.Path(directory) / "inherited") as locked, _standard_output(locked.file.fileno()):
        await reaped(asyncio.ensure_future(aiovfork.create_subprocess_exec("true")))
        found["inherited"] = [locked.is_locked]
    return found


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_record_locks_outlive_a_spawn(loop: str, tmp_path: pathlib.Path) -> None:
    """P8. A POSIX record lock of the caller on a file that it gives to a child, or that is its stdout, stays.

    To close any descriptor of the file in this process would drop it (fcntl(2)).
    """
    found = isolated(_lock_beside_spawns, str(tmp_path), loop=loop)
    assert found == {**{how: [True, True] for how in GIVEN}, "inherited": [True]}


async def test_record_locks_outlive_a_cancelled_spawn(tmp_path: pathlib.Path) -> None:
    """P8, P10. So does one on a file of a spawn that is cancelled in the queue, or in the window."""
    with Locked(tmp_path / "file") as locked:
        async with held(tmp_path) as hold:
            started = asyncio.ensure_future(
                aiovfork.create_subprocess_exec(hold.path, pass_fds=[locked.file.fileno()])
            )
            await hold.reached.wait()
            queued, others = await in_queue(
                hold, lambda: aiovfork.create_subprocess_exec("true", stdin=locked.file)
            )
            await task_cancelled(queued)
            await task_cancelled(started)
            assert locked.is_locked
            hold.release()
            await reaped(*others)
        assert locked.is_locked


async def _burst_with_a_lock(directory: str, number: int) -> list[Any]:
    fds_before = len(os.listdir("/proc/self/fd"))
    with Locked(pathlib.Path(directory) / "file") as locked:
        async with held(pathlib.Path(directory)) as hold:
            tasks = [
                asyncio.ensure_future(aiovfork.create_subprocess_exec(hold.path, stdin=locked.file))
                for _ in range(number)
            ]
            await hold.reached.wait()
            hold.release()
            codes = await reaped(*tasks)
        still = locked.is_locked
        locked.unlock()
    await reaped(asyncio.ensure_future(aiovfork.create_subprocess_exec("true")))
    await until(lambda: len(os.listdir("/proc/self/fd")) <= fds_before + 5)  # the port's, and the collector's
    return [set(codes) == {0}, still]


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_record_locks_outlive_a_burst(loop: str, tmp_path: pathlib.Path) -> None:
    """P8. Beyond the messages that may be in flight files are duplicated; the lock stays, the duplicate goes after it."""
    assert isolated(_burst_with_a_lock, str(tmp_path), 150, loop=loop) == [True, True]


async def _burst(directory: str, kind: str, number: int) -> list[Any]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    pair = socket.socketpair()
    paths = {"null": "/dev/null", "file": f"{directory}/file"}
    given = (
        pair[0].fileno() if kind == "socket" else os.open(paths[kind], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    )

    async def one() -> object:
        try:
            process = await aiovfork.create_subprocess_exec("true", stdin=given, stdout=given, stderr=given)
            return await process.wait()
        except OSError as exc:
            return [exc.errno, exc.step]  # type: ignore[attr-defined]

    found = await asyncio.gather(*(one() for _ in range(number)))
    if kind != "socket":
        os.close(given)
    for end in pair:
        end.close()
    return [result for result in found if result != 0][:3]


CONFINED: Final = ["setpriv", "--bounding-set", "-sys_resource,-sys_admin"]


@pytest.mark.parametrize("confined", [False, True], ids=["as it is", "without CAP_SYS_RESOURCE"])
@pytest.mark.parametrize("kind", ["null", "file", "socket"])
@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_a_burst_with_given_files(loop: str, kind: str, confined: bool, tmp_path: pathlib.Path) -> None:
    """P8. 450 spawns at once with the same given files, under the usual limit of 1,024 descriptors: all start.

    An unprivileged process may have no more files in flight, in messages, than descriptors.
    """
    if confined and (os.geteuid() != 0 or shutil.which("setpriv") is None):
        pytest.skip("needs root, and setpriv (util-linux)")
    prefix = CONFINED if confined else []
    assert isolated(_burst, str(tmp_path), kind, 450, loop=loop, prefix=prefix, check_leaks=False) == []


def _lingering() -> tuple[socket.socket, socket.socket]:
    """Return a TCP connection whose close waits for its peer to read all, which it does not yet, and the peer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        lingering = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
    lingering.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
    lingering.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            lingering.send(bytes(1 << 16))
    return lingering, peer


def _drop(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()  # with a reset


def _waits_in_close() -> bool:
    for tid in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{tid}/comm") as comm:
            name = comm.read()
            with open(f"/proc/self/task/{tid}/syscall") as call:
                if name.startswith("aiovfork") and call.read().split()[0] == str(SYSCALLS["close"]):
                    return True
    return False


def _in_exec(pid: int) -> bool:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/syscall") as call:
        return call.read().split()[0] == str(SYSCALLS["execve"])
    return False  # it was the probe's child


def _cancel_with_the_last_reference(directory: str, number: int) -> list[Any]:
    """Fill the window and the queue; nobody drains, so what is queued stays there."""
    before = signal.signal(signal.SIGURG, lambda *_: None)
    hold = Hold(shutil.copy(shutil.which("true") or "", f"{directory}/held"))
    port = Port()
    while aiovfork.stats().queued == 0:
        port.spawn(hold.path)
    while len(pids := children_in_window()) < aiovfork.stats().in_flight or not all(map(_in_exec, pids)):
        pass  # before that they have copies of the parent's descriptors, and would be who closes the last
    lingering, peer = _lingering()
    tickets = [port.spawn("true", stdin=lingering.fileno()) for _ in range(number)]
    lingering.close()
    for ticket in tickets:
        assert lib.avf_cancel(ticket, -errno.ECANCELED) == 0
    while not _waits_in_close():  # a thread of ours stands, and this one goes on
        pass
    _drop(peer)
    hold.release()
    lib.avf_port_free(port.port)
    signal.signal(signal.SIGURG, before)
    return [aiovfork.stats().queued]


@pytest.mark.skipif("close" not in SYSCALLS, reason="knows the system calls of x86-64 and aarch64 only")
@pytest.mark.parametrize("number", [1, 3])
def test_a_lingering_close_does_not_block_who_cancels(number: int, tmp_path: pathlib.Path) -> None:
    """P7, P10. A cancelled spawn may hold the last reference of a socket that lingers: another thread closes it."""
    assert isolated(_cancel_with_the_last_reference, str(tmp_path), number, timeout=40) == [0]


async def _under_a_filter(directory: str, calls: dict[str, str]) -> list[Any]:
    with Locked(pathlib.Path(directory) / "file") as locked:
        locked.file.write(b"given")
        locked.file.flush()
        refuse(calls)
        outputs = []
        for _ in range(3):
            locked.file.seek(0)
            process = await aiovfork.create_subprocess_exec("cat", stdin=locked.file, stdout=PIPE)
            output, _ = await process.communicate()
            outputs.append((output or b"").decode())
        tasks = [
            asyncio.ensure_future(
                aiovfork.create_subprocess_exec("true", stdin=locked.file, stdout=locked.file)
            )
            for _ in range(3 * BOUND)
        ]
        codes = await reaped(*tasks)
        found = [outputs, set(codes) == {0}, locked.is_locked]
        locked.unlock()
    await reaped(asyncio.ensure_future(aiovfork.create_subprocess_exec("true")))  # closes what had to wait
    return found


@pytest.mark.skipif("sendmsg" not in SYSCALLS, reason="knows the system calls of x86-64 and aarch64 only")
@pytest.mark.parametrize("call", ["sendmsg", "recvmsg", "socketpair", "kcmp", "statx"])
def test_a_sandbox_without_the_calls_that_hold_files(call: str, tmp_path: pathlib.Path) -> None:
    """P8. Where one of the calls is refused, each child still has its files, and the lock stays."""
    found = isolated(
        _under_a_filter, str(tmp_path), {call: "EPERM"}, loop="asyncio"
    )  # libuv needs some of them
    assert found == [["given"] * 3, True, True]


async def _pass_many(directory: str, number: int) -> list[Any]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    fds = []
    for index in range(number):
        fds.append(os.open(f"{directory}/{index}", os.O_RDWR | os.O_CREAT))
        os.write(fds[-1], b"%d\n" % index)
    script = "for fd; do eval 'head -n1 /dev/fd/'$fd; done"
    process = await aiovfork.create_subprocess_exec(
        "sh", "-c", script, "sh", *map(str, fds), stdout=PIPE, pass_fds=fds
    )
    output, _ = await process.communicate()
    for fd in fds:
        os.close(fd)
    return [line.decode() for line in (output or b"").split()]


def test_more_files_than_a_message_holds(tmp_path: pathlib.Path) -> None:
    """P8. 300 regular files in pass_fds, more than one message carries: each arrives on its number."""
    assert isolated(_pass_many, str(tmp_path), 300, loop="asyncio") == [str(n) for n in range(300)]


async def _give_a_dead_file(directory: str, how: str) -> list[Any]:
    with contextlib.ExitStack() as stack:
        try:
            mount = stack.enter_context(dead_mount(pathlib.Path(directory)))
        except OSError as exc:
            return [f"no mount: {exc}"]
        fd = os.open(mount.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        options = {"pass_fds": [fd]} if how == "pass_fds" else {"stdin": fd}
        process = await aiovfork.create_subprocess_exec("true", **options, stdout=DEVNULL)
        code = await process.wait()
        asked = mount.asked.is_set()
        os.close(fd)
    return [code, asked]


@pytest.mark.parametrize("how", ["stdin", "pass_fds"])
@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_a_file_of_a_dead_server_does_not_block_the_loop(loop: str, how: str, tmp_path: pathlib.Path) -> None:
    """P7. Nobody asks a file's server anything when the file is given to a child: it may never answer."""
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and /dev/fuse")
    found = isolated(_give_a_dead_file, str(tmp_path), how, loop=loop, timeout=30)
    if isinstance(found[0], str):
        pytest.skip(found[0])
    assert found == [0, False]


async def _hung_in_chdir(directory: str) -> list[Any]:
    """While a spawn stands in chdir, the other ends of what the caller closes see it."""
    with contextlib.ExitStack() as stack:
        try:
            mount = stack.enter_context(dead_mount(pathlib.Path(directory)))
        except OSError as exc:
            return [f"no mount: {exc}"]
        reader, writer = os.pipe()
        stands = asyncio.ensure_future(aiovfork.create_subprocess_exec("true", cwd=mount.path))
        await until(mount.asked.is_set)
        os.close(writer)
        ended = await asyncio.to_thread(os.read, reader, 1)
        os.close(reader)
        stands.cancel()
        before = stands.done()
    await asyncio.wait([stands])
    return [ended.decode(), before]


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_descriptors_are_closed_before_chdir(loop: str, tmp_path: pathlib.Path) -> None:
    """P8. A child that stands in chdir on a dead file server holds none of the caller's other descriptors."""
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and /dev/fuse")
    found = isolated(_hung_in_chdir, str(tmp_path), loop=loop, timeout=30)
    if isinstance(found[0], str) and found[0].startswith("no mount"):
        pytest.skip(found[0])
    assert found == ["", False]
