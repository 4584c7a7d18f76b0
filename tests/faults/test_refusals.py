"""What is refused to one thread, or at one moment, is no fact of the process, and is never mistaken for another answer."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import os
import pathlib
import resource
import signal
import subprocess
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

import aiovfork
from aiovfork import PIPE, _binding
from tests.support.backends import LOOP_FACTORIES, in_thread
from tests.support.hold import held
from tests.support.isolated import isolated
from tests.support.native import compiled
from tests.support.seccomp import SYSCALLS, refuse
from tests.support.view import STOPPED, open_files, wait_stopped
from tests.support.window import child_in_window, until

needs_filters = pytest.mark.skipif(
    "execve" not in SYSCALLS, reason="knows the system calls of x86-64 and aarch64 only"
)
PIDS: Final = pathlib.Path("/sys/fs/cgroup/pids")


async def _attempt(*argv: str, **options: Any) -> list[Any]:
    """Spawn; return how it went, and how: engine, report, whether the child's table was unshared."""
    try:
        process = await aiovfork.create_subprocess_exec(*(argv or ("true",)), **options)
    except OSError as exc:
        return [exc.errno, exc.step]  # type: ignore[attr-defined]
    return [await process.wait(), *process.spawn_info[:3]]


def _one_confined_thread(loop: str, calls: dict[str, str]) -> list[Any]:
    """Spawn first in a thread that may not call something, then in one that may."""

    def run() -> list[Any]:
        with asyncio.Runner(loop_factory=LOOP_FACTORIES[loop]) as runner:
            return runner.run(_attempt())

    def confined() -> list[Any]:
        refuse(calls)
        return run()

    return [in_thread(confined), in_thread(run), in_thread(confined), run()]


@needs_filters
@pytest.mark.parametrize("error", ["EPERM", "EACCES"])
@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_waitid_is_refused_to_the_first_thread(loop: str, error: str) -> None:
    """waitid refused to one thread: its own spawns fail at once and say why; the others never hear of it."""
    first, second, third, last = isolated(_one_confined_thread, loop, {"waitid": error})
    assert first == third == [errno.__dict__[error], "wait"]
    assert second == last == [0, "clone3", "memory", True]


@needs_filters
def test_close_range_is_refused_to_the_first_thread() -> None:
    """close_range refused to one thread: there the table is copied; everywhere else it is still unshared."""
    first, second, third, last = isolated(_one_confined_thread, "asyncio", {"close_range": "EPERM"})
    assert first == third == [0, "clone3", "memory", False]
    assert second == last == [0, "clone3", "memory", True]


@needs_filters
def test_clone3_is_refused_to_the_first_thread() -> None:
    """clone3 refused to one thread: the others still use it."""
    first, second, third, last = isolated(_one_confined_thread, "asyncio", {"clone3": "EPERM"})
    # glibc from 2.34 on makes threads by clone3 and takes no errno but ENOSYS for its absence.
    for confined in (first, third):
        assert confined in ([0, "clone", "memory", True], [errno.EPERM, "thread"])
    assert second == last == [0, "clone3", "memory", True]


async def _refused_while_children_live(calls: dict[str, str]) -> list[Any]:
    processes = [await aiovfork.create_subprocess_exec("cat", stdin=PIPE) for _ in range(3)]
    refuse(calls)
    for process in processes[:2]:
        assert process.stdin is not None
        process.stdin.close()
    processes[2].kill()
    codes = [await process.wait() for process in processes]
    known = [process.returncode_known for process in processes]
    return [codes, known, await _attempt(), _children()]


@needs_filters
@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_waitid_is_refused_later(loop: str) -> None:
    """A filter on waitid that comes while children live: each exit is heard of, with its status, and leaves no zombie."""
    calls = {"waitid": "EPERM"}
    found = isolated(_refused_while_children_live, calls, loop=loop, check_leaks=False)  # which asks waitid
    assert found == [[0, 0, -9], [True, True, True], [errno.EPERM, "wait"], 0]


@needs_filters
@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_every_wait_is_refused_later(loop: str) -> None:
    """P5. Where nobody may wait at all, wait() returns all the same, and says that the code is not known."""
    calls = {"waitid": "EPERM", "wait4": "EPERM"}
    found = isolated(
        _refused_while_children_live, calls, loop=loop, check_leaks=False
    )  # nobody can reap them
    assert found == [[255, 255, 255], [False, False, False], [errno.EPERM, "wait"], 3]


async def _unknown_status(calls: dict[str, str]) -> list[Any]:
    events: list[Any] = []
    with aiovfork.on_event(events.append):
        process = await aiovfork.create_subprocess_exec("cat", stdin=PIPE)
        refuse(calls)
        process.kill()
        await process.wait()
    exited = events[-1]
    told = [exited.returncode, exited.returncode_known, exited.rusage]
    return [*told, repr(process).replace(str(process.pid), "PID")]


@needs_filters
def test_an_unknown_status_is_told_as_such() -> None:
    """Where nobody may wait, repr() of the process and the event of its exit say that the code is not known."""
    calls = {"waitid": "EPERM", "wait4": "EPERM"}
    found = isolated(_unknown_status, calls, loop="asyncio", check_leaks=False)  # nobody can reap it
    assert found == [255, False, None, "<Process PID 'cat' returncode=255 (unknown)>"]


def _children() -> int:
    found = 0
    for tid in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{tid}/children") as children:
            found += len(children.read().split())
    return found


def _threads_named(name: str) -> int:
    found = 0
    for tid in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{tid}/comm") as comm:
            found += comm.read().strip() == name
    return found


async def _living(number: int) -> list[aiovfork.Process]:
    return [await aiovfork.create_subprocess_exec("cat", stdin=PIPE) for _ in range(number)]


def _close_without_a_thread(uid: int, loop_name: str) -> list[Any]:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    loop = LOOP_FACTORIES[loop_name]()
    kept = loop.run_until_complete(_living(20))
    lib = _binding.lib
    assert lib.avf_park(0) == 1  # parked workers would be places for threads
    while _threads_named("aiovfork"):
        pass
    resource.setrlimit(resource.RLIMIT_NPROC, (1, hard))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        aiovfork._ports.close_port_of(loop)
        loop.close()
    for process in kept:  # dead, by the hand of close; some of them are reaped
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    reapers = _threads_named("aiovfork-reaper")
    resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
    with asyncio.Runner(loop_factory=LOOP_FACTORIES[loop_name]) as runner:
        code = runner.run(_attempt())[0]
        while _children():
            pass
    lib.avf_park(1)
    kept.clear()
    return [reapers, code]


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_no_thread_for_the_reaper(loop: str) -> None:
    """P6, P10. A loop that closes where no thread can be had (RLIMIT_NPROC): its children go with the next spawn."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become a user who has no other process")
    assert isolated(_close_without_a_thread, 3_100_000 + os.getpid(), loop, timeout=40) == [0, 0]


def _many_orphans(loop_name: str) -> list[int]:
    loop = LOOP_FACTORIES[loop_name]()
    kept = loop.run_until_complete(_living(150))
    most = 0
    aiovfork._ports.close_port_of(loop)
    while _children():
        most = max(most, _threads_named("aiovfork-reaper"))
    kept.clear()
    loop.close()
    return [most]


@pytest.mark.filterwarnings("ignore:unclosed")
@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_one_reaper(loop: str) -> None:
    """P10. However many children a loop leaves behind, there is no more than one thread that waits for them."""
    (most,) = isolated(_many_orphans, loop, check_leaks=False)
    assert most <= 1


def _nonblocking(loop_name: str) -> list[Any]:
    async def spawn() -> list[aiovfork.Process]:
        processes = [await aiovfork.create_subprocess_exec("cat", stdin=PIPE) for _ in range(3)]
        for process in processes:
            assert process.pidfd is not None
            flags = fcntl.fcntl(process.pidfd, fcntl.F_GETFL)
            fcntl.fcntl(process.pidfd, fcntl.F_SETFL, flags | os.O_NONBLOCK)
        assert processes[0].stdin is not None
        processes[0].stdin.close()
        processes[1]._transport.close()
        codes.extend([await processes[0].wait(), await processes[1].wait()])
        return processes

    codes: list[int] = []
    loop = LOOP_FACTORIES[loop_name]()
    kept = loop.run_until_complete(spawn())
    aiovfork._ports.close_port_of(loop)
    kept.clear()
    loop.close()
    while _children():  # the third one is the reaper's
        pass
    return codes


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_a_pidfd_that_does_not_block(loop: str) -> None:
    """O_NONBLOCK, set by somebody on process.pidfd, makes waitid say EAGAIN: no exit is missed, none made up."""
    assert isolated(_nonblocking, loop, check_leaks=False) == [0, -9]


async def _stolen_in_the_window(directory: str) -> list[Any]:
    found: list[Any] = []
    ended = threading.Event()

    def steal() -> None:
        while not ended.is_set():
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | 0x40000000)  # __WALL

    async with held(pathlib.Path(directory)) as hold:
        spawn = asyncio.ensure_future(aiovfork.create_subprocess_exec(hold.path))
        pid = await child_in_window(hold)
        thief = threading.Thread(target=steal)
        thief.start()
        os.kill(pid, signal.SIGKILL)
        try:
            process = await spawn
            found.append(await process.wait() if process.returncode_known else "unknown")
        except OSError as exc:
            found.append([exc.errno, exc.step])  # type: ignore[attr-defined]
        ended.set()
        thief.join()
    return found


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_a_thief_takes_a_child_killed_in_the_window(loop: str, tmp_path: pathlib.Path) -> None:
    """P5. Somebody's waitid for all children, __WALL included, reaps one killed in exec: no hang, and no invented code."""
    (found,) = isolated(_stolen_in_the_window, str(tmp_path), loop=loop, timeout=30)
    assert found in (-9, 255, "unknown") or found[1] == "exec"


@contextlib.contextmanager
def _group() -> Iterator[pathlib.Path]:
    group = PIDS / f"aiovfork-refusals-{os.getpid()}"
    group.mkdir()
    (group / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield group
    finally:
        (group / "pids.max").write_text("max")
        (PIDS / "cgroup.procs").write_text(str(os.getpid()))


async def _cancel_beside_a_refused_clone(attempts: int) -> list[Any]:
    """Clone fails after the kernel has put a number down for the pidfd; others open pidfds on that number."""
    stranger = subprocess.Popen(["sleep", "1000"])
    ended = threading.Event()

    def churn() -> None:
        while not ended.is_set():
            os.close(os.pidfd_open(stranger.pid))

    await _attempt()
    churner = threading.Thread(target=churn)
    churner.start()
    failed = 0
    with _group() as group:
        for _ in range(attempts):
            (group / "pids.max").write_text(str(len(os.listdir("/proc/self/task")) + 1))
            spawn = asyncio.ensure_future(_attempt())
            await asyncio.sleep(0)
            spawn.cancel()
            await asyncio.wait([spawn])
            failed += 1
        ended.set()
        churner.join()
    alive = stranger.poll() is None
    stranger.kill()
    stranger.wait()
    with contextlib.suppress(OSError):
        group.rmdir()
    return [failed, alive]


def test_a_number_of_a_clone_that_failed() -> None:
    """P10. The pids cgroup refuses a clone when its pidfd has a number already: a cancel signals nobody by that number."""
    if os.geteuid() != 0 or not (PIDS / "cgroup.procs").exists():
        pytest.skip(f"needs root, and the pids controller of cgroup v1 at {PIDS}")
    assert isolated(_cancel_beside_a_refused_clone, 500, loop="asyncio") == [500, True]


async def _pipe_beside_a_raw_fork(directory: str, library: str) -> list[Any]:
    _binding.force("clone3", "pipe")
    wait_for, release = os.pipe()
    async with held(pathlib.Path(directory), "cat") as hold:
        spawn = asyncio.ensure_future(aiovfork.create_subprocess_exec(hold.path, stdin=PIPE))
        await child_in_window(hold)
        fork: Callable[[int, int], int] = ctypes.CDLL(library).foreign_raw_fork
        pid = fork(wait_for, release)
        hold.release()
        process = await spawn  # its program does not end, nor does the forked process
    process.kill()
    code = await process.wait()
    os.close(release)
    os.close(wait_for)
    os.waitpid(pid, 0)
    return [code, process.spawn_info[1]]


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_a_report_by_pipe_beside_a_fork_without_handlers(loop: str, tmp_path: pathlib.Path) -> None:
    """P7, P11. A process forked without exec and without handlers keeps the report's pipe open: nobody waits for its end."""
    found = isolated(_pipe_beside_a_raw_fork, str(tmp_path), compiled("foreign"), loop=loop, timeout=30)
    assert found == [-9, "pipe"]


async def _above_the_limit(directory: str, many: bool) -> list[Any]:
    fd = os.open(f"{directory}/file", os.O_RDWR | os.O_CREAT)
    null = os.open(os.devnull, os.O_RDWR)
    for number, source in ((200, fd), (201, null)):
        os.dup2(source, number, inheritable=False)
    filler = [os.open(os.devnull, os.O_RDONLY) for _ in range(100 if many else 0)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (190, limits[1]))
    process = await aiovfork.create_subprocess_exec(*STOPPED, pass_fds=[200, 201])
    wait_stopped(process.pid)
    seen, _ = open_files(process.pid)
    process.kill()
    await process.wait()
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    for number in (fd, null, 200, 201, *filler):
        os.close(number)
    return [seen.get(200) == f"{directory}/file", seen.get(201)]


@pytest.mark.parametrize("many", [False, True])
def test_numbers_above_a_limit_that_was_lowered(many: bool, tmp_path: pathlib.Path) -> None:
    """P8. pass_fds above RLIMIT_NOFILE, opened before it was lowered, reach the child, as Popen's do."""
    assert isolated(_above_the_limit, str(tmp_path), many, loop="asyncio") == [True, "/dev/null"]


async def _fork_after_parking() -> list[Any]:
    lib = _binding.lib
    process = await aiovfork.create_subprocess_exec("cat", stdin=PIPE)
    parked = _threads_named("aiovfork")
    was = lib.avf_park(0)
    await until(lambda: _threads_named("aiovfork") == 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pid = os.fork()
    if pid == 0:
        os._exit(lib.avf_park(1))
    child = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    another = await aiovfork.create_subprocess_exec("cat", stdin=PIPE)
    await until(lambda: _threads_named("aiovfork") == 0)
    again = lib.avf_park(1)
    for living in (process, another):
        living.kill()
        await living.wait()
    return [parked, was, child, again]


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_parking_switched_off(loop: str) -> None:
    """Workers that wait for their children end at once where parking is switched off: os.fork() has no thread to warn of."""
    assert isolated(_fork_after_parking, loop=loop) == [1, 1, 0, 0]
