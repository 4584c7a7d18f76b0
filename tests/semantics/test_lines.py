"""lines(): what a program writes comes line by line, and nothing is left of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import signal
import sys
from typing import Any

import pytest

import aiovfork
from aiovfork import PIPE
from tests.support.hold import held
from tests.support.window import rounds
from tests.support.witness import Witness

IN_TWO_STREAMS = "echo one; read go; echo two >&2; read go; echo three"


def sh(script: str, **options: Any) -> aiovfork.Lines[Any]:
    """The lines of a script."""
    return aiovfork.lines("/bin/sh", "-c", script, **options)


async def told(output: aiovfork.Lines[Any], word: bytes) -> None:
    """Write a line to the program."""
    assert output.stdin is not None
    output.stdin.write(word + b"\n")
    await output.stdin.drain()


async def collect(output: aiovfork.Lines[Any], found: list[Any]) -> None:
    """Read all lines, and keep those that come before an exception."""
    async with output:
        async for line in output:
            found.append(line)  # noqa: PERF401  # a comprehension would lose them


async def test_lines_of_text() -> None:
    """A line is a str without its end; the last one needs none; the block waits for the exit."""
    async with sh("printf 'a\\n\\nb c\\r\\nend'") as output:
        assert [line async for line in output] == ["a", "", "b c\r", "end"]
    assert output.returncode == 0
    assert output.pid > 0


async def test_lines_of_bytes() -> None:
    """With encoding=None a line is bytes, whatever they are."""
    async with sh("printf '\\377\\n\\000x'", encoding=None) as output:
        assert [line async for line in output] == [b"\xff", b"\0x"]


async def test_a_program_without_output() -> None:
    """There is no line, and no error."""
    async with aiovfork.lines("true") as output:
        assert [line async for line in output] == []
    assert output.returncode == 0


async def test_a_character_in_two_writes() -> None:
    """A character that comes in two pieces is one; half of one at the end is replaced."""
    async with sh("printf '\\303'; read go; printf '\\251\\n\\303'", stdin=PIPE) as output:
        getting = asyncio.ensure_future(anext(output))
        await rounds()
        await told(output, b"go")
        assert await getting == "é"
        assert [line async for line in output] == ["\ufffd"]


async def test_a_line_comes_when_it_is_written() -> None:
    r"""A line does not wait for the next one, nor one that ends with \\r for the next byte; \\r\\n is one end."""
    script = "printf '10 %%\\r'; read go; printf '\\n20 %%\\n'; read go; printf 'done'"
    async with sh(script, stdin=PIPE, newlines="any") as output:
        assert await anext(output) == "10 %"
        await told(output, b"go")
        assert await anext(output) == "20 %"
        await told(output, b"go")
        assert [line async for line in output] == ["done"]


async def test_both_streams() -> None:
    """source="both" names the stream of each line, in the order in which they were read."""
    async with sh(IN_TWO_STREAMS, stdin=PIPE, source="both") as output:
        found = []
        async for stream, line in output:
            found.append((stream, line))
            if len(found) < 3:
                await told(output, b"go")
    assert found == [("stdout", "one"), ("stderr", "two"), ("stdout", "three")]


async def test_stderr() -> None:
    """source="stderr" reads that stream, and drains the other one."""
    async with sh("head -c 300000 /dev/zero; echo two >&2", source="stderr") as output:
        assert [line async for line in output] == ["two"]


async def test_what_is_not_asked_for_is_drained() -> None:
    """A program that writes much to stderr is not held up; the end of it is kept."""
    async with sh("head -c 300000 /dev/zero >&2; echo tail >&2; echo out") as output:
        assert [line async for line in output] == ["out"]
    assert output.stderr_tail.endswith(b"tail\n")
    assert len(output.stderr_tail) == 2**16


async def test_stderr_in_stdout() -> None:
    """stderr=STDOUT makes one stream of both."""
    async with sh("echo one; echo two >&2", stderr=aiovfork.STDOUT) as output:
        assert [line async for line in output] == ["one", "two"]


async def test_long_lines() -> None:
    """Lines of 10 MB come whole: there is no limit of 64 KiB."""
    program = "import json; [print(json.dumps({'n': n, 'data': 'x' * 10_000_000})) for n in range(3)]"
    async with aiovfork.lines(sys.executable, "-ISc", program) as output:
        numbers = [json.loads(line)["n"] async for line in output]
    assert numbers == [0, 1, 2]


@pytest.mark.parametrize("encoding", [None, "utf-8", "latin-1"])
async def test_a_long_line_does_not_stop_the_loop(encoding: str | None) -> None:
    """The pieces of a long line are put together in steps; a cancellation in between loses nothing."""
    data = os.urandom(3_000_000).replace(b"\n", b"-").replace(b"\r", b"-")
    cancelled = 0
    async with aiovfork.lines("cat", input=data + b"\nnext", encoding=encoding, stdin=PIPE) as output:
        while True:
            asking = asyncio.ensure_future(anext(output))
            await rounds(20 + cancelled)
            if asking.done():
                break
            asking.cancel()
            await asyncio.wait([asking])
            cancelled += 1
        line = await asking
        assert line == (data if encoding is None else data.decode(encoding, "replace"))
        assert len([line async for line in output]) == 1
    assert cancelled


async def test_a_line_longer_than_max_line() -> None:
    """LineTooLong comes after the lines before it, and the program is ended; "truncate" cuts the line."""
    with Witness() as witness:
        found: list[str] = []
        with pytest.raises(aiovfork.LineTooLong, match="max_line=5"):
            await collect(sh("echo short; yes abcdefgh", max_line=5, pass_fds=[witness.fd]), found)
        assert found == ["short"]
        assert witness.nobody_lives()
    async with sh("echo short; echo abcdefgh", max_line=5, on_long="truncate") as output:
        assert [line async for line in output] == ["short", "abcde"]


async def test_text_that_is_none() -> None:
    """errors="strict" raises UnicodeDecodeError, after the lines before it, and the program is ended."""
    found: list[str] = []
    with Witness() as witness:
        output = sh("printf 'good\\n\\377\\n'; sleep 1000", errors="strict", pass_fds=[witness.fd])
        with pytest.raises(UnicodeDecodeError):
            await collect(output, found)
        assert found == ["good"]
        assert witness.nobody_lives()


# ---- how it ends ----


async def test_a_failure() -> None:
    """A return code other than 0 is ProcessFailed at the end of the block, with the end of stderr."""
    found: list[str] = []
    output = sh("echo out; echo why >&2; exit 3")
    with pytest.raises(aiovfork.ProcessFailed, match="exit status 3\nwhy") as info:
        await collect(output, found)
    assert found == ["out"]
    assert info.value.returncode == 3
    assert info.value.stderr == "why\n"
    assert info.value.pid == output.pid
    assert info.value.completed.spawn_info == output.process.spawn_info


async def test_a_failure_that_is_not_checked() -> None:
    """check=False leaves the return code to the caller."""
    async with sh("exit 3", check=False) as output:
        assert [line async for line in output] == []
    assert output.returncode == 3


async def test_the_block_waits_for_the_exit() -> None:
    """The end of the lines is not the end of the program; at the end of the block it has ended."""
    async with sh("echo out; exec >&- 2>&-; read go; exit $?", stdin=PIPE, check=False) as output:
        assert [line async for line in output] == ["out"]
        assert output.returncode is None
    assert output.returncode == 1  # its stdin was closed for it


@pytest.mark.parametrize("how", ["break", "exception", "nothing"])
async def test_left_early(how: str) -> None:
    """Leaving the block before the last line ends the program and its descendants, and says nothing of that."""
    with Witness() as witness:
        with contextlib.suppress(ZeroDivisionError):
            async with sh("sleep 1000 & yes", pass_fds=[witness.fd]) as output:
                if how != "nothing":
                    assert await anext(output) == "y"
                if how == "exception":
                    raise ZeroDivisionError
        assert witness.nobody_lives()
    assert output.returncode == -signal.SIGTERM


async def test_a_program_that_ignores_the_signal() -> None:
    """After patience seconds it is killed."""
    with Witness() as witness:
        async with sh(
            "trap '' TERM; echo on; while :; do :; done", patience=0.05, pass_fds=[witness.fd]
        ) as output:
            assert await anext(output) == "on"
        assert witness.nobody_lives()
    assert output.returncode == -signal.SIGKILL


async def test_a_program_that_tidies_up() -> None:
    """It may write as much as it likes meanwhile: nobody asks for it, but it is read."""
    script = "trap 'head -c 500000 /dev/zero; exit 7' TERM; echo on; while :; do sleep 0.01; done"
    async with sh(script, patience=60) as output:
        assert await anext(output) == "on"
    assert output.returncode == 7


async def test_stop_signal() -> None:
    """stop_signal is what the program hears first."""
    async with sh(
        "trap 'exit 7' HUP; echo on; while :; do sleep 0.01; done", stop_signal=signal.SIGHUP
    ) as output:
        assert await anext(output) == "on"
    assert output.returncode == 7


async def test_outside_a_group() -> None:
    """process_group=None leaves the program in the caller's group, and ends it alone."""
    async with sh("cut -d' ' -f5 /proc/$$/stat; exec sleep 1000", process_group=None) as output:
        stat = pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        assert await anext(output) == stat[2]
    assert output.returncode == -signal.SIGTERM


async def test_a_time_out() -> None:
    """timeout ends the program and its group; ProcessTimeout is a TimeoutError, and has what stderr said."""
    with Witness() as witness:
        output = sh("echo why >&2; sleep 1000 & wait", timeout=0.2, pass_fds=[witness.fd])
        with pytest.raises(TimeoutError) as info:
            await collect(output, [])
        assert witness.nobody_lives()
    assert isinstance(info.value, aiovfork.ProcessTimeout)
    assert info.value.timeout == 0.2
    assert info.value.returncode == -signal.SIGTERM
    assert info.value.stderr == "why\n"


async def test_a_time_out_of_the_start(tmp_path: pathlib.Path) -> None:
    """timeout counts from the start; spawn_timeout is a SpawnError, as ever."""
    async with held(tmp_path) as hold:
        with pytest.raises(aiovfork.ProcessTimeout, match="before it ran"):
            await collect(aiovfork.lines(hold.path, timeout=0.1), [])
    async with held(tmp_path) as hold:
        with pytest.raises(aiovfork.SpawnError) as info:
            await collect(aiovfork.lines(hold.path, timeout=60, spawn_timeout=0.1), [])
        assert isinstance(info.value, TimeoutError)


async def test_a_failure_leaves_nobody() -> None:
    """A program that fails is ended with whom it has left in its group; one that does not leaves them alone."""
    with Witness() as witness:
        output = sh("sleep 1000 & exit 3", drain_timeout=0.01, pass_fds=[witness.fd])
        with pytest.raises(aiovfork.ProcessFailed):
            await collect(output, [])
        assert witness.nobody_lives()


async def test_a_time_out_of_a_block_that_asks_for_nothing() -> None:
    """timeout ends the program and its group whatever the block does; at its end there is ProcessTimeout."""
    with Witness() as witness:
        with pytest.raises(aiovfork.ProcessTimeout) as info:
            async with sh("echo; sleep 1000 & wait", timeout=0.2, pass_fds=[witness.fd]) as output:
                assert await output.process.wait() == -signal.SIGTERM
        assert witness.nobody_lives()
    assert info.value.returncode == -signal.SIGTERM


async def test_the_exceptions_of_a_block_after_its_time() -> None:
    """What the block raises goes on, as ever; a return is ProcessTimeout."""

    async def left(exc: Exception | None) -> None:
        async with sh("sleep 1000", timeout=0.1) as output:
            await output.process.wait()
            if exc is None:
                return
            raise exc

    with pytest.raises(LookupError):
        await left(LookupError())
    with pytest.raises(aiovfork.ProcessTimeout):
        await left(None)


async def test_a_slow_block() -> None:
    """A program that is over in time was in time, however long the block takes for its lines."""
    async with sh("echo out", timeout=1000) as output:
        await output.process.wait()
        assert output._reading is not None
        while not output._reading.over:
            await asyncio.sleep(0)
        output._time_is_over()
        assert [line async for line in output] == ["out"]


async def test_a_time_out_at_the_end() -> None:
    """timeout counts for a program that has closed its output, too."""
    with pytest.raises(aiovfork.ProcessTimeout):
        await collect(sh("echo out; exec >&- 2>&-; sleep 1000", timeout=0.2), [])


async def test_a_program_that_cannot_be_started() -> None:
    """The block is not entered: SpawnError."""
    with pytest.raises(aiovfork.SpawnError) as info:
        async with aiovfork.lines("/nowhere/at/all"):
            pytest.fail("it was entered")
    assert isinstance(info.value, FileNotFoundError)
    assert info.value.step == "exec"


# ---- descendants that hold the pipes ----


async def test_a_descendant_that_keeps_stdout() -> None:
    """After the exit and drain_timeout seconds of silence the lines end, and the descendant lives on."""
    with Witness() as witness:
        async with sh("sleep 1000 & echo $!", drain_timeout=0.01, pass_fds=[witness.fd]) as output:
            (pid,) = [int(line) async for line in output]
        assert output.returncode == 0
        assert not witness.nobody_lives()
        os.kill(pid, signal.SIGKILL)
        witness.wait_gone()


async def test_a_slow_reader_and_a_descendant_that_keeps_stdout() -> None:
    """What is in the pipe is no silence: all lines come, however short drain_timeout is and slow the reader."""
    with Witness() as witness:
        async with sh("sleep 1000 & echo $!; seq 100000", drain_timeout=0, pass_fds=[witness.fd]) as output:
            pid = int(await anext(output))
            found = []
            async for line in output:
                found.append(int(line))
                if len(found) % 5000 == 0:
                    await asyncio.sleep(0.001)
        assert found == list(range(1, 100_001))
        os.kill(pid, signal.SIGKILL)
        witness.wait_gone()


async def test_a_descendant_that_keeps_stderr() -> None:
    """A stream that is not asked for is waited for no longer than drain_timeout, however much comes there."""
    with Witness() as witness:
        script = "yes >&2 >/dev/null & echo $!"
        async with sh(script, drain_timeout=0.01, pass_fds=[witness.fd]) as output:
            (pid,) = [int(line) async for line in output]
        os.kill(pid, signal.SIGKILL)
        witness.wait_gone()


async def test_without_drain_timeout() -> None:
    """With drain_timeout=None the last line is the descendants', however long they take."""
    script = "exec 3<&0; { read go <&3; echo late; } & echo early"
    async with sh(script, stdin=PIPE, drain_timeout=None) as output:
        assert await anext(output) == "early"
        await output.process.wait()
        await told(output, b"go")
        assert [line async for line in output] == ["late"]


# ---- stdin ----


async def test_a_dialogue() -> None:
    """stdin=PIPE: the program answers line by line."""
    async with aiovfork.lines("cat", stdin=PIPE) as output:
        for number in range(5):
            await told(output, b"%d" % number)
            assert await anext(output) == str(number)
        assert output.stdin is not None
        output.stdin.close()
        assert [line async for line in output] == []


@pytest.mark.parametrize("size", [0, 10, 5_000_000])
async def test_input(size: int) -> None:
    """Input is written and stdin is closed; all comes back."""
    async with aiovfork.lines("cat", input=bytearray(b"x" * size)) as output:
        assert "".join([line async for line in output]) == "x" * size


async def test_input_of_text() -> None:
    """A str is encoded as the lines are."""
    async with aiovfork.lines("cat", input="é\n", encoding="utf-16") as output:
        assert [line async for line in output] == ["é"]


async def test_input_that_nobody_wants() -> None:
    """A program that does not read its input is no error."""
    async with aiovfork.lines("true", input=b"x" * 5_000_000) as output:
        assert [line async for line in output] == []


async def test_without_input() -> None:
    """stdin is at its end: the program does not eat what the caller's terminal says."""
    async with aiovfork.lines("cat") as output:
        assert [line async for line in output] == []


# ---- the reader ----


async def test_a_slow_reader_holds_the_program_up() -> None:
    """While nobody asks for lines the program waits: what was read and not asked for is bounded."""
    async with aiovfork.lines("yes") as output:
        await anext(output)
        io = pathlib.Path(f"/proc/{output.pid}/io")
        written = 0
        # yes sleeps in write(2) when everything is full.
        stat = pathlib.Path(f"/proc/{output.pid}/stat")
        quiet = 0
        while quiet < 200:
            await asyncio.sleep(0)
            now = int(io.read_text().split()[3])
            quiet = quiet + 1 if now == written and stat.read_text().split()[2] == "S" else 0
            written = now
        assert written < 2_000_000


async def test_many_lines_do_not_stop_the_loop() -> None:
    """However many lines there are at once, the loop gets its turn in between."""
    turns = 0
    reading = True

    def turn() -> None:
        nonlocal turns
        turns += 1
        if reading:
            loop.call_soon(turn)

    loop = asyncio.get_running_loop()
    turn()
    async with sh("yes '' | head -n 200000") as output:
        counts: dict[int, int] = {}
        async for _ in output:
            counts[turns] = counts.get(turns, 0) + 1
    reading = False
    assert sum(counts.values()) == 200_000
    assert max(counts.values()) <= 2 * 1024  # a turn may fall between two of ours


async def test_a_cancelled_step_loses_nothing() -> None:
    """A line that was asked for in vain comes the next time."""
    async with sh("read go; echo one; echo two", stdin=PIPE) as output:
        for _ in range(3):
            asking = asyncio.ensure_future(anext(output))
            await rounds()
            asking.cancel()
            await asyncio.wait([asking])
        await told(output, b"go")
        assert [line async for line in output] == ["one", "two"]


async def test_two_loops_over_the_lines() -> None:
    """A second loop goes on where the first one stopped."""
    async with sh("echo one; echo two; echo three") as output:
        async for line in output:
            assert line == "one"
            break
        assert [line async for line in output] == ["two", "three"]
    assert output.returncode == 0


async def test_two_readers() -> None:
    """A second task that waits for a line is refused."""
    async with aiovfork.lines("sleep", "1000") as output:
        asking = asyncio.ensure_future(anext(output))
        await rounds()
        with pytest.raises(RuntimeError, match="another task"):
            await anext(output)
        asking.cancel()
        await asyncio.wait([asking])


async def test_not_entered() -> None:
    """Lines without `async with` are refused, and so is a second start."""
    output = aiovfork.lines("true")
    with pytest.raises(RuntimeError, match="async with"):
        await anext(output)
    with pytest.raises(RuntimeError, match="async with"):
        _ = output.pid
    async with output:
        pass
    with pytest.raises(RuntimeError, match="once"):
        await output.__aenter__()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"source": "stdin"}, ValueError),
        ({"source": []}, ValueError),
        ({"newlines": []}, ValueError),
        ({"on_long": []}, ValueError),
        ({"stdin": [], "input": b""}, ValueError),
        ({"tree": "session"}, ValueError),
        ({"newlines": "\r"}, ValueError),
        ({"encoding": "nonsense"}, LookupError),
        ({"encoding": "hex"}, LookupError),
        ({"errors": "nonsense"}, LookupError),
        ({"max_line": 0}, ValueError),
        ({"max_line": "1"}, TypeError),
        ({"on_long": "split"}, ValueError),
        ({"stdout": aiovfork.DEVNULL}, ValueError),
        ({"source": "stderr", "stderr": aiovfork.STDOUT}, ValueError),
        ({"source": "both", "stderr": None}, ValueError),
        ({"input": b"", "stdin": 0}, ValueError),
        ({"input": 7}, TypeError),
        ({"input": "text", "encoding": None}, TypeError),
        ({"timeout": "1"}, TypeError),
        ({"patience": -1}, ValueError),
        ({"stop_signal": 1000}, ValueError),
        ({"tree": "forest"}, ValueError),
        ({"process_group": -1}, ValueError),
    ],
)
async def test_wrong_values(options: dict[str, Any], error: type[Exception]) -> None:
    """A wrong value is refused at the call, or before anything was started."""
    before = aiovfork.stats().spawned
    with pytest.raises(error):
        async with aiovfork.lines("true", **options):
            pass
    assert aiovfork.stats().spawned == before
