"""pipeline(): programs that read from each other; the kernel moves the bytes, and each ending is told."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pathlib
import pickle
import signal
import sys
from typing import Any

import pytest

import aiovfork
from tests.support.hold import held
from tests.support.window import child_in_window, until
from tests.support.witness import Witness

DATA = os.urandom(300_000)


@pytest.mark.parametrize("length", range(1, 9))
async def test_any_length(length: int) -> None:
    """What the first is given comes out of the last, whole and in order; each has its return code."""
    result = await aiovfork.pipeline(*[["cat"]] * length, input=DATA)
    assert result.stdout == DATA
    assert result.returncodes == (0,) * length
    assert result.returncode == 0
    assert result.stderr == (b"",) * length
    assert len({stage.pid for stage in result.stages}) == length
    assert result.duration >= max(stage.duration for stage in result.stages)


async def test_text() -> None:
    """With encoding, input and output are str."""
    result = await aiovfork.pipeline(
        ["cat"], ["sort", "-r"], input="a\né\n", encoding="utf-8", env={"LC_ALL": "C"}
    )
    assert result.stdout == "é\na\n"
    assert result.args == "cat | sort -r"


async def test_much_is_moved_by_nobody() -> None:
    """What goes from one to the next does not pass through this process."""
    before = aiovfork.stats()
    result = await aiovfork.pipeline(["head", "-c", "50000000", "/dev/zero"], ["wc", "-c"], encoding="ascii")
    assert result.stdout.strip() == "50000000"
    after = aiovfork.stats()
    assert after.bytes_read - before.bytes_read < 100


@pytest.mark.parametrize("size", [4096, 2**20])
async def test_the_size_of_the_pipes(size: int) -> None:
    """pipesize= is that of the pipes between two programs, too."""
    program = "import fcntl; print(fcntl.fcntl(0, fcntl.F_GETPIPE_SZ))"
    result = await aiovfork.pipeline(["true"], [sys.executable, "-ISc", program], pipesize=size)
    assert int(result.stdout) == size


async def test_each_has_its_own_pipes_only() -> None:
    """No program holds an end of a pipe that is not its own: ends are seen when they come."""
    listing = ["sh", "-c", "ls /proc/self/fd >&2; cat"]  # 3 is that of ls itself
    result = await aiovfork.pipeline(*[listing] * 4, encoding="ascii", input="")
    assert [stderr.split() for stderr in result.stderr] == [["0", "1", "2", "3"]] * 4


async def test_one_group() -> None:
    """All are in one process group, which the first leads."""
    command = ["sh", "-c", "cut -d' ' -f5 /proc/$$/stat >&2; cat"]
    result = await aiovfork.pipeline(*[command] * 3, encoding="ascii")
    assert {int(stderr) for stderr in result.stderr} == {result.stages[0].pid}


async def test_no_group() -> None:
    """process_group=None leaves all in the caller's group."""
    command = ["sh", "-c", "cut -d' ' -f5 /proc/$$/stat >&2; cat"]
    result = await aiovfork.pipeline(*[command] * 3, encoding="ascii", process_group=None)
    stat = pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    assert {stderr.strip() for stderr in result.stderr} == {stat[2]}


async def test_the_first_ends_before_the_others_start(tmp_path: pathlib.Path) -> None:
    """The first may be over, all of it written, before the second runs: its group is there to be joined."""
    async with held(tmp_path) as hold:
        task = asyncio.ensure_future(aiovfork.pipeline(["echo", "hello"], [hold.path]))
        pid = await child_in_window(hold)
        await until(lambda: aiovfork.stats().alive == 0 or _state(_leader(pid)) == "Z")
        hold.release()
        result = await task
    assert result.stages[0].returncode == 0
    assert result.returncode == 0


def _leader(pid: int) -> int:
    return os.getpgid(pid)


def _state(pid: int) -> str:
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


# ---- who has failed ----


async def test_who_comes_next_has_read_enough() -> None:
    """SIGPIPE of all but the last is no failure."""
    result = await aiovfork.pipeline(["yes"], ["head", "-1"], encoding="ascii")
    assert result.stdout == "y\n"
    assert result.returncodes == (-signal.SIGPIPE, 0)
    assert result.returncode == 0
    assert result.failed == ()
    result.check_returncode()


async def test_the_last_dies_of_sigpipe() -> None:
    """SIGPIPE of the last is a failure."""
    with pytest.raises(aiovfork.PipelineFailed, match="SIGPIPE"):
        await aiovfork.pipeline(["true"], ["sh", "-c", "kill -PIPE $$"])


@pytest.mark.parametrize("place", range(3))
async def test_one_fails(place: int) -> None:
    """Wherever one fails, it is named, with its stderr; the output of the last is there."""
    commands = [["cat"], ["cat"], ["cat"]]
    commands[place] = ["sh", "-c", "cat; echo why >&2; exit 3"]
    with pytest.raises(aiovfork.ProcessFailed, match=r"in a pipeline, .* exit status 3\nwhy") as info:
        await aiovfork.pipeline(*commands, input=b"data", pipefail=True)
    failure = info.value
    assert isinstance(failure, aiovfork.PipelineFailed)
    assert f", {place + 1} of 3 in a pipeline," in str(failure)
    assert failure.cmd == tuple(commands[place])
    assert failure.returncode == 3
    assert failure.result.failed == (place,)
    assert failure.result.returncode == 3
    assert failure.result.stdout == b"data"
    again = pickle.loads(pickle.dumps(failure))  # noqa: S301  # our own
    assert (str(again), again.result.returncodes) == (str(failure), failure.result.returncodes)


async def test_several_fail() -> None:
    """The last failure counts, as with pipefail in bash; the message has all return codes."""
    commands = [["sh", "-c", f"exit {code}"] for code in (3, 4, 0)]
    with pytest.raises(aiovfork.PipelineFailed, match=r"exit status 4.*all: 3, 4, 0") as info:
        await aiovfork.pipeline(*commands)
    assert info.value.result.failed == (0, 1)


async def test_without_pipefail() -> None:
    """pipefail=False: the last alone counts."""
    result = await aiovfork.pipeline(["sh", "-c", "exit 3"], ["cat"], pipefail=False)
    assert (result.returncodes, result.returncode) == ((3, 0), 0)
    with pytest.raises(aiovfork.PipelineFailed):
        await aiovfork.pipeline(["true"], ["sh", "-c", "exit 3"], pipefail=False)


async def test_without_check() -> None:
    """check=False: the result says what failed."""
    result = await aiovfork.pipeline(["sh", "-c", "exit 3"], ["cat"], check=False)
    assert (result.returncodes, result.returncode, result.failed) == ((3, 0), 3, (0,))
    with pytest.raises(aiovfork.PipelineFailed):
        result.check_returncode()


async def test_one_is_killed() -> None:
    """kill -9 of one: the one before it ends by SIGPIPE, the one after it reads to the end."""
    with pytest.raises(aiovfork.PipelineFailed, match="SIGKILL") as info:
        await aiovfork.pipeline(["yes"], ["sh", "-c", "head -1; kill -9 $$"], ["cat"])
    assert info.value.result.returncodes == (-signal.SIGPIPE, -signal.SIGKILL, 0)
    assert info.value.result.stdout == b"y\n"


@pytest.mark.parametrize("place", range(3))
async def test_one_cannot_be_started(place: int) -> None:
    """The error is that of the start, with its step; nobody of the others is left."""
    commands: list[list[Any]] = [["yes"], ["sh", "-c", "trap '' PIPE TERM; sleep 1000 & cat"], ["cat"]]
    commands[place] = ["/nowhere/at/all"]
    with Witness() as witness:
        with pytest.raises(FileNotFoundError) as info:
            await aiovfork.pipeline(*commands, patience=0.01, pass_fds=[witness.fd])
        assert witness.nobody_lives()
    assert isinstance(info.value, aiovfork.SpawnError)
    assert info.value.step == "exec"
    assert info.value.filename == "/nowhere/at/all"
    assert f"program {place + 1} of 3" in "".join(info.value.__notes__)


# ---- what goes in and comes out ----


async def test_given_files(tmp_path: pathlib.Path) -> None:
    """stdin of the first and stdout of the last may be files; then nothing is captured."""
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(DATA)
    with source.open("rb") as stdin, target.open("wb") as stdout:
        result = await aiovfork.pipeline(["cat"], ["cat"], stdin=stdin, stdout=stdout)
    assert result.stdout is None
    assert target.read_bytes() == DATA


async def test_stderr_of_each() -> None:
    """What each writes to stderr is captured by itself."""
    commands = [["sh", "-c", f"cat; echo {word} >&2"] for word in ("one", "two", "three")]
    result = await aiovfork.pipeline(*commands, encoding="ascii")
    assert result.stderr == ("one\n", "two\n", "three\n")


async def test_stderr_with_stdout() -> None:
    """stderr=STDOUT: the next one reads it, too."""
    command = ["sh", "-c", "cat; echo word >&2"]
    result = await aiovfork.pipeline(command, command, stderr=aiovfork.STDOUT, encoding="ascii")
    assert result.stdout == "word\nword\n"
    assert [stage.stderr for stage in result.stages] == [None, None]


async def test_stderr_of_nobody() -> None:
    """stderr=DEVNULL: nothing is captured."""
    result = await aiovfork.pipeline(["sh", "-c", "echo word >&2"], ["cat"], stderr=aiovfork.DEVNULL)
    assert [stage.stderr for stage in result.stages] == [None, None]


async def test_without_input() -> None:
    """stdin of the first is at its end."""
    assert (await aiovfork.pipeline(["cat"], ["cat"])).stdout == b""


async def test_much_input() -> None:
    """Input of many megabytes goes in while output comes out."""
    data = DATA * 30
    result = await aiovfork.pipeline(
        ["cat"], ["tee", "/dev/stderr"], ["sha256sum"], input=data, encoding="latin-1"
    )
    assert result.stdout.split()[0] == hashlib.sha256(data).hexdigest()
    assert len(result.stderr[1]) == len(data)


async def test_options(tmp_path: pathlib.Path) -> None:
    """Options of a spawn are for each program."""
    command = ["sh", "-c", "pwd >&2; umask >&2; echo $WORD >&2"]
    result = await aiovfork.pipeline(
        command, command, cwd=tmp_path, umask=0o27, env={"WORD": "x"}, encoding="utf-8"
    )
    assert result.stderr == (f"{tmp_path}\n0027\nx\n",) * 2


# ---- its end ----


async def test_a_time_out() -> None:
    """timeout ends all, descendants included; the output so far is there."""
    with Witness() as witness:
        with pytest.raises(TimeoutError, match=r"timed out after 0\.2 seconds") as info:
            await aiovfork.pipeline(
                ["sh", "-c", "sleep 1000 & echo out; wait"],
                ["sh", "-c", "echo err >&2; exec cat"],
                timeout=0.2,
                encoding="ascii",
                pass_fds=[witness.fd],
            )
        assert witness.nobody_lives()
    assert isinstance(info.value, aiovfork.ProcessTimeout)
    assert info.value.output == "out\n"
    result: aiovfork.PipelineResult[str] = info.value.result  # type: ignore[attr-defined]
    assert result.stderr == ("", "err\n")
    assert result.returncodes == (-signal.SIGTERM, -signal.SIGTERM)


async def test_programs_that_ignore_the_signal() -> None:
    """After patience seconds all are killed."""
    stubborn = ["sh", "-c", "trap '' TERM PIPE; while :; do :; done"]
    with Witness() as witness:
        with pytest.raises(aiovfork.ProcessTimeout) as info:
            await aiovfork.pipeline(stubborn, stubborn, timeout=0.2, patience=0.05, pass_fds=[witness.fd])
        assert witness.nobody_lives()
    assert info.value.result.returncodes == (-signal.SIGKILL, -signal.SIGKILL)  # type: ignore[attr-defined]


async def test_a_start_that_takes_too_long(tmp_path: pathlib.Path) -> None:
    """spawn_timeout is for each; timeout is for the starts, too."""
    async with held(tmp_path) as hold:
        with pytest.raises(aiovfork.SpawnError) as info:
            await aiovfork.pipeline(["yes"], [hold.path], ["cat"], spawn_timeout=0.1)
        assert isinstance(info.value, TimeoutError)
    async with held(tmp_path) as hold:
        with pytest.raises(aiovfork.ProcessTimeout, match="before it ran"):
            await aiovfork.pipeline(["yes"], ["cat"], [hold.path], timeout=0.1)


async def test_too_much() -> None:
    """More than max_output ends all; "truncate" keeps the beginning."""
    with pytest.raises(aiovfork.OutputLimitExceeded, match="10 bytes to stdout") as info:
        await aiovfork.pipeline(["yes"], ["cat"], max_output=10)
    assert info.value.output == b"y\n" * 5
    with pytest.raises(aiovfork.OutputLimitExceeded, match="10 bytes to stderr"):
        await aiovfork.pipeline(["sh", "-c", "yes >&2"], ["cat"], max_output=10)
    result = await aiovfork.pipeline(["seq", "100"], ["cat"], max_output=10, on_limit="truncate")
    assert result.stdout == b"1\n2\n3\n4\n5\n"
    assert result.stages[-1].truncated


async def test_no_text() -> None:
    """Output that is not of the encoding is UnicodeDecodeError, which has the result, with bytes."""
    with pytest.raises(UnicodeDecodeError) as info:
        await aiovfork.pipeline(["sh", "-c", "printf '\\377'; echo fine >&2"], ["cat"], encoding="utf-8")
    exc: Any = info.value
    assert (exc.result.stdout, exc.result.stderr) == (b"\xff", (b"fine\n", b""))
    assert exc.__notes__


async def test_no_text_of_one_that_failed() -> None:
    """What is no text does not hide a failure or a time-out: there it is escaped."""
    with pytest.raises(aiovfork.PipelineFailed) as failed:
        await aiovfork.pipeline(["printf", "\\377"], ["sh", "-c", "cat; exit 3"], encoding="utf-8")
    assert failed.value.output == r"\xff"
    with pytest.raises(aiovfork.ProcessTimeout) as late:
        await aiovfork.pipeline(
            ["sh", "-c", "printf '\\377'; exec sleep 1000"],
            ["cat"],
            encoding="utf-8",
            timeout=0.2,
            stop_signal=9,
        )
    assert late.value.output in {"", r"\xff"}


async def test_a_descendant_that_keeps_stdout() -> None:
    """After the last exit reading goes on for drain_timeout seconds; the descendant lives on."""
    with Witness() as witness:
        command = ["sh", "-c", "cat; sleep 1000 & echo $!"]
        result = await aiovfork.pipeline(["true"], command, drain_timeout=0.01, pass_fds=[witness.fd])
        assert not witness.nobody_lives()
        assert not result.stages[1].drained
        os.kill(int(result.stdout), signal.SIGKILL)
        witness.wait_gone()


@pytest.mark.parametrize(
    ("commands", "options", "error"),
    [
        ([], {}, ValueError),
        (["ls"], {}, TypeError),
        ([b"ls"], {}, TypeError),
        ([["ls"], []], {}, ValueError),
        ([["ls"], [7]], {}, TypeError),
        ([["ls"], ["a\0b"]], {}, ValueError),
        ([["ls"]], {"tree": "session"}, ValueError),
        ([["ls"]], {"tree": []}, ValueError),
        ([["ls"]], {"on_cancel": "detach"}, ValueError),
        ([["ls"]], {"on_cancel": []}, ValueError),
        ([["ls"]], {"input": 7}, TypeError),
        ([["ls"]], {"input": "text"}, TypeError),
        ([["ls"]], {"input": b"", "stdin": 0}, ValueError),
        ([["ls"]], {"encoding": "nonsense"}, LookupError),
        ([["ls"]], {"timeout": "1"}, TypeError),
        ([["ls"]], {"max_output": -1}, ValueError),
    ],
)
async def test_wrong_values(commands: list[Any], options: dict[str, Any], error: type[Exception]) -> None:
    """A wrong value is refused, and nothing is left of what was started."""
    with pytest.raises(error) as info:
        await aiovfork.pipeline(*commands, **options)
    assert "unhashable" not in str(info.value)
