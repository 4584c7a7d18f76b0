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

_POINTER: Final[int] = ffi.sizeof("char *")


def strings(items: Sequence[bytes]) -> bytes:
    """Join to NUL-terminated strings.

    Raises:
        ValueError: There is a NUL in one of them.
    """
    joined = b"\0".join(items) + b"\0"
    if joined.count(b"\0") != len(items):
        raise ValueError("embedded null byte")
    return joined


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


class _Known(NamedTuple):
    """The process' environment as it was when it was last encoded, and what tells that it has changed."""

    array: Any  # environ(7): the pointer
    pointers: bytes  # what it points to, the closing NULL included
    view: dict[bytes, bytes]  # os.environ, whose PATH is the one to search
    encoded: tuple[bytes, int, bytes]


_known: _Known | None = None


def own_environment() -> tuple[bytes, int, bytes]:
    """Return the strings of this process' environment, their number, and the PATH of os.environ.

    environ(7) is read, not os.environ, which does not see what C code or os.putenv has set. It is encoded
    anew only when it has changed: setenv(3) and putenv(3) replace pointers, and comparing those is ten times
    as fast.
    """
    global _known  # noqa: PLW0603  # one cache; a race between threads costs an encoding, nothing else
    array, view, known = lib.environ, environ_bytes(), _known
    if (
        known is None
        or known.array != array
        or array == ffi.NULL
        or ffi.buffer(array, len(known.pointers))[:] != known.pointers
        or known.view != view
    ):
        known = _known = _encode(array, dict(view))
    return known.encoded


def _encode(array: Any, view: dict[bytes, bytes]) -> _Known:
    items: list[bytes] = []
    while array != ffi.NULL and array[len(items)] != ffi.NULL:
        items.append(ffi.string(array[len(items)]))
    pointers = b"" if array == ffi.NULL else ffi.buffer(array, (len(items) + 1) * _POINTER)[:]
    block = strings(items) if items else b""
    return _Known(array, pointers, view, (block, len(items), view.get(b"PATH", _default_path())))


def _default_path() -> bytes:
    return os.fsencode(os.defpath)
