"""P7, P8: a child's table where the process has many descriptors, and the numbers that the core keeps for that."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

import aiovfork
from aiovfork import DEVNULL, PIPE, STDOUT, _binding
from aiovfork._binding import lib
from tests.support.backends import LOOP_FACTORIES
from tests.support.core import Port, Step
from tests.support.hold import held
from tests.support.isolated import isolated
from tests.support.mailboxes import NUMBERS, mailboxes, many_open
from tests.support.seccomp import SYSCALLS, refuse, refuse_flag
from tests.support.view import STOPPED, wait_stopped
from tests.support.window import children_in_window, reaped

MODES: Final = [(engine, report) for engine in ("clone3", "clone") for report in ("memory", "pipe")]
_IO_URING_SETUP: Final = 425

needs_filters = pytest.mark.skipif(
    "execve" not in SYSCALLS, reason="knows the system calls of x86-64 and aarch64 only"
)


def _identity(path: str | int) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _table(pid: int) -> dict[int, tuple[int, int]]:
    return {int(fd): _identity(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}


@contextlib.contextmanager
def _sources(directory: pathlib.Path | str) -> Iterator[dict[str, Any]]:
    """Open one of each kind of file that a child may be given."""
    with contextlib.ExitStack() as stack:
        ours, peer = socket.socketpair()
        stack.enter_context(ours)
        stack.enter_context(peer)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        yield {
            "socket": ours,
            "peer": peer,
            "listener": listener,
            "file": stack.enter_context(open(f"{directory}/file", "w+b")),
            "other file": stack.enter_context(open(f"{directory}/other", "w+b")),
            "device": stack.enter_context(open(os.devnull, "r+b")),
        }


WAYS: Final[list[dict[str, Any]]] = [
    {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE},
    {"stdin": DEVNULL, "stdout": PIPE, "stderr": STDOUT},
    {"stdin": "socket", "stdout": "socket", "stderr": "file"},
    {"stdin": "file", "stdout": PIPE, "pass_fds": ["other file", "listener", "device"]},
    {"stdin": "device", "stdout": "file", "stderr": PIPE, "pass_fds": ["socket", "peer", "file"]},
    {"stdin": DEVNULL, "stdout": DEVNULL, "stderr": DEVNULL, "pass_fds": ["listener"]},
    {},
]


async def _spawn_in_all_ways(directory: str, ways: list[dict[str, Any]] = WAYS) -> list[bool]:
    """Spawn in each way, and compare each child's table with what it was given. Returns whether it was unshared."""
    unshared = []
    with _sources(directory) as files:
        for way in ways:
            options = {
                name: files.get(kind, kind) if name != "pass_fds" else kind for name, kind in way.items()
            }
            passed = [files[kind].fileno() for kind in way.get("pass_fds", [])]
            process = await aiovfork.create_subprocess_exec(*STOPPED, **{**options, "pass_fds": passed})
            try:
                wait_stopped(process.pid)
                table = _table(process.pid)
            finally:
                process.kill()
                await process.communicate()
            assert table.keys() == {0, 1, 2, *passed}, way
            for fd in passed:
                assert table[fd] == _identity(fd), way
            for number, name in enumerate(("stdin", "stdout", "stderr")):
                if hasattr(options.get(name), "fileno"):
                    assert table[number] == _identity(options[name].fileno()), way
                elif options.get(name) == PIPE:
                    assert os.major(table[number][0]) == 0, way
                elif name not in options:
                    assert table[number] == _identity(number), way
            if options.get("stderr") == STDOUT:
                assert table[2] == table[1]
            unshared.append(process.spawn_info.fds_unshared)
    return unshared


async def test_every_kind_of_source(tmp_path: pathlib.Path) -> None:
    """P8. With many open, a child's table holds what it was given and nothing else, and is not copied whole."""
    before = mailboxes()
    assert len(before) == NUMBERS
    with many_open():
        assert await _spawn_in_all_ways(str(tmp_path)) == [True] * len(WAYS)
        assert mailboxes() == before


@pytest.mark.parametrize("mode", MODES, ids="-".join)
def test_each_engine_and_report(mode: tuple[str, str], tmp_path: pathlib.Path) -> None:
    """P8. So does each engine; a report by pipe comes with a copy of the table."""
    found = isolated(_forced, mode, str(tmp_path), loop="asyncio")
    assert found == [mode[1] == "memory"] * len(WAYS)


async def _forced(mode: list[str], directory: str) -> list[bool]:
    _binding.force(*mode)  # type: ignore[arg-type]
    with many_open():
        return await _spawn_in_all_ways(directory)


async def test_a_file_that_cannot_be_sent() -> None:
    """P8. A file that no message carries is given all the same."""
    parameters = ctypes.create_string_buffer(120)  # struct io_uring_params
    ring = ctypes.CDLL(None, use_errno=True).syscall(_IO_URING_SETUP, 1, parameters)
    if ring < 0:
        pytest.skip(f"io_uring: {os.strerror(ctypes.get_errno())}")
    try:
        with many_open():
            process = await aiovfork.create_subprocess_exec(*STOPPED, stdin=DEVNULL, pass_fds=[ring])
            wait_stopped(process.pid)
            table = _table(process.pid)
            process.kill()
            await process.wait()
        assert table.keys() == {0, 1, 2, ring}
        assert os.readlink(f"/proc/self/fd/{ring}") == "anon_inode:[io_uring]"
    finally:
        os.close(ring)


async def test_many_sources() -> None:
    """P8. As many sockets as one message carries are given without a copy of the table; with more it is copied."""
    for count in (253, 254):
        with many_open(), contextlib.ExitStack() as stack:
            pairs = [socket.socketpair() for _ in range(count // 2 + 1)]
            passed = [stack.enter_context(one).fileno() for pair in pairs for one in pair][:count]
            process = await aiovfork.create_subprocess_exec(*STOPPED, stdin=DEVNULL, pass_fds=passed)
            wait_stopped(process.pid)
            table = _table(process.pid)
            process.kill()
            await process.wait()
            assert {fd: table[fd] for fd in passed} == {fd: _identity(fd) for fd in passed}
            assert len(table) == 3 + count
            assert process.spawn_info.fds_unshared == (count <= 253)


async def test_run_with_many_open() -> None:
    """P7. run() captures where the process has many descriptors."""
    with many_open():
        completed = await aiovfork.run("cat", input=b"x" * 100_000)
        assert (completed.returncode, len(completed.stdout)) == (0, 100_000)


async def test_failures_with_many_open() -> None:
    """P4, P6. With many open a failed start tells errno and step, and leaves the numbers for the next one."""
    before = mailboxes()
    with many_open():
        for argv, options, step in (
            (["/no/such/program"], {}, "exec"),
            (["true"], {"cwd": "/no/such/directory"}, "chdir"),
        ):
            with pytest.raises(FileNotFoundError) as info:
                await aiovfork.create_subprocess_exec(*argv, stdin=PIPE, stdout=PIPE, **options)  # type: ignore[arg-type]
            assert info.value.step == step  # type: ignore[attr-defined]
            assert mailboxes() == before


def test_the_launcher_with_many_open() -> None:
    """P8. What launches a child sits high as well: it is sent, and the program holds nothing of it."""
    before = mailboxes()
    port = Port()
    with many_open():
        read_end, write_end = os.pipe()
        steps = [Step(lib.AVF_STEP_SETGID, os.getgid())]
        ticket = port.spawn("ls", "-l", "/proc/self/fd", stdout=write_end, steps=steps)
        os.close(write_end)
        (record,) = port.events(lib.AVF_SPAWNED, 1)
        with open(read_end) as output:
            listed = re.findall(r" (\d+) -> (.*)$", output.read(), re.MULTILINE)
        port.events(lib.AVF_EXITED, 1)
        assert record.ticket == ticket
        assert (
            record.flags & (lib.AVF_LAUNCHER | lib.AVF_FDS_UNSHARED)
            == lib.AVF_LAUNCHER | lib.AVF_FDS_UNSHARED
        )
        assert [int(fd) for fd, _ in listed] == [0, 1, 2, 3]  # ls itself opens a directory
        assert [target for _, target in listed[:3:2]] == ["/dev/null"] * 2
        assert mailboxes() == before
    lib.avf_port_free(port.port)


async def test_a_number_of_ours_is_given() -> None:
    """P8. A number that the caller does not have is EBADF, also where the core has it."""
    for number in mailboxes():
        with pytest.raises(OSError, match="Bad file descriptor") as info:
            await aiovfork.create_subprocess_exec("true", pass_fds=[number])
        assert (info.value.errno, info.value.step) == (errno.EBADF, "dup fds")  # type: ignore[attr-defined]


async def _closed_and_reused(directory: str) -> list[Any]:
    """Close the core's numbers, and use them for connections of one's own."""
    ours = mailboxes()
    mine, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with many_open(), mine, peer:
        os.closerange(ours[0], ours[-1] + 1)
        for number in ours:
            os.dup2(mine.fileno(), number, inheritable=False)
        peer.send(b"a message of the application's")
        copied = await _spawn_in_all_ways(directory)
        still = [_identity(number) == _identity(mine.fileno()) for number in ours]
        peer.setblocking(False)
        with pytest.raises(BlockingIOError):
            peer.recv(1)
        received = os.read(ours[0], 100).decode()
        # Given as its own: no longer the core's.
        code = await reaped(asyncio.ensure_future(aiovfork.create_subprocess_exec("true", pass_fds=ours[:1])))
        os.closerange(ours[0], ours[-1] + 1)

    async def later() -> list[bool]:
        await reaped(asyncio.ensure_future(aiovfork.create_subprocess_exec("true")))
        with many_open():
            return await _spawn_in_all_ways(directory)

    again = await asyncio.to_thread(asyncio.run, later())
    return [any(copied[:-1]), all(still), received, code, all(again), len(mailboxes())]


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_the_application_closes_and_reuses_the_numbers(loop: str, tmp_path: pathlib.Path) -> None:
    """P8. Numbers that the application has closed and opened again are its own: none is written to, replaced or closed.

    The table is copied meanwhile. The next port keeps others.
    """
    found = isolated(_closed_and_reused, str(tmp_path), loop=loop, check_leaks=False)
    assert found == [False, True, "a message of the application's", [0], True, NUMBERS]


async def _late(directory: str) -> list[bool]:
    return await _spawn_in_all_ways(directory)


def _imported_late(directory: str) -> list[bool]:
    program = (
        "import sys; sys.path.append(sys.argv[1])\n"
        "import tests.support.mailboxes as m\n"
        "with m.many_open():\n"
        "    import asyncio, json\n"
        "    from tests.safety import test_many_descriptors as t\n"
        "    print(json.dumps(asyncio.run(t._late(sys.argv[2]))))\n"
    )
    command = [sys.executable, "-c", program, str(pathlib.Path(__file__).parents[2]), directory]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True, timeout=60, cwd="/"
    )
    return [word == "true" for word in done.stdout.decode().strip("[]\n").split(", ")]


def test_no_low_number_was_free(tmp_path: pathlib.Path) -> None:
    """P7, P8. Loaded into a process that has many descriptors already, the core copies the table."""
    assert not any(_imported_late(str(tmp_path))[:-2])


async def _refused(call: str, error: str, flag: int) -> list[Any]:
    before = mailboxes()
    if flag:
        refuse_flag(call, 2, flag, error)
    else:
        refuse({call: error})
    result = []
    with many_open():
        for way in WAYS[:2]:
            process = await aiovfork.create_subprocess_exec("/bin/sh", "-c", "cat; echo here", **way)
            output, _ = await process.communicate(b"" if way["stdin"] == PIPE else None)
            result.append([process.returncode, (output or b"").decode(), process.spawn_info.fds_unshared])
    return [result, mailboxes() == before]


@needs_filters
@pytest.mark.parametrize(
    ("call", "flag"),
    [
        ("recvmsg", 0),
        ("sendmsg", 0),
        ("getsockopt", 0),
        ("socketpair", 0),
        ("close_range", 0),
        ("close_range", 2),
    ],
)
def test_a_sandbox_refuses_a_call(call: str, flag: int) -> None:
    """P8. What the way through a low number needs is refused: the table is copied, and the numbers are not lost."""
    found = isolated(_refused, call, "EPERM", flag, loop="asyncio")
    assert found == [[[0, "here\n", False]] * 2, True]


async def _without_kcmp(directory: str) -> list[Any]:
    refuse({"kcmp": "EPERM"})
    with many_open():
        return await _spawn_in_all_ways(directory)


@needs_filters
def test_kcmp_is_refused(tmp_path: pathlib.Path) -> None:
    """P8. Where nobody can tell whether inherited streams are what they were at the call, their duplicates are sent."""
    assert isolated(_without_kcmp, str(tmp_path), loop="asyncio") == [True] * len(WAYS)


def _forked(work: Callable[[], Any]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # 3.12: a process with threads forks; that is the case
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            asyncio.events._set_running_loop(None)
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


async def _fork_in_the_window(directory: str) -> list[Any]:
    release, hold_fd = os.pipe()
    said, say = os.pipe()

    def live_on() -> None:
        os.close(hold_fd)
        with many_open():
            unshared = asyncio.run(_spawn_in_all_ways(directory))
        os.write(say, b"ok" if all(unshared) and len(mailboxes()) == NUMBERS else b"no")
        os.read(release, 1)

    async with held(pathlib.Path(directory), "echo") as hold:
        with many_open():
            spawn = asyncio.ensure_future(
                aiovfork.create_subprocess_exec(hold.path, "here", stdin=PIPE, stdout=PIPE)
            )
            await hold.reached.wait()
            taken = NUMBERS - len(mailboxes())
            pid = _forked(live_on)
            hold.release()
            process = await spawn
            output, _ = await asyncio.wait_for(process.communicate(), 60)
    forked_said = (await asyncio.to_thread(os.read, said, 2)).decode()
    os.close(hold_fd)
    _, status = os.waitpid(pid, 0)
    for fd in (release, said, say):
        os.close(fd)
    return [taken, output.decode(), process.spawn_info.fds_unshared, forked_said, status, len(mailboxes())]


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_fork_while_a_mailbox_is_in_use(loop: str, tmp_path: pathlib.Path) -> None:
    """P11. A forked process that lives on does not hold the files of its parent's child: their end comes. Both spawn."""
    found = isolated(_fork_in_the_window, str(tmp_path), loop=loop)
    assert found == [1, "here\n", True, "ok", 0, NUMBERS]


async def _at_the_limit() -> list[Any]:
    found: list[Any] = []
    with many_open():
        await reaped(asyncio.ensure_future(aiovfork.create_subprocess_exec("true")))
        _, hard = limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        first = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
        os.close(first)
        for free in range(8):
            # None of the numbers below is free, and so many above.
            resource.setrlimit(resource.RLIMIT_NOFILE, (first + free, hard))
            try:
                process = await aiovfork.create_subprocess_exec(
                    "true", stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL
                )
            except OSError as exc:
                found.append(errno.errorcode[exc.errno or 0])
            else:
                await process.communicate()
                found.append([process.returncode, process.spawn_info.fds_unshared])
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    return found


def test_at_the_limit_of_descriptors() -> None:
    """P4, P6. Where no number is left for what stages the sources, the table is copied: no spawn fails for that."""
    found = isolated(_at_the_limit, loop="asyncio")
    assert found[:3] == ["EMFILE"] * 3
    assert found[3] == [0, False]
    assert found[-1] == [0, True]


async def _held_all(directory: str) -> list[Any]:
    """Hold more children in exec than there are mailboxes; then spawn one more."""
    async with held(pathlib.Path(directory)) as hold:
        with many_open():
            spawns: list[asyncio.Task[aiovfork.Process]] = []
            while len(spawns) < NUMBERS:
                spawns.append(asyncio.ensure_future(aiovfork.create_subprocess_exec(hold.path, stdout=PIPE)))
                while len(children_in_window()) < len(spawns):
                    await asyncio.sleep(0)
            process = await aiovfork.create_subprocess_exec("echo", "here", stdout=PIPE)
            output, _ = await process.communicate()
            hold.release()
            codes = []
            unshared = [process.spawn_info.fds_unshared]
            for spawn in spawns:
                process = await spawn
                await process.communicate()
                codes.append(process.returncode)
                unshared.append(process.spawn_info.fds_unshared)
    return [codes, output.decode(), all(unshared), len(mailboxes())]


def test_more_slow_execs_than_mailboxes(tmp_path: pathlib.Path) -> None:
    """P7. A child that has its table needs its mailbox no more, however long its exec takes."""
    found = isolated(_held_all, str(tmp_path), loop="asyncio")
    assert found == [[0] * NUMBERS, "here\n", True, NUMBERS]


async def _closed_in_the_window() -> list[Any]:
    """Have close_range wait in the child, and close the mailboxes meanwhile."""
    ours = mailboxes()
    command = [
        "strace",
        "-f",
        "-e",
        "trace=close_range",
        "-e",
        "inject=close_range:delay_enter=300000:when=1",
    ]
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    pair[1].send(b"the application's")
    with many_open(), pair[0], pair[1]:
        await reaped(asyncio.ensure_future(aiovfork.create_subprocess_exec("true", stdout=DEVNULL)))
        with subprocess.Popen(
            [*command, "-o", "/dev/null", "-p", str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as strace:
            assert strace.stderr is not None
            try:
                while b"attached" not in (said := strace.stderr.readline()):
                    assert said, "strace has ended"
                spawn = asyncio.ensure_future(aiovfork.create_subprocess_exec("echo", "here", stdout=PIPE))
                while not children_in_window():
                    await asyncio.sleep(0)
                for number in ours:
                    os.dup2(pair[0].fileno(), number, inheritable=False)
                process = await spawn
                output, _ = await process.communicate()
            finally:
                strace.send_signal(signal.SIGINT)
                strace.stderr.read()
        still = all(_identity(number) == _identity(pair[0].fileno()) for number in ours)
        received = pair[0].recv(100).decode()
        os.closerange(ours[0], ours[-1] + 1)
    return [output.decode(), process.spawn_info.fds_unshared, still, received]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_the_application_reuses_the_numbers_in_the_window() -> None:
    """P8. Between the message and the child's own table the numbers become the application's: the child finds it out."""
    found = isolated(_closed_in_the_window, loop="asyncio", check_leaks=False)
    assert found == ["here\n", False, True, "the application's"]


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_fifteen_thousand(loop: str, tmp_path: pathlib.Path) -> None:
    """P7, P8. 15,000 open descriptors: no child's table is copied whole, and each is what it should be."""
    assert isolated(_fifteen_thousand, str(tmp_path), loop=loop) == [2 * len(WAYS) + 200, True]


async def _fifteen_thousand(directory: str) -> list[Any]:
    with many_open(15_000):
        unshared = [*(await _spawn_in_all_ways(directory)), *(await _spawn_in_all_ways(directory))]

        async def spawn_on() -> None:
            for _ in range(50):
                process = await aiovfork.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
                output, _ = await process.communicate(b"said")
                assert (output, process.returncode) == (b"said", 0)
                unshared.append(process.spawn_info.fds_unshared)

        await asyncio.gather(*(spawn_on() for _ in range(4)))  # so a mailbox is always free
    return [len(unshared), all(unshared)]
