"""What run() returns and raises: how a program ended, what it wrote, what it took.

An exception shows the command and the end of stderr, both cut to what a log can take. Each can be pickled.

Layer: above the events. Thread: any.
"""

from __future__ import annotations

import errno
import os
import resource
import shlex
import signal
import subprocess
from collections.abc import Iterator
from typing import Any, AnyStr, Final, Protocol, cast

from aiovfork._events import Exited, SpawnInfo

# What messages show: characters of the command, of one output in a repr; bytes and lines of stderr.
_COMMAND: Final = 200
_SAMPLE: Final = 100
_TAIL: Final = 2000
_LINES: Final = 12


class Started(Protocol):
    """A record of the port that tells how a child was started."""

    @property
    def pid(self) -> int:
        """Its process ID."""

    def info(self) -> SpawnInfo:
        """How it was started."""


class Completed(subprocess.CompletedProcess[AnyStr]):
    """How a program ended, and what it wrote: a subprocess.CompletedProcess, and more.

    Attributes:
        args: The program and its arguments; of run_shell(), the command.
        returncode: The exit code, or -N for a child that signal N killed.
        stdout: What it wrote to stdout; None if that was not captured.
        stderr: As stdout.
        pid: The process ID that it had.
        duration: Seconds from the call to the end.
        drained: Whether its output is whole. False: after the exit somebody else still held the pipes, and
            drain_timeout seconds later, or at a cancellation or a time-out, reading ended.
        truncated: Whether it wrote more than max_output bytes, of which the first were kept.
        index: With run_many(), its place among the commands, from 0; else None.
    """

    stdout: AnyStr
    stderr: AnyStr
    pid: int
    duration: float
    drained: bool
    truncated: bool
    index: int | None = None

    def __init__(
        self,
        args: Any,
        stdout: AnyStr | None,
        stderr: AnyStr | None,
        *,
        started: Started,
        exited: Exited,
        duration: float,
        drained: bool = True,
        truncated: bool = False,
    ) -> None:
        self.args = args
        self.returncode = exited.returncode
        # Whoever captures it knows that it is not None.
        self.stdout = cast("AnyStr", stdout)
        self.stderr = cast("AnyStr", stderr)
        self.pid = started.pid
        self.duration = duration
        self.drained = drained
        self.truncated = truncated
        self._started = started
        self._exited = exited

    @property
    def rusage(self) -> resource.struct_rusage | None:
        """What the child and its waited-for descendants used; None where somebody else reaped it."""
        return self._exited.rusage

    @property
    def spawn_info(self) -> SpawnInfo:
        """Engine, report mode and the times to exec in microseconds."""
        return self._started.info()

    @property
    def returncode_known(self) -> bool:
        """Whether returncode is true. If somebody else reaped the child before Linux 6.15, it is 255."""
        return self._exited.known

    def check_returncode(self) -> None:
        """Raise ProcessFailed if the return code is not 0."""
        if self.returncode:
            raise ProcessFailed(self)

    def __repr__(self) -> str:
        parts = [f"args={shown_command(self.args)}", f"returncode={self.returncode}"]
        for name in ("stdout", "stderr"):
            output = getattr(self, name)
            if output is not None:
                cut = f" and {len(output) - _SAMPLE} more" if len(output) > _SAMPLE else ""
                parts.append(f"{name}={output[:_SAMPLE]!r}{cut}")
        return f"{type(self).__name__}({', '.join(parts)})"


class _Outcome(Exception):  # noqa: N818  # no error by itself: what three of them share
    """What the exceptions of run() have in common.

    Attributes:
        cmd: The program and its arguments; of run_shell(), the command.
        completed: How the program ended and what is known of it; None if it had not been started.
        output: What it wrote to stdout until then; stdout is the same.
        stderr: What it wrote to stderr until then.
        returncode: The exit code, or -N for a child that signal N killed; None if it had not been started.
        pid: The process ID that it had; None if it had not been started.
        duration: Seconds from the call to the end; None if it had not been started.
        index: With run_many(), its place among the commands, from 0; else None.
    """

    cmd: Any
    completed: Completed[Any] | None
    output: Any
    stderr: Any
    pid: int | None
    duration: float | None
    index: int | None = None

    def _note(self, completed: Completed[Any] | None) -> None:
        self.completed = completed
        self.returncode = None if completed is None else completed.returncode
        self.pid = None if completed is None else completed.pid
        self.duration = None if completed is None else completed.duration

    def _made_of(self) -> tuple[Any, ...]:
        """Return the arguments that make another one like it."""
        raise NotImplementedError

    def _sentence(self) -> str:
        raise NotImplementedError

    def __reduce__(self) -> tuple[Any, ...]:
        """Say how it is made again: what an OSError says by itself would lose what it carries."""
        return type(self), self._made_of(), self.__dict__

    def __str__(self) -> str:
        # Without a pipe of its own stderr may have gone where stdout did.
        tail = _tail(self.output if self.stderr is None else self.stderr)
        return f"{self._sentence()}\n{tail}" if tail else self._sentence()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


class ProcessFailed(_Outcome, subprocess.CalledProcessError):
    """A program that run() ran ended with a return code other than 0, or by a signal.

    It is a subprocess.CalledProcessError too. Its message ends with the end of stderr.
    """

    completed: Completed[Any]
    returncode: int

    def __init__(self, completed: Completed[Any]) -> None:
        subprocess.CalledProcessError.__init__(
            self, completed.returncode, completed.args, completed.stdout, completed.stderr
        )
        self._note(completed)

    def _made_of(self) -> tuple[Any, ...]:
        return (self.completed,)

    def _sentence(self) -> str:
        command = f"Command {shown_command(self.cmd)}"
        if self.returncode < 0:
            return f"{command} died with {signal_name(-self.returncode)}"
        return f"{command} returned non-zero exit status {self.returncode}"


class ProcessTimeout(_Outcome, subprocess.TimeoutExpired, TimeoutError):  # noqa: N818  # what it is called
    """A program that run() ran took longer than timeout seconds, and was ended.

    It is a subprocess.TimeoutExpired and a TimeoutError too. What the program wrote until then is kept.

    Attributes:
        timeout: The seconds that it was given.
    """

    def __init__(self, cmd: Any, timeout: float, completed: Completed[Any] | None = None) -> None:
        stdout, stderr = (None, None) if completed is None else (completed.stdout, completed.stderr)
        subprocess.TimeoutExpired.__init__(self, cmd, timeout, stdout, stderr)
        self._note(completed)
        self.errno, self.strerror = errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)

    def _made_of(self) -> tuple[Any, ...]:
        return self.cmd, self.timeout, self.completed

    def _sentence(self) -> str:
        when = "" if self.completed is not None else ", before it ran"
        return f"Command {shown_command(self.cmd)} timed out after {self.timeout:g} seconds{when}"


class OutputLimitExceeded(_Outcome, subprocess.SubprocessError):
    """A program that run() ran wrote more than max_output bytes to stdout or to stderr, and was ended.

    The bytes up to the limit are kept.

    Attributes:
        limit: The max_output that it was given.
        stream: "stdout" or "stderr".
    """

    completed: Completed[Any]

    def __init__(self, limit: int, stream: str, completed: Completed[Any]) -> None:
        self.cmd = completed.args
        self.limit = limit
        self.stream = stream
        self.output, self.stderr = completed.stdout, completed.stderr
        self._note(completed)

    @property
    def stdout(self) -> Any:
        """The same as output."""
        return self.output

    def _made_of(self) -> tuple[Any, ...]:
        return self.limit, self.stream, self.completed

    def _sentence(self) -> str:
        wrote = f"wrote more than {self.limit} bytes to {self.stream}, and was ended"
        return f"Command {shown_command(self.cmd)} {wrote}"


def signal_name(number: int) -> str:
    """Return SIGKILL for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def shown_command(args: Any) -> str:
    """Return a command as messages show it: quoted for a shell, on one line, cut."""
    if isinstance(args, (str, bytes, os.PathLike)):
        return _cut(_printable(os.fsdecode(args)[: _COMMAND + 1], ""))
    return _cut(" ".join(_words(args)))


def _words(args: Any) -> Iterator[str]:
    length = 0
    for arg in args:
        word = _printable(shlex.quote(os.fsdecode(arg)[: _COMMAND + 1]), "")
        yield word
        length += len(word) + 1
        if length > _COMMAND:
            return


def _cut(text: str) -> str:
    return f"'{text}'" if len(text) <= _COMMAND else f"'{text[:_COMMAND]}...'"


def _printable(text: str, also: str) -> str:
    """Escape what would control a terminal or cannot be encoded."""
    if text.isprintable():
        return text
    return "".join(
        [c if c.isprintable() or c in also else c.encode("unicode_escape").decode("ascii") for c in text]
    )


def _tail(output: Any) -> str:
    """Return the last lines of an output, fit for a log."""
    if not output:
        return ""
    end = output[-_TAIL:]
    if isinstance(end, bytes):
        if len(end) < len(output):
            end = end.lstrip(bytes(range(0x80, 0xC0)))  # the rest of a character of UTF-8
        end = end.decode("utf-8", "backslashreplace")
    lines = end.rstrip().splitlines()[-_LINES:]
    return "\n".join([_printable(line, "\t") for line in lines])
