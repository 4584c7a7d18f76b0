"""What a child finds open: its standard streams, and the descriptors above them that it is given.

Layer: below the plan. Thread: any.
"""

from __future__ import annotations

import array
import errno
import os
import subprocess
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from aiovfork._binding import lib
from aiovfork._errors import spawn_failure
from aiovfork._options import Options
from aiovfork._values import c_int, integer, items_of

_STDIO_INHERIT: Final[int] = lib.AVF_STDIO_INHERIT
_STDOUT: Final = 1
_STDERR: Final = 2
_STDIO: Final = (("stdin", "or DEVNULL"), ("stdout", "or DEVNULL"), ("stderr", "STDOUT or DEVNULL"))
_INT_MAX: Final = 2**31 - 1
_LISTEN_FIRST: Final = 3  # SD_LISTEN_FDS_START, sd_listen_fds(3)
_LONGEST_NAME: Final = 255
_UNNAMED: Final = "unknown"  # what sd_listen_fds_with_names(3) makes of no names

assert lib.AVF_STDIO_PIPE == subprocess.PIPE
assert lib.AVF_STDIO_STDOUT == subprocess.STDOUT
assert lib.AVF_STDIO_DEVNULL == subprocess.DEVNULL


class Given(NamedTuple):
    """The descriptors above 2 that a child is given.

    Attributes:
        passed: Those of pass_fds, standard streams among them.
        block: The child's numbers, ascending, and behind them the caller's, as the plan has them.
        number: How many of each.
        close_others: Whether the child gets no other above 2.
        listen_names: The names of what listen_fds gives, in the order of the numbers; None: it gives none.
    """

    passed: Sequence[int]
    block: bytes
    number: int
    close_others: bool
    listen_names: Sequence[str] | None


_NONE: Final = Given((), b"", 0, close_others=True, listen_names=None)
_NOT_EVEN_CLOSED: Final = _NONE._replace(close_others=False)


def given(options: Options) -> Given:
    """Return what pass_fds, fd_map and listen_fds come to.

    Raises:
        TypeError: A number is no integer, or something holds no descriptors.
        ValueError: A number is negative, one of the child's is given twice, or controlling_tty names none.
        SpawnError: Something is no descriptor that could be open.
    """
    if not (options.pass_fds or options.fd_map or options.listen_fds or options.controlling_tty):
        return _NONE if options.close_fds else _NOT_EVEN_CLOSED
    passed = _pass_fds(options)
    numbers = {fd: fd for fd in passed if fd > _STDERR}
    kept = len(numbers)
    names, listening = _listening(options.listen_fds)
    for fd, source in [*_mapped(options.fd_map), *enumerate(listening, _LISTEN_FIRST)]:
        if fd in numbers:
            raise ValueError(f"pass_fds, fd_map and listen_fds give the child its descriptor {fd} twice")
        numbers[fd] = source
    if not options.close_fds and len(numbers) > kept:
        warnings.warn("fd_map and listen_fds override close_fds.", RuntimeWarning, stacklevel=2)
    close_others = options.close_fds or bool(passed) or bool(numbers)
    if options.controlling_tty is not None:
        terminal = integer(options.controlling_tty, "controlling_tty")
        if terminal < 0 or (close_others and terminal > _STDERR and terminal not in numbers):
            raise ValueError(f"controlling_tty must be a descriptor that the child gets, not {terminal}")
    children = sorted(numbers)
    block = array.array("i", children + [numbers[fd] for fd in children]).tobytes()
    return Given(passed, block, len(children), close_others, names)


def _pass_fds(options: Options) -> Sequence[int]:
    if not options.pass_fds:
        return ()
    fds = sorted(set(map(int, options.pass_fds)))
    if fds and not options.close_fds:
        warnings.warn("pass_fds overriding close_fds.", RuntimeWarning, stacklevel=2)
    if fds and (fds[0] < 0 or fds[-1] > _INT_MAX):
        raise ValueError("bad value(s) in fds_to_keep")
    return fds


def _mapped(fd_map: Any) -> list[tuple[int, int]]:
    if not fd_map:
        return []
    if not isinstance(fd_map, Mapping):
        raise TypeError(f"fd_map must be a mapping, not {type(fd_map).__name__}")
    found = []
    for key, source in fd_map.items():
        fd = c_int(integer(key, "a number of fd_map"))
        if fd <= _STDERR:
            raise ValueError(f"fd_map is for numbers above 2, not {fd}: use stdin, stdout, stderr")
        found.append((fd, descriptor(source, f"fd_map[{fd}]")))
    return found


def _listening(listen_fds: Any) -> tuple[Sequence[str] | None, list[int]]:
    if not listen_fds:
        return None, []
    if isinstance(listen_fds, Mapping):
        names, sources = list(listen_fds), list(listen_fds.values())
    else:
        sources = items_of(listen_fds, "listen_fds")
        names = [_UNNAMED] * len(sources)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"a name of listen_fds must be str, not {type(name).__name__}")
        if not 0 < len(name) <= _LONGEST_NAME or not name.isascii() or not name.isprintable() or ":" in name:
            raise ValueError(
                f"a name of listen_fds must be printable ASCII without a colon, of at most {_LONGEST_NAME} "
                f"characters, not {name!r}"
            )
    return names, [descriptor(source, "an item of listen_fds") for source in sources]


def descriptor(value: Any, name: str) -> int:
    """Return a descriptor of the caller's, or that of a file.

    Raises:
        TypeError: It is neither.
        SpawnError: It is closed: EBADF.
    """
    number = value
    if not isinstance(value, int):
        if not hasattr(value, "fileno"):
            raise TypeError(f"{name} must be a descriptor or a file, not {type(value).__name__}")
        number = integer(value.fileno(), f"fileno() of {name}")
    if number < 0:  # a socket that is closed says -1
        raise _bad_descriptor(f"{name} must be open, but is {value!r}")
    return c_int(number)


def stream(value: Any, number: int, passed: Sequence[int]) -> int:
    """Return a standard stream as the plan has it.

    Raises:
        TypeError: It is no stream.
        ValueError: STDOUT for another stream than stderr.
        SpawnError: It is no descriptor that could be open.
    """
    if value is None:
        # A standard stream in pass_fds is passed even if it is not inheritable by itself.
        return number if number in passed else _STDIO_INHERIT
    name, words = _STDIO[number]
    if not isinstance(value, int):
        given_object, value = value, value.fileno()  # AttributeError otherwise, as with Popen
        value = integer(value, f"fileno() of {name}")
        if value < 0:  # a socket that is closed says -1, which would mean PIPE
            raise _bad_descriptor(f"{name} must be open, but fileno() of {given_object!r} is {value}")
    if value == subprocess.STDOUT and number == _STDOUT:
        raise ValueError("STDOUT can only be used for stderr")  # as Popen says since Python 3.13
    if value < 0 and (value < subprocess.DEVNULL or (value == subprocess.STDOUT and number != _STDERR)):
        raise _bad_descriptor(f"{name} must be a descriptor, a file, None, PIPE, {words}, not {value}")
    return c_int(value)


def _bad_descriptor(note: str) -> OSError:
    return spawn_failure(lib.AVF_STEP_DUP_FDS, note, errno.EBADF, os.strerror(errno.EBADF))
