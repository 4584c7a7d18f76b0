"""Environments as the plan wants them: strings that end with NUL, and the PATH among them.

Layer: below the plan. Thread: any.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from aiovfork._binding import ffi, lib
from aiovfork._compat import environ_bytes
from aiovfork._options import Env
from aiovfork._values import strings

_POINTER: Final[int] = ffi.sizeof("char *")


def given_environment(env: Env) -> tuple[bytes, int, bytes]:
    """Return the strings of env, their number, and its PATH.

    Raises:
        TypeError: A key or value is not str, bytes or os.PathLike.
        ValueError: A NUL, `=` in a key, or PATH both as str and as bytes.
    """
    items: list[bytes] = []
    path: bytes | None = None
    for key, value in env.items():
        name = os.fsencode(key)
        if b"=" in name:
            raise ValueError("illegal environment variable name")
        content = os.fsencode(value)
        if name == b"PATH":
            if path is not None:
                raise ValueError("env cannot contain 'PATH' and b'PATH' keys")
            path = content
        items.append(name + b"=" + content)
    block = strings(items) if items else b""
    return block, len(items), _default_path() if path is None else path


# What systemd tells a server: sd_listen_fds(3).
_LISTEN: Final = (b"LISTEN_PID=", b"LISTEN_FDS=", b"LISTEN_FDNAMES=", b"LISTEN_PIDFDID=")


def listening(block: bytes, names: Sequence[str]) -> tuple[bytes, int]:
    """Return an environment, and its number of strings, for a server that gets sockets of these names.

    What it says of sockets that the caller got itself is left out. The last string is LISTEN_PID=, which the
    child completes.
    """
    items = [item for item in block.split(b"\0")[:-1] if not item.startswith(_LISTEN)]
    items += [b"LISTEN_FDS=%d" % len(names), b"LISTEN_FDNAMES=" + ":".join(names).encode(), _LISTEN[0]]
    return strings(items), len(items)


class _Known(NamedTuple):
    """The process' environment as it was when it was last encoded, and what tells that it has changed."""

    array: Any  # environ(7): the pointer
    pointers: bytes  # what it points to, the closing NULL included
    runs: tuple[tuple[Any, int, bytes], ...]  # the strings: where each run of adjacent ones begins, its bytes
    block: bytes
    number: int


def _is_current(known: _Known, array: Any) -> bool:
    """Return whether environ is what it was: first its pointers, and only then what they point to."""
    before, pointers, runs, _, _ = known
    if before != array or array == ffi.NULL or ffi.buffer(array, len(pointers)) != pointers:
        return False
    for start, size, content in runs:  # noqa: SIM110  # all() would cost more, on the path of every spawn
        if ffi.buffer(start, size) != content:
            return False
    return True


_known: _Known | None = None


def own_environment() -> tuple[bytes, int, bytes]:
    """Return the strings of this process' environment, their number, and the PATH of os.environ.

    environ(7) is read, not os.environ, which does not see what C code or os.putenv has set. It is encoded
    anew only when it has changed. setenv(3) and putenv(3) replace pointers, but C code may also write into a
    string in place, so pointers and strings are compared: a few calls of memcmp, for most strings lie one
    after the other where the kernel put them.

    Threads: os.putenv and os.environ change it with the GIL held, and the GIL is held here from end to end,
    so neither comes between the comparison of the pointers and the reading of the strings. C code that calls
    setenv beside other threads is undefined behaviour by getenv(3) itself. Without a GIL (a free-threaded
    build) os.putenv in another thread is such C code: this is then as unsafe as os.putenv beside getenv(3) in
    any library, and the program has to keep them apart. The cache itself is safe there: it is one immutable
    object, replaced whole; a race costs an encoding.
    """
    global _known  # noqa: PLW0603  # one cache
    array, known = lib.environ, _known
    if known is None or not _is_current(known, array):
        known = _known = _encode(array)
    path = environ_bytes().get(b"PATH")
    return known.block, known.number, _default_path() if path is None else path


def _encode(array: Any) -> _Known:
    items: list[bytes] = []
    runs: list[tuple[Any, bytes]] = []
    end = None
    while array != ffi.NULL and array[len(items)] != ffi.NULL:
        start = array[len(items)]
        item = ffi.string(start)
        if start == end:
            first, before = runs[-1]
            runs[-1] = (first, before + item + b"\0")
        else:
            runs.append((start, item + b"\0"))
        end = start + len(item) + 1
        items.append(item)
    sized = tuple((start, len(content), content) for start, content in runs)
    pointers = b"" if array == ffi.NULL else ffi.buffer(array, (len(items) + 1) * _POINTER)[:]
    block = strings(items) if items else b""
    return _Known(array, pointers, sized, block, len(items))


def _default_path() -> bytes:
    return os.fsencode(os.defpath)
