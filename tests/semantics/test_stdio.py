"""Standard input, output and error: what they may be, and what a child can do with its ends."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pathlib
import stat
import subprocess
import sys
from typing import Any

import pytest

import aiovfork
from tests.support.backends import PIPES, Spawner, compare, compare_error, run_on_each
from tests.support.view import STOPPED, look_at, target_of, view_of

PIPE, STDOUT, DEVNULL = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT, asyncio.subprocess.DEVNULL


def test_exec_and_shell_inherit_by_default() -> None:
    """Without stdin, stdout and stderr a child has the caller's own."""

    async def body(spawn: Spawner) -> list[dict[int, str]]:
        found = []
        for process in (await spawn.exec(*STOPPED), await spawn.shell(STOPPED[2])):
            assert (process.stdin, process.stdout, process.stderr) == (None, None, None)
            found.append(look_at(process.pid).fds)
        return found

    mine = {fd: target_of(f"/proc/self/fd/{fd}") for fd in range(3)}
    assert compare(body) == [mine, mine]


@pytest.mark.parametrize("entry", ["protocol_exec", "protocol_shell"])
def test_protocols_get_pipes_by_default(entry: str) -> None:
    """subprocess_exec and subprocess_shell default to PIPE for all three."""

    async def body(spawn: Spawner) -> list[bool]:
        transport, _ = await getattr(spawn, entry)(asyncio.SubprocessProtocol, "cat")
        return [transport.get_pipe_transport(fd) is not None for fd in range(4)]

    assert compare(body) == [True, True, True, False]


@pytest.mark.usefixtures("engine_mode")
def test_pipes_are_pipes_and_block_in_the_child() -> None:
    """PIPE makes FIFOs: blocking in the child, one end each, and nothing else is open there."""

    async def body(spawn: Spawner) -> tuple[dict[int, str], list[int]]:
        view = await view_of(spawn, **PIPES)
        return view.fds, [view.flags[fd] & (os.O_ACCMODE | os.O_NONBLOCK) for fd in range(3)]

    assert compare(body) == ({0: "pipe", 1: "pipe", 2: "pipe"}, [os.O_RDONLY, os.O_WRONLY, os.O_WRONLY])


def test_the_parents_ends_do_not_block() -> None:
    """The parent's ends are non-blocking FIFOs that no other child inherits."""

    async def body(spawn: Spawner) -> list[tuple[bool, int, bool]]:
        process = await spawn.exec("cat", **PIPES)
        found = []
        for number in range(3):
            fd = process._transport.get_pipe_transport(number).get_extra_info("pipe").fileno()  # type: ignore[attr-defined]
            flags = fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_NONBLOCK)
            found.append((stat.S_ISFIFO(os.fstat(fd).st_mode), flags, os.get_inheritable(fd)))
        return found

    nonblocking = os.O_NONBLOCK
    assert compare(body) == [
        (True, os.O_WRONLY | nonblocking, False),
        (True, os.O_RDONLY | nonblocking, False),
        (True, os.O_RDONLY | nonblocking, False),
    ]


@pytest.mark.parametrize("name", ["/dev/stdin", "/proc/self/fd/0", "/dev/fd/0"])
def test_the_child_can_open_its_stdin_by_name(name: str) -> None:
    """/dev/stdin works in the child: it does not with a socket (uvloop's own stdio)."""

    async def body(spawn: Spawner) -> bytes:
        process = await spawn.exec("cat", name, stdin=PIPE, stdout=PIPE)
        stdout, _ = await process.communicate(b"by name")
        return stdout

    assert compare(body) == b"by name"


@pytest.mark.parametrize(("name", "number"), [("/dev/stdout", 1), ("/proc/self/fd/1", 1), ("/dev/stderr", 2)])
def test_the_child_can_open_its_output_by_name(name: str, number: int) -> None:
    """/dev/stdout, /dev/stderr and /proc/self/fd/1 work in the child."""

    async def body(spawn: Spawner) -> tuple[bytes, bytes]:
        process = await spawn.shell(f"echo by name >{name}", stdout=PIPE, stderr=PIPE)
        return await process.communicate()

    assert compare(body)[number - 1] == b"by name\n"


@pytest.mark.usefixtures("engine_mode")
@pytest.mark.parametrize("size", [4096, 65536, 262144, 5000])
def test_pipesize_is_honoured(size: int) -> None:
    """pipesize= sets the capacity of each pipe, rounded by the kernel."""

    async def body(spawn: Spawner) -> list[int]:
        process = await spawn.exec("cat", **PIPES, pipesize=size)
        pipes = [process._transport.get_pipe_transport(fd).get_extra_info("pipe") for fd in range(3)]  # type: ignore[attr-defined]
        return [fcntl.fcntl(pipe.fileno(), fcntl.F_GETPIPE_SZ) for pipe in pipes]

    assert all(size <= capacity < size + 4096 for capacity in compare(body))


def test_pipesize_that_cannot_be_had() -> None:
    """A pipesize beyond what the kernel has fails with the stdlib's exception, and leaks no pipe."""
    raised = compare_error(lambda spawn: spawn.exec("true", **PIPES, pipesize=2**31 - 1))
    assert issubclass(raised.type, OSError)
    assert raised.filename is None


@pytest.mark.usefixtures("engine_mode")
@pytest.mark.parametrize(
    "stdio",
    [
        {"stdin": DEVNULL, "stdout": DEVNULL, "stderr": DEVNULL},
        {"stdin": DEVNULL, "stdout": PIPE, "stderr": STDOUT},
        {"stdin": PIPE, "stdout": DEVNULL, "stderr": STDOUT},
        {"stdin": None, "stdout": None, "stderr": STDOUT},
        {"stdin": PIPE, "stdout": None, "stderr": None},
        {"stdin": PIPE, "stdout": PIPE},
        {"stderr": PIPE},
    ],
    ids=str,
)
def test_any_mix_of_constants(stdio: dict[str, Any]) -> None:
    """PIPE, DEVNULL, STDOUT and None mix as they do in the stdlib; a stream that is not PIPE is None."""

    async def body(spawn: Spawner) -> tuple[Any, ...]:
        process = await spawn.exec(*STOPPED, **stdio)
        view = look_at(process.pid)
        streams = [stream is None for stream in (process.stdin, process.stdout, process.stderr)]
        return view.fds, view.flags, streams

    fds, _, streams = compare(body)
    assert streams == [stdio.get(name) != PIPE for name in ("stdin", "stdout", "stderr")]
    if stdio.get("stderr") == STDOUT:
        assert fds[2] == fds[1]


def test_stderr_to_stdout_keeps_the_order_of_writes() -> None:
    """stderr=STDOUT is the same pipe: what is written to both arrives in order."""

    async def body(spawn: Spawner) -> tuple[Any, Any]:
        process = await spawn.shell(
            "for i in 1 2 3; do echo $i; echo $i >&2; done", stdout=PIPE, stderr=STDOUT
        )
        return await process.communicate()

    assert compare(body) == (b"1\n1\n2\n2\n3\n3\n", None)


def test_files_descriptors_and_objects(tmp_path: pathlib.Path) -> None:
    """Stdio takes a descriptor, a file, or any object with fileno(); the caller's stays as it was."""

    class Holder:
        def __init__(self, fd: int) -> None:
            self.fd = fd

        def fileno(self) -> int:
            return self.fd

    async def body(spawn: Spawner) -> list[bytes]:
        source, target = tmp_path / "in", tmp_path / "out"
        source.write_bytes(b"abcdef")
        with open(source, "rb", buffering=0) as infile, open(target, "wb+") as outfile:
            process = await spawn.exec("head", "-c", "1", stdin=infile, stdout=outfile)
            assert await process.wait() == 0
            infile.seek(2)
            process = await spawn.exec("cat", stdin=infile.fileno(), stdout=Holder(outfile.fileno()))
            assert await process.wait() == 0
            process = await spawn.exec("sh", "-c", "echo e >&2", stderr=outfile.fileno())
            assert await process.wait() == 0
            assert not os.get_inheritable(infile.fileno())
            # They share one offset, as after fork.
            return [
                target.read_bytes(),
                b"%d %d" % (infile.tell(), os.lseek(outfile.fileno(), 0, os.SEEK_CUR)),
            ]

    assert compare(body) == [b"acdefe\n", b"6 7"]


def test_a_negative_number_is_no_descriptor() -> None:
    """Numbers that are neither descriptors nor constants fail at once; no child runs."""

    async def body(spawn: Spawner) -> None:
        for option in ({"stdin": STDOUT}, {"stdout": STDOUT}, {"stdin": -9}, {"stderr": -9}):
            with pytest.raises((ValueError, OSError)):
                await spawn.exec("true", **option)

    run_on_each(body)


def test_one_descriptor_for_all() -> None:
    """The same descriptor may be stdin, stdout and stderr, as a terminal or a socket is."""

    async def body(spawn: Spawner) -> tuple[dict[int, str], dict[int, int]]:
        fd = os.open("/dev/zero", os.O_RDWR)
        try:
            view = await view_of(spawn, stdin=fd, stdout=fd, stderr=fd)
        finally:
            os.close(fd)
        return view.fds, view.flags

    assert compare(body)[0] == {0: "/dev/zero", 1: "/dev/zero", 2: "/dev/zero"}


def test_swapped_standard_descriptors() -> None:
    """stdout=2, stderr=1 swaps the two."""

    async def body(spawn: Spawner) -> dict[int, str]:
        return (await view_of(spawn, stdout=2, stderr=1)).fds

    fds = compare(body)
    assert fds[1] == os.readlink("/proc/self/fd/2")
    assert fds[2] == os.readlink("/proc/self/fd/1")


def test_a_child_that_closes_its_pipes_early() -> None:
    """EOF of a pipe is the child's close, not its exit."""

    async def body(spawn: Spawner) -> tuple[bytes, bytes, int | None, int]:
        process = await spawn.exec("sh", "-c", "echo out; exec >&- 2>&-; read line; exit $line", **PIPES)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        out, err = await process.stdout.read(), await process.stderr.read()
        returncode = process.returncode
        process.stdin.write(b"7\n")
        return out, err, returncode, await process.wait()

    assert compare(body) == (b"out\n", b"", None, 7)


def test_back_pressure_on_stdin() -> None:
    """drain() waits while a child does not read, and a quarter of a megabyte passes whole once it does."""

    async def body(spawn: Spawner) -> int:
        process = await spawn.exec("sh", "-c", "read go; wc -c", stdin=PIPE, stdout=PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"x" * 2**18)
        drained = asyncio.ensure_future(process.stdin.drain())
        await asyncio.sleep(0)
        assert not drained.done()
        process.stdin.write(b"\n" + b"y" * 1000)
        process.stdin.close()
        count = int(await process.stdout.read())
        await drained
        await process.stdin.wait_closed()
        assert await process.wait() == 0
        return count

    # The shell reads its line byte by byte: wc gets what follows it.
    assert compare(body) == 1000


def test_stdin_of_the_program_is_not_buffered_by_us() -> None:
    """What is written reaches the child at once, so a dialogue line by line works."""

    async def body(spawn: Spawner) -> list[bytes]:
        process = await spawn.exec(
            sys.executable, "-ISc", "while 1: print(input()[::-1], flush=True)", **PIPES
        )
        assert process.stdin is not None
        assert process.stdout is not None
        answers = []
        for line in (b"one\n", b"two\n"):
            process.stdin.write(line)
            answers.append(await process.stdout.readline())
        return answers

    assert compare(body) == [b"eno\n", b"owt\n"]


def test_subprocess_constants_are_one() -> None:
    """aiovfork's PIPE, STDOUT and DEVNULL are asyncio's and subprocess's own."""
    assert (aiovfork.PIPE, aiovfork.STDOUT, aiovfork.DEVNULL) == (PIPE, STDOUT, DEVNULL)
    assert (PIPE, STDOUT, DEVNULL) == (subprocess.PIPE, subprocess.STDOUT, subprocess.DEVNULL)
