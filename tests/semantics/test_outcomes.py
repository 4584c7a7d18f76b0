"""What run() returns and raises, as values: their fields, their messages, pickled and printed."""

from __future__ import annotations

import errno
import pathlib
import pickle
import subprocess
from typing import Any

import pytest

from aiovfork._events import NO_ENDS, Exited, Spawned
from aiovfork._outcome import Completed, OutputLimitExceeded, ProcessFailed, ProcessTimeout

USAGE = b"\0" * 144
STARTED = Spawned(1, 4242, -1, 0, NO_ENDS, 1000, 2000, 3000)


def completed(
    *args: Any, stdout: Any = b"", stderr: Any = b"", status: int = 0, **more: Any
) -> Completed[Any]:
    """Return what a program might have come to."""
    exited = Exited(status, 0, USAGE)
    return Completed(args or ("true",), stdout, stderr, started=STARTED, exited=exited, duration=0.5, **more)


def errors() -> list[Any]:
    """One of each."""
    failed = completed("git", "clone", stdout=b"some", stderr=b"fatal: no\n", status=128 << 8)
    return [
        ProcessFailed(failed),
        ProcessTimeout(("sleep", "60"), 0.25, completed("sleep", "60", stdout=b"some", status=15)),
        ProcessTimeout("sleep 60", 2),
        OutputLimitExceeded(4, "stdout", completed("yes", stdout=b"y\ny\n", status=9)),
    ]


def test_a_completed_process_is_that_of_the_stdlib() -> None:
    """A Completed has what a CompletedProcess has, with the true values of what is beyond it."""
    found = completed("true", stdout=b"out")
    assert isinstance(found, subprocess.CompletedProcess)
    assert (found.args, found.returncode, found.stdout, found.stderr) == (("true",), 0, b"out", b"")
    assert (found.pid, found.duration, found.drained, found.truncated) == (4242, 0.5, True, False)
    assert found.spawn_info[3:6] == (1, 2, 3)
    assert found.rusage is not None
    assert found.returncode_known
    found.check_returncode()


def test_check_returncode_raises_what_run_raises() -> None:
    """check_returncode() of a failure raises ProcessFailed, with the Completed itself."""
    failed = completed("false", status=256)
    with pytest.raises(ProcessFailed) as info:
        failed.check_returncode()
    assert info.value.completed is failed


@pytest.mark.parametrize("error", errors(), ids=lambda error: type(error).__name__)
def test_an_error_survives_pickle(error: Any) -> None:
    """An exception of run() comes out of a pickle as it went in, with the output and with its notes."""
    error.add_note("note")
    error.index = 7
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error, protocol))  # noqa: S301  # our own
        assert (type(again), str(again), again.__notes__) == (type(error), str(error), ["note"])
        for name in ("cmd", "output", "stdout", "stderr", "returncode", "pid", "duration", "index"):
            assert getattr(again, name) == getattr(error, name)
        assert getattr(again, "timeout", None) == getattr(error, "timeout", None)
        if error.completed is not None:
            assert again.completed.spawn_info == error.completed.spawn_info


def test_the_types_of_the_stdlib() -> None:
    """Each exception is what subprocess would raise, and a timeout is the TimeoutError of asyncio too."""
    failed, late, never, flood = errors()
    assert isinstance(failed, subprocess.CalledProcessError)
    assert {subprocess.TimeoutExpired, TimeoutError} < {*type(late).__mro__}
    assert late.errno == errno.ETIMEDOUT
    assert isinstance(flood, subprocess.SubprocessError)
    assert (late.pid, late.returncode, late.output) == (4242, -15, b"some")
    assert (never.pid, never.returncode, never.output, never.completed) == (None, None, None, None)


MESSAGES = [
    "Command 'git clone' returned non-zero exit status 128\nfatal: no",
    "Command 'sleep 60' timed out after 0.25 seconds",
    "Command 'sleep 60' timed out after 2 seconds, before it ran",
    "Command 'yes' wrote more than 4 bytes to stdout, and was ended",
]


@pytest.mark.parametrize(("error", "message"), list(zip(errors(), MESSAGES, strict=True)))
def test_the_message(error: Any, message: str) -> None:
    """A message names the command and what happened, and ends with the end of stderr."""
    assert str(error) == message
    assert repr(error) == f"{type(error).__name__}({message!r})"


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        (("printf", "two words", b"bytes", pathlib.Path("/a b")), "'printf 'two words' bytes '/a b''"),
        (("echo", "\x1b[31m", "\udcff", "new\nline"), r"'echo '\x1b[31m' '\udcff' 'new\nline''"),
        (("x" * 1000,), f"'{'x' * 200}...'"),
        (["y"] * 100_000, f"'{'y ' * 100}...'"),
        ("echo one | cat", "'echo one | cat'"),
        (b"echo bytes", "'echo bytes'"),
        ("z" * 10_000_000, f"'{'z' * 200}...'"),
    ],
)
def test_a_command_is_quoted_and_cut(args: Any, shown: str) -> None:
    """A command is shown as a shell would take it, on one line that any terminal can show, up to a length."""
    exited = Exited(256, 0, USAGE)
    failed = ProcessFailed(Completed(args, b"", b"", started=STARTED, exited=exited, duration=0))
    assert str(failed) == f"Command {shown} returned non-zero exit status 1"
    assert failed.cmd is args


@pytest.mark.parametrize(
    ("stderr", "tail"),
    [
        (b"line\n" * 100, "line\n" * 11 + "line"),
        ("text\n", "text"),
        (b"\xe2\x82\xac" * 1000, "\N{EURO SIGN}" * 666),
        (b"bad \xff\x00\n", r"bad \xff\x00"),
        (b"\x1b]0;title\x07tab\there\r\n", r"\x1b]0;title\x07tab" + "\there"),
        (b"x" * 1_000_000, "x" * 2000),
        (b"\n\n", ""),
    ],
    ids=lambda value: repr(value[:12]),
)
def test_the_tail_of_stderr(stderr: Any, tail: str) -> None:
    """The last lines of stderr, at most 2000 bytes of it, without what would control a terminal."""
    said = str(ProcessFailed(completed(stderr=stderr, status=256)))
    assert said == "Command 'true' returned non-zero exit status 1" + (f"\n{tail}" if tail else "")


def test_stderr_that_went_to_stdout() -> None:
    """Where stderr has no pipe of its own, the end of stdout is shown; where it has one, never."""
    assert str(ProcessFailed(completed(stdout="said", stderr=None, status=256))).endswith("\nsaid")
    assert "said" not in str(ProcessFailed(completed(stdout="said", stderr="", status=256)))


def test_a_death_by_a_signal() -> None:
    """A signal is named."""
    assert str(ProcessFailed(completed(status=9))) == "Command 'true' died with SIGKILL"
    assert str(ProcessFailed(completed(status=40))) == "Command 'true' died with signal 40"


def test_a_repr_is_short() -> None:
    """The repr of a Completed shows the beginning of what may be a gigabyte."""
    found = repr(completed("cat", stdout=b"x" * 1000, stderr=None))
    assert found == f"Completed(args='cat', returncode=0, stdout={b'x' * 100!r} and 900 more)"
