"""run() and run_shell(): what they return, what they raise, and what they leave behind: nothing."""

from __future__ import annotations

import asyncio
import decimal
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import psutil
import pytest

import aiovfork
from aiovfork import DEVNULL, PIPE, STDOUT
from tests.support.hold import held
from tests.support.window import child_in_window, in_queue, reaped

PYTHON = [sys.executable, "-ISc"]
# Says what it has said to so far, and goes on until it is ended.
SPEAKS = "echo said; echo told >&2; exec sleep 1000"


def gone(pid: int) -> bool:
    """Whether no process of that number lives; a zombie is dead."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


async def test_what_a_program_writes() -> None:
    """run() returns both outputs and how the program ended; nothing is needed but the command."""
    done = await aiovfork.run("sh", "-c", "echo out; echo err >&2")
    assert (done.args, done.returncode) == (("sh", "-c", "echo out; echo err >&2"), 0)
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")
    assert (done.drained, done.truncated, done.returncode_known, done.index) == (True, False, True, None)
    assert done.duration > 0
    assert done.spawn_info.exec_us > 0
    assert done.rusage is not None
    assert done.rusage.ru_maxrss > 0
    assert gone(done.pid)


async def test_a_command_of_a_shell() -> None:
    """run_shell() runs a command with /bin/sh, whose exit code is its own; 127 is no failed start."""
    done = await aiovfork.run_shell("echo one | tr o 0; exit 3", check=False)
    assert (done.args, done.returncode, done.stdout) == ("echo one | tr o 0; exit 3", 3, b"0ne\n")
    missing = await aiovfork.run_shell("no-such-program", check=False)
    assert missing.returncode == 127


@pytest.mark.parametrize("size", [0, 1, 4096, 65536, 65537, 3_000_000])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_input_comes_back(kind: Callable[[bytes], Any], size: int) -> None:
    """Input of any size and kind is written, and stdin is closed then."""
    data = os.urandom(size)
    assert (await aiovfork.run("cat", input=kind(data))).stdout == data


async def test_input_is_a_snapshot() -> None:
    """Input that is changed after the call arrives as it was."""
    data = bytearray(b"a" * 300_000)
    running = asyncio.ensure_future(aiovfork.run("cat", input=data))
    await asyncio.sleep(0)
    data[:] = b"b" * len(data)
    assert (await running).stdout == b"a" * 300_000


async def test_stdin_without_input() -> None:
    """Without input the child's stdin is /dev/null, and not the caller's terminal; None inherits it."""
    link = "readlink /proc/self/fd/0"
    assert (await aiovfork.run_shell(link)).stdout == b"/dev/null\n"
    own = os.readlink("/proc/self/fd/0").encode() + b"\n"
    assert (await aiovfork.run_shell(link, stdin=None)).stdout == own
    assert (await aiovfork.run("cat", stdin=PIPE)).stdout == b""


async def test_streams_that_are_not_captured(tmp_path: pathlib.Path) -> None:
    """A stream that is not PIPE is None; files, DEVNULL and STDOUT work as everywhere."""
    with open(tmp_path / "out", "w+b") as file:
        done: Any = await aiovfork.run(
            "sh", "-c", "cat; echo err >&2", stdin=file, stdout=file, stderr=DEVNULL
        )
        assert (done.stdout, done.stderr) == (None, None)
    both: Any = await aiovfork.run("sh", "-c", "echo out; echo err >&2", stderr=STDOUT)
    assert (both.stdout, both.stderr) == (b"out\nerr\n", None)


@pytest.mark.parametrize("size", [70_000, 5_000_000])
async def test_large_outputs(size: int) -> None:
    """What does not fit a pipe comes whole, of both streams at once."""
    program = f"import os; os.write(2, b'e' * 10); print('x' * {size}, end=''); os.write(2, b'f' * {size})"
    done = await aiovfork.run(*PYTHON, program)
    assert done.stdout == b"x" * size
    assert done.stderr == b"e" * 10 + b"f" * size


# ---- failures ----


async def test_a_return_code_that_is_not_0() -> None:
    """check=True raises ProcessFailed, which has what is known; check=False returns it."""
    with pytest.raises(subprocess.CalledProcessError) as info:
        await aiovfork.run("sh", "-c", "echo out; echo what is wrong >&2; exit 3")
    error: Any = info.value
    assert type(error) is aiovfork.ProcessFailed
    assert (error.returncode, error.output, error.stderr) == (3, b"out\n", b"what is wrong\n")
    assert str(error).endswith("returned non-zero exit status 3\nwhat is wrong")
    done = await aiovfork.run("sh", "-c", "kill -9 $$", check=False)
    assert done.returncode == -9


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["/no/such/program"], {}),
        (["no-such-program"], {}),
        (["/etc/passwd"], {}),
        (["true"], {"cwd": "/no/such/folder"}),
        (["true"], {"stdout": 9999}),
        (["true"], {"start_new_session": True, "process_group": 1}),
        (["tr\0ue"], {}),
        ([3], {}),
        (["true"], {"env": {"a=b": "c"}}),
    ],
    ids=str,
)
async def test_a_start_that_fails(arguments: list[Any], options: dict[str, Any]) -> None:
    """A program that cannot be started raises what create_subprocess_exec raises, in every respect."""

    async def failure(create: Callable[..., Any]) -> Any:
        with pytest.raises(Exception) as info:  # noqa: PT011  # they are compared
            await create(*arguments, **options)
        exc: Any = info.value
        return type(exc), str(exc), getattr(exc, "step", None), getattr(exc, "filename", None)

    assert await failure(aiovfork.run) == await failure(aiovfork.create_subprocess_exec)


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"input": "text"}, TypeError),
        ({"input": 3}, TypeError),
        ({"input": [b"x"]}, TypeError),
        ({"input": b"x", "stdin": None}, ValueError),
        ({"input": b"x", "stdin": 0}, ValueError),
        ({"timeout": "1"}, TypeError),
        ({"timeout": float("nan")}, ValueError),
        ({"encoding": "no-such"}, LookupError),
        ({"encoding": 8}, TypeError),
        ({"encoding": "utf-8", "errors": "no-such"}, LookupError),
        ({"max_output": -1}, ValueError),
        ({"max_output": 1.5}, TypeError),
        ({"on_limit": "stop"}, ValueError),
        ({"on_cancel": "leave"}, ValueError),
        ({"stop_signal": 0}, ValueError),
        ({"stop_signal": 1000}, ValueError),
        ({"patience": -1}, ValueError),
        ({"patience": None}, TypeError),
        ({"tree": "family"}, ValueError),
        ({"tree": []}, ValueError),
        ({"tree": "session"}, ValueError),
        ({"on_cancel": []}, ValueError),
        ({"on_limit": []}, ValueError),
        ({"input": b"x", "stdin": []}, ValueError),
        ({"drain_timeout": "1"}, TypeError),
        ({"spawn_timeout": 0}, ValueError),
    ],
    ids=str,
)
async def test_wrong_values(options: dict[str, Any], refused: type[Exception]) -> None:
    """A wrong value is refused by its name, before anything is started."""
    before = aiovfork.stats()
    with pytest.raises(refused):
        await aiovfork.run("true", **options)
    assert aiovfork.stats().spawned == before.spawned


@pytest.mark.parametrize(
    "options",
    [{"max_output": 2**63 - 1}, {"max_output": 2**63}, {"max_output": 2**100, "on_limit": "truncate"}]
    + [{"drain_timeout": seconds} for seconds in (-1, float("-inf"), float("inf"))],
    ids=str,
)
async def test_values_without_bounds(options: dict[str, Any]) -> None:
    """A limit that nothing reaches is none; a time below zero is none to wait, an infinite one no end."""
    done = await aiovfork.run_shell("echo out", **options)
    assert (done.stdout, done.drained, done.truncated) == (b"out\n", True, False)


async def test_no_time_to_drain() -> None:
    """drain_timeout below zero is 0: a descendant is not waited for, nor when the call is cancelled."""
    for seconds in (-1.0, float("-inf")):
        done = await aiovfork.run_shell("sleep 1000 & echo $!", drain_timeout=seconds)
        assert not done.drained
        os.kill(int(done.stdout), signal.SIGKILL)
        with pytest.raises(aiovfork.ProcessTimeout):
            await aiovfork.run("sleep", "1000", drain_timeout=seconds, timeout=0.05)


# ---- text ----


async def test_text() -> None:
    """With an encoding outputs and input are str; line ends stay as they are."""
    done = await aiovfork.run("cat", input="zwölf\r\n", encoding="latin-1")
    assert (done.stdout, done.stderr) == ("zwölf\r\n", "")


async def test_a_character_across_chunks() -> None:
    """Characters that lie across the borders of reads and slices are whole."""
    text = "x" + "€" * 400_000
    assert (await aiovfork.run("cat", input=text, encoding="utf-8")).stdout == text


@pytest.mark.parametrize("padding", [0, 100_000])
async def test_output_that_is_no_text(padding: int) -> None:
    """UnicodeDecodeError of the output keeps the bytes; errors= says what else should become of them."""
    data = b"x" * padding + b"\xff"
    with pytest.raises(UnicodeDecodeError) as info:
        await aiovfork.run("cat", input=data, encoding="utf-8")
    exc: Any = info.value
    assert exc.completed.stdout == data
    assert exc.__notes__
    done = await aiovfork.run("cat", input=data, encoding="utf-8", errors="replace")
    assert done.stdout == "x" * padding + "\N{REPLACEMENT CHARACTER}"


async def test_a_failure_whose_output_is_no_text() -> None:
    """What is no text does not hide what went wrong: in an exception, it is escaped."""
    with pytest.raises(aiovfork.ProcessFailed) as info:
        await aiovfork.run_shell(r"printf 'bad \377'; exit 1", encoding="utf-8")
    assert info.value.output == r"bad \xff"
    data = b"x" * 100_001  # half a character at the end
    with pytest.raises(aiovfork.ProcessFailed) as info:
        await aiovfork.run("sh", "-c", "cat; exit 1", input=data, encoding="utf-16")
    assert info.value.output == "\u7878" * 50_000 + r"\x78"


# ---- limits ----


@pytest.mark.parametrize(("stream", "redirection"), [("stdout", ""), ("stderr", ">&2")])
async def test_too_much_output(stream: str, redirection: str) -> None:
    """A program that writes for ever is ended with its group at the limit, and what it wrote until then is kept."""
    with pytest.raises(aiovfork.OutputLimitExceeded) as info:
        await aiovfork.run_shell(
            f"yes {redirection} | cat {redirection}; yes {redirection}", max_output=100_001
        )
    assert (info.value.limit, info.value.stream) == (100_001, stream)
    assert getattr(info.value, stream) == (b"y\n" * 50_001)[:100_001]
    assert info.value.completed.drained is False


@pytest.mark.parametrize("size", [0, 1, 1000, 70_000])
async def test_output_up_to_the_limit(size: int) -> None:
    """Exactly max_output bytes are not too many; the limit is one of each stream."""
    program = f"head -c {size} /dev/zero; head -c {size} /dev/zero >&2"
    done = await aiovfork.run_shell(program, max_output=size)
    assert (len(done.stdout), len(done.stderr), done.truncated) == (size, size, False)
    with pytest.raises(aiovfork.OutputLimitExceeded) as info:
        await aiovfork.run_shell(f"head -c {size + 1} /dev/zero", max_output=size)
    assert info.value.output == bytes(size)


@pytest.mark.parametrize("size", [0, 1000, 70_000])
async def test_output_that_is_truncated(size: int) -> None:
    """on_limit="truncate" keeps the first bytes, lets the program end by itself, and says so."""
    done = await aiovfork.run("head", "-c", "3000000", "/dev/zero", max_output=size, on_limit="truncate")
    assert (done.stdout, done.truncated, done.drained) == (bytes(size), True, True)


# ---- times ----


async def test_a_time_out() -> None:
    """After timeout seconds the group is ended, and ProcessTimeout has the output so far, under each of its names."""
    with pytest.raises(TimeoutError) as info:
        await aiovfork.run_shell(f"sleep 1000 & {SPEAKS}", timeout=0.1)
    error: Any = info.value
    assert isinstance(error, subprocess.TimeoutExpired)
    assert type(error) is aiovfork.ProcessTimeout
    assert (error.output, error.stderr, error.timeout) == (b"said\n", b"told\n", 0.1)
    assert error.completed is not None
    assert error.completed.returncode == error.returncode == -signal.SIGTERM
    assert gone(error.completed.pid)


async def test_a_time_that_is_not_over() -> None:
    """A deadline that is met leaves no timer; any real number will do."""
    for seconds in (1000, 1000.5, decimal.Decimal(1000), float("inf")):
        assert (await aiovfork.run("true", timeout=seconds)).returncode == 0


@pytest.mark.parametrize("seconds", [0, -1, float("-inf")])
async def test_a_time_that_is_over_already(seconds: float) -> None:
    """What is left of a deadline that has passed is nothing: ProcessTimeout, and nothing is started."""
    started = aiovfork.stats().spawned
    with pytest.raises(aiovfork.ProcessTimeout) as info:
        await aiovfork.run("true", timeout=seconds)
    assert info.value.completed is None
    assert aiovfork.stats().spawned == started


async def test_a_time_out_in_exec(tmp_path: pathlib.Path) -> None:
    """The time counts while exec hangs, too; then there is no output, and no process."""
    async with held(tmp_path) as hold:
        with pytest.raises(aiovfork.ProcessTimeout, match="before it ran") as info:
            await aiovfork.run(hold.path, timeout=0.05)
        assert (info.value.pid, info.value.output, info.value.completed) == (None, None, None)
        assert not psutil.Process().children()


async def test_a_time_out_in_the_queue(tmp_path: pathlib.Path) -> None:
    """The time counts in the queue, too."""
    async with held(tmp_path) as hold:
        task, others = await in_queue(hold, lambda: aiovfork.run("true", timeout=0.01))
        with pytest.raises(aiovfork.ProcessTimeout, match="before it ran"):
            await task
        hold.release()
        await reaped(*others)


async def test_spawn_timeout(tmp_path: pathlib.Path) -> None:
    """spawn_timeout is about the start alone: a SpawnError that names the step, not a ProcessTimeout."""
    async with held(tmp_path) as hold:
        with pytest.raises(aiovfork.SpawnError) as info:
            await aiovfork.run(hold.path, spawn_timeout=0.05, timeout=1000)
    assert isinstance(info.value, TimeoutError)
    assert not isinstance(info.value, aiovfork.ProcessTimeout)
    assert (await aiovfork.run("sh", "-c", "sleep 0.1", spawn_timeout=1000)).returncode == 0


async def test_a_program_that_ignores_the_signal() -> None:
    """A program that ignores SIGTERM is killed patience seconds later."""
    with pytest.raises(aiovfork.ProcessTimeout) as info:
        await aiovfork.run_shell(
            "trap '' TERM; echo ready; while :; do sleep 1000; done", timeout=0.1, patience=0.05
        )
    assert info.value.returncode == -signal.SIGKILL


async def test_a_program_that_tidies_up() -> None:
    """What a program writes when it is asked to end is part of the output; the signal is the one that is asked for."""
    script = "trap 'echo tidy; exit 5' USR1; echo ready; while :; do sleep 0.01; done"
    with pytest.raises(aiovfork.ProcessTimeout) as info:
        await aiovfork.run_shell(script, timeout=0.2, stop_signal=signal.SIGUSR1)
    assert (info.value.returncode, info.value.output) == (5, b"ready\ntidy\n")


async def test_a_stopped_program() -> None:
    """A program that has been stopped (SIGSTOP) hears that it shall end, too."""
    with pytest.raises(aiovfork.ProcessTimeout) as info:
        await aiovfork.run_shell("trap 'exit 4' TERM; kill -STOP $$; sleep 1000", timeout=0.1)
    assert info.value.returncode == 4


# ---- descendants ----


async def test_a_descendant_that_keeps_the_pipes() -> None:
    """A descendant that holds the pipes does not keep run() waiting for longer than drain_timeout; it lives on."""
    done = await aiovfork.run_shell("sleep 1000 & echo $!", drain_timeout=0.01)
    assert done.drained is False
    sleeper = int(done.stdout)
    assert not gone(sleeper)
    os.kill(sleeper, signal.SIGKILL)


async def test_the_output_of_a_descendant() -> None:
    """With drain_timeout=None the output ends when the last of those who hold the pipes has closed them."""
    done = await aiovfork.run_shell("(sleep 0.1; echo late) & echo soon", drain_timeout=None)
    assert (done.stdout, done.drained) == (b"soon\nlate\n", True)


async def test_a_failure_ends_the_descendants() -> None:
    """What a program that failed has left of its group is ended."""
    with pytest.raises(aiovfork.ProcessFailed) as info:
        await aiovfork.run_shell("sleep 1000 & echo $!; exit 1", drain_timeout=0)
    assert gone(int(info.value.output))


async def test_a_descendant_in_a_session_of_its_own() -> None:
    """One that has left the group and holds the pipes keeps no time-out waiting, however long drain_timeout is."""
    with pytest.raises(aiovfork.ProcessTimeout) as info:
        await aiovfork.run_shell("setsid sleep 1000 & echo $!; wait", timeout=0.2, drain_timeout=None)
    sleeper = int(info.value.output.split()[0])
    assert not gone(sleeper)
    assert info.value.completed is not None
    assert info.value.completed.drained is False
    os.kill(sleeper, signal.SIGKILL)


async def test_tree_session() -> None:
    """tree="session" ends who has left the group, but not the session."""
    script = "import os, subprocess as s; p = s.Popen(['sleep', '1000'], process_group=0); print(p.pid, flush=True); p.wait()"
    with pytest.raises(aiovfork.ProcessTimeout) as info:
        await aiovfork.run(*PYTHON, script, timeout=0.5, start_new_session=True, tree="session")
    assert gone(int(info.value.output))


async def test_tree_none() -> None:
    """tree=None ends the child alone."""
    with pytest.raises(aiovfork.ProcessTimeout) as info:
        await aiovfork.run_shell("sleep 1000 & echo $!; wait", timeout=0.2, tree=None)
    sleeper = int(info.value.output)
    assert not gone(sleeper)
    os.kill(sleeper, signal.SIGKILL)


async def test_the_groups_of_a_child() -> None:
    """The child leads a group, or a session, or stays in the caller's group, which is not ended with it then."""
    script = "import os; print(os.getpgid(0) == os.getpid(), os.getsid(0) == os.getpid())"
    for options, expected in (
        ({}, b"True False\n"),
        ({"start_new_session": True}, b"True True\n"),
        ({"process_group": None}, b"False False\n"),
    ):
        assert (await aiovfork.run(*PYTHON, script, **options)).stdout == expected
    with pytest.raises(aiovfork.ProcessTimeout):
        await aiovfork.run("sleep", "1000", timeout=0.05, process_group=None)


# ---- children that do not want it ----


@pytest.mark.parametrize("command", ["true", "exec <&-; echo out", "head -c 1", "exit 3"])
async def test_a_child_that_does_not_want_its_input(command: str) -> None:
    """Input that nobody reads is no error."""
    await aiovfork.run_shell(command, input=b"x" * 3_000_000, check=False)


async def test_a_child_that_never_reads_its_input() -> None:
    """A child that leaves its input in the pipe ends by its time-out as any other."""
    with pytest.raises(aiovfork.ProcessTimeout):
        await aiovfork.run("sleep", "1000", input=b"x" * 3_000_000, timeout=0.05)


async def test_a_child_that_closes_its_outputs() -> None:
    """The ends of the outputs are not the end of the child."""
    done = await aiovfork.run_shell("echo out; exec >&- 2>&-; sleep 0.1; exit 7", check=False)
    assert (done.stdout, done.returncode) == (b"out\n", 7)


async def test_a_child_that_is_killed_by_somebody() -> None:
    """A child that dies by SIGKILL, as of the kernel out of memory, is a failure that says so."""
    with pytest.raises(aiovfork.ProcessFailed, match="died with SIGKILL") as info:
        await aiovfork.run_shell("echo said; kill -KILL $$")
    assert info.value.output == b"said\n"


# ---- cancellation ----


async def test_cancelled_in_the_window(tmp_path: pathlib.Path) -> None:
    """Cancelled while exec hangs: the child is reaped when CancelledError comes."""
    async with held(tmp_path) as hold:
        task = asyncio.ensure_future(aiovfork.run(hold.path))
        await child_in_window(hold)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not psutil.Process().children()


def wake(waiter: asyncio.Future[None]) -> None:
    """Set a result, once."""
    if not waiter.done():
        waiter.set_result(None)


async def running(command: str, tmp_path: pathlib.Path, **options: Any) -> asyncio.Task[Any]:
    """Return a run that has said "ready" to a file; it says $0.ready when it is."""
    mark = tmp_path / "ready"
    os.mkfifo(mark)
    task = asyncio.ensure_future(
        aiovfork.run_shell(f"echo said; {command}", env={**os.environ, "READY": str(mark)}, **options)
    )
    fd = os.open(mark, os.O_RDONLY | os.O_NONBLOCK)
    keep = os.open(mark, os.O_WRONLY)
    try:
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        loop.add_reader(fd, wake, ready)
        await ready
        loop.remove_reader(fd)
        # The program may run a moment before its worker says so: until then, a cancellation gives the start up.
        while not aiovfork.stats().capturing:
            await asyncio.sleep(0)
    finally:
        os.close(fd)
        os.close(keep)
    return task


@pytest.mark.parametrize("on_cancel", ["stop", "kill"])
async def test_cancelled(tmp_path: pathlib.Path, on_cancel: Any) -> None:
    """A cancelled run ends its group before CancelledError comes, which has the output so far."""
    script = "trap 'echo tidy; exit 3' TERM; sleep 1000 & echo > $READY; wait"
    task = await running(script, tmp_path, on_cancel=on_cancel)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as info:
        await task
    done: Any = info.value.completed  # type: ignore[attr-defined]
    expected = (b"said\ntidy\n", 3) if on_cancel == "stop" else (b"said\n", -9)
    assert (done.stdout, done.returncode) == expected
    assert gone(done.pid)


async def test_a_second_cancellation(tmp_path: pathlib.Path) -> None:
    """A second cancellation does not wait for the patience of the first one."""
    task = await running(
        "trap 'echo > $READY' TERM; echo > $READY; while :; do sleep 0.01; done", tmp_path, patience=1000
    )
    task.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as info:
        await task
    assert info.value.completed.returncode == -9  # type: ignore[attr-defined]


async def test_detached(tmp_path: pathlib.Path) -> None:
    """on_cancel="detach" lets the child go on, whatever it writes, and it is reaped when it ends."""
    script = "trap '' PIPE; echo > $READY; yes | head -c 1000000; read end < $0; echo > $0"
    go_on = tmp_path / "go on"
    os.mkfifo(go_on)
    task = await running(script.replace("$0", f"'{go_on}'"), tmp_path, on_cancel="detach")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(go_on.write_text, "now\n")
    assert await asyncio.to_thread(go_on.read_text) == "\n"


async def test_cancelled_at_any_moment() -> None:
    """However far a run has come when it is cancelled, nothing is left of it, or it is done."""
    ends = {"cancelled": 0, "done": 0}
    for turns in [*range(30), *range(30, 300, 9)]:
        task = asyncio.ensure_future(aiovfork.run("sh", "-c", "echo out", input=b"x" * 70_000))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            ends["cancelled"] += 1
        else:
            ends["done"] += 1
    assert ends["cancelled"]


async def test_a_timeout_around_run() -> None:
    """asyncio.timeout() and wait_for() around run() raise TimeoutError when the group is gone."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await aiovfork.run_shell("sleep 1000 & sleep 1000")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(aiovfork.run_shell("sleep 1000 & sleep 1000"), 0.05)
    assert not psutil.Process().children()
