"""A new terminal: its two sides, and what a command becomes that is to run on it.

The master side is the caller's; the slave side is what the child has. Both are made here, on the calling
thread. The child makes the slave its controlling terminal by steps of its plan: a new session, then
TIOCSCTTY.

Layer: above the options and the events. Thread: any.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import termios
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from aiovfork._errors import terminal_failure
from aiovfork._events import close_all
from aiovfork._options import Command, Options
from aiovfork._pty import Pty

#: Keys of Ends: the master, to write and to read; the slave.
WRITE: Final = 0
READ: Final = 1
SLAVE: Final = 2
_SPARE: Final = 3
_LOWEST: Final = 3
# What Python has no names for. A few processors have numbers of their own, and other ones for TIOCGWINSZ too.
_COMMON: Final = termios.TIOCGWINSZ == 0x5413  # noqa: PLR2004
_TIOCSPTLCK: Final = 0x40045431 if _COMMON else 0x80045431
_TIOCGPTPEER: Final = 0x5441 if _COMMON else 0x20005441  # Linux 4.13
_IUTF8: Final = 0o40000
_OPEN: Final = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
_WINSIZE: Final = struct.Struct("=HHHH")
# Of an attribute list of termios.
IFLAG, OFLAG, CFLAG, LFLAG, CC = 0, 1, 2, 3, 6

# A fork() waits while a terminal is being made or closed: its numbers are noted nowhere then. Reentrant, for
# a thread that is in here may find garbage that closes another one.
_gate = threading.RLock()


class Ends(dict[int, int]):
    """The open descriptors of a terminal. Whoever takes one out closes it."""

    __slots__ = ("__weakref__",)

    __hash__ = object.__hash__  # type: ignore[assignment]  # by identity


_open: weakref.WeakSet[Ends] = weakref.WeakSet()


def open_terminal(ends: Ends, pty: Pty) -> None:
    """Make a terminal.

    Its descriptors are put into ends, which are the caller's to close, also after an error. None of them is
    0, 1 or 2, and none is inherited.

    Raises:
        SpawnError: There is none to be had (ENOSPC, EMFILE, ENOENT); its step is "pty".
    """
    try:
        with _gate:
            _open.add(ends)
            _put(ends, READ, os.open, "/dev/ptmx", _OPEN | os.O_NONBLOCK)
            _put(ends, WRITE, fcntl.fcntl, ends[READ], fcntl.F_DUPFD_CLOEXEC, _LOWEST)
            fcntl.ioctl(ends[READ], _TIOCSPTLCK, struct.pack("i", 0))
            # By the master: another mount namespace may have another /dev/pts, or none.
            _put(ends, SLAVE, fcntl.ioctl, ends[READ], _TIOCGPTPEER, _OPEN)
        set_size(ends[READ], pty.rows, pty.cols)
        _set_modes(ends[SLAVE], pty)
    except (OSError, termios.error) as exc:
        raise terminal_failure(exc.args[0]) from None


def _put(ends: Ends, key: int, call: Callable[..., int], *args: Any) -> None:
    """Note the descriptor that a call returns, above 2. One call into C: no signal handler comes between."""
    ends.update(zip((key,), map(call, *((arg,) for arg in args)), strict=True))
    if ends[key] < _LOWEST:
        _put(ends, _SPARE, fcntl.fcntl, ends[key], fcntl.F_DUPFD_CLOEXEC, _LOWEST)
        close_all(ends, key)
        ends.update(zip((key,), map(ends.pop, (_SPARE,)), strict=True))


def size_of(fd: int) -> tuple[int, int]:
    """Return the rows and the columns of a terminal."""
    rows, cols, _, _ = _WINSIZE.unpack(fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(_WINSIZE.size)))
    return rows, cols


def set_size(fd: int, rows: int, cols: int) -> None:
    """Set the size of a terminal; the programs on it get SIGWINCH if it is another one."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, _WINSIZE.pack(rows, cols, 0, 0))


def _set_modes(fd: int, pty: Pty) -> None:
    modes = termios.tcgetattr(fd)
    modes[IFLAG] |= _IUTF8  # a backspace takes a character away, not a byte
    if not pty.echo:
        modes[LFLAG] &= ~(termios.ECHO | termios.ECHONL)
    if pty.raw:  # as cfmakeraw(3)
        modes[IFLAG] &= ~(
            termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP
            | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON
        )  # fmt: skip
        modes[OFLAG] &= ~termios.OPOST
        modes[LFLAG] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        modes[CFLAG] = modes[CFLAG] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        modes[CC][termios.VMIN], modes[CC][termios.VTIME] = 1, 0
    termios.tcsetattr(fd, termios.TCSANOW, modes)


def close_ends(ends: dict[int, int], *keys: int) -> None:
    """Close some ends, or all that are there."""
    with _gate:
        close_all(ends, *keys)


@contextmanager
def closed_at_the_end(ends: Ends) -> Iterator[Ends]:
    """Close what is still there."""
    try:
        yield ends
    finally:
        close_ends(ends)


# ---- what a command becomes ----


def session_of(options: Options, pty: Pty | None) -> Options:
    """Return the options of a child with a terminal: it leads a session.

    Raises:
        ValueError: An option that contradicts it.
    """
    if pty is None:
        return options
    if options.process_group:
        raise ValueError("pty gives the child a session, and so a group, of its own: no process_group")
    if options.controlling_tty is not None:
        raise ValueError("pty gives the child a controlling terminal: no controlling_tty")
    return options._replace(start_new_session=True, process_group=None)


def with_pty(command: Command, pty: Pty | None) -> Command:
    """Return the command that is to run on a terminal: on the streams that are None.

    Raises:
        ValueError: There is no such stream.
    """
    if pty is None:
        return command
    if None not in command[1:4]:
        raise ValueError("pty needs stdin, stdout or stderr for the terminal: all of them are given")
    return command._replace(pty=pty)


def at_terminal(command: Command, data: Any, pty: Pty | None) -> tuple[Command, Any]:
    """As with_pty(), of a call that makes the streams by itself: the terminal is what it would make.

    None there means the caller's own stream, and stays that.

    Returns:
        The command, and what is typed for the input: data, and the key that ends it. On a raw terminal there
        is no such key; and none is typed for stdin=PIPE without data, which is written to later.
    """
    if pty is None:
        return command, data
    if data is not None or command.stdin == subprocess.DEVNULL:
        data = _typed(b"" if data is None else bytes(data), pty)
    own = [number if stream is None else stream for number, stream in enumerate(command[1:4])]
    made = (subprocess.PIPE, subprocess.DEVNULL), (subprocess.PIPE,), (subprocess.PIPE,)
    stdin, stdout, stderr = (
        None if stream in mine else stream for stream, mine in zip(own, made, strict=True)
    )
    return with_pty(command._replace(stdin=stdin, stdout=stdout, stderr=stderr), pty), data


def _typed(text: bytes, pty: Pty) -> bytes:
    if pty.raw:
        return text
    return text + (_EOF if text[-1:] in {b"", b"\n"} else _EOF + _EOF)  # it counts at the start of a line


def on_terminal(command: Command, slave: int) -> Command:
    """Return the command as it is started: with the slave on its free streams; the first controls it."""
    first = command[1:4].index(None)
    streams = [slave if stream is None else stream for stream in command[1:4]]
    return command._replace(
        stdin=streams[0],
        stdout=streams[1],
        stderr=streams[2],
        options=command.options._replace(controlling_tty=first),
    )


_EOF: Final = b"\x04"  # VEOF of a new terminal


# ---- fork() ----


def _before_fork() -> None:
    _gate.acquire()


def _after_fork_in_parent() -> None:
    _gate.release()


def _after_fork_in_child() -> None:
    """The terminals are the parent's: a master that is open here too would keep them from hanging up."""
    global _gate  # noqa: PLW0603  # the thread that holds it is not here, if no handler ran before the fork
    _gate = threading.RLock()
    for ends in list(_open):
        with suppress(OSError):
            close_all(ends)
    _open.clear()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)
