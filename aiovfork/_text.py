"""Bytes to text, without a stop of the loop.

To decode much output at once, or to join its parts, stops the loop for as long as that takes: 0.2 s for
256 MiB. So it is decoded in slices, between which the loop runs, and the parts are copied, a slice at a time
as well, into a str that nobody has seen yet.

Layer: lowest. Thread: the loop's.
"""

from __future__ import annotations

import asyncio
import codecs
import functools
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple, TypeAlias

#: Bytes that one callback of the loop decodes or copies.
SLICE: Final = 2**16
#: An output, or what returns its pieces.
Data: TypeAlias = bytes | Callable[[], Iterable[bytes]]
# Of the byte order, at the beginning of a text; and the bytes of the longest.
_MARKS: Final = {
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
}
_MARK: Final = 4
# Characters that are joined at once: about 0.3 ms.
_JOINED: Final = 2**20
# Bytes of a str that are no characters, at most.
_HEADER: Final = 128


def check_codec(encoding: Any, errors: Any) -> None:
    """Refuse at once what decoding would refuse at the end.

    Raises:
        LookupError: There is no such encoding of text, or no such way to handle errors.
        TypeError: One of the two is no str.
    """
    if not isinstance(encoding, str):
        raise TypeError(f"encoding must be a str or None, not {type(encoding).__name__}")
    if not isinstance(errors, str):
        raise TypeError(f"errors must be a str, not {type(errors).__name__}")
    b"-".decode(encoding, "ignore")  # refuses codecs that are not of text
    codecs.lookup_error(errors)


async def decoded(data: Data, encoding: str, errors: str) -> str:
    """Decode an output, which may come in pieces.

    UTF-16 and UTF-32 without a mark are in the byte order of this machine, as in bytes.decode().

    Raises:
        UnicodeError: It is not text of that encoding. Of an UnicodeDecodeError, object is the slice with the
            fault.
    """
    if isinstance(data, bytes) and len(data) <= SLICE:
        return data.decode(encoding, errors)
    slices = _slices((data,) if isinstance(data, bytes) else data())
    head = next(slices, b"")
    while len(head) < _MARK and (more := next(slices, b"")):
        head += more
    decoder = codecs.getincrementaldecoder(_in_order(encoding, head))(errors)
    parts: list[str] = []
    length, widest = 0, 0x7F
    for slice_ in itertools.chain((head,) if head else (), slices, (b"",)):
        part = decoder.decode(slice_, final=not slice_)
        if part:
            parts.append(part)
            length += len(part)
            widest = max(widest, _widest(part))
        await asyncio.sleep(0)
    strings = _strings() if length > _JOINED else None
    if strings is None:
        return "".join(parts)
    return await _assembled(strings, parts, length, widest)


async def escaped(data: Data, encoding: str, errors: str) -> str:
    """Decode an output as far as it can be, for an exception: what is no text of that encoding is escaped."""
    # A few codecs, such as idna, know no such mode: then what is not ASCII is escaped.
    for codec, mode in ((encoding, errors), (encoding, "backslashreplace")):
        try:
            return await decoded(data, codec, mode)
        except UnicodeError:
            pass
    return await decoded(data, "ascii", "backslashreplace")


async def joined(parts: list[str]) -> str:
    """Join parts of a text, of at most SLICE characters each."""
    length = sum(map(len, parts))
    strings = _strings() if length > _JOINED else None
    if strings is None:
        return "".join(parts)
    return await _assembled(strings, list(parts), length, max(map(_widest, parts)))


def _in_order(encoding: str, head: bytes) -> str:
    """Return the encoding with the byte order, where neither it nor a mark tells that.

    The decoders of the codecs that a mark belongs to refuse text without one in their incremental form.
    """
    name = codecs.lookup(encoding).name
    if name not in _MARKS or head.startswith(_MARKS[name]):
        return encoding
    return f"{name}-{'le' if sys.byteorder == 'little' else 'be'}"


def _slices(pieces: Iterable[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        for at in range(0, len(piece), SLICE):
            yield piece[at : at + SLICE]


class _Strings(NamedTuple):
    """CPython's functions for a str that is being made. It is an address until it is done."""

    new: Callable[[int, int], int]
    copy: Callable[[int, int, str, int, int], int]
    done: Callable[[int], str]
    forget: Callable[[int], None]


@functools.cache
def _strings() -> _Strings | None:
    """Return them, or None where there is no ctypes."""
    try:
        import ctypes  # noqa: PLC0415  # few need it, and it takes milliseconds
    except ImportError:
        return None
    api = ctypes.pythonapi
    new, copy, forget = api.PyUnicode_New, api.PyUnicode_CopyCharacters, api.Py_DecRef
    size, address, string = ctypes.c_ssize_t, ctypes.c_void_p, ctypes.py_object
    new.argtypes, new.restype = [size, ctypes.c_uint32], address
    copy.argtypes, copy.restype = [address, size, string, size, size], size
    forget.argtypes, forget.restype = [address], None
    return _Strings(new, copy, lambda made: ctypes.cast(made, string).value, forget)


async def _assembled(strings: _Strings, parts: list[str], length: int, widest: int) -> str:
    """Join parts, slice by slice; takes them out of the list."""
    made = strings.new(length, widest)
    try:
        at = 0
        parts.reverse()
        while parts:
            part = parts.pop()
            at += strings.copy(made, at, part, 0, len(part))
            await asyncio.sleep(0)
        return strings.done(made)
    finally:
        strings.forget(made)


def _widest(part: str) -> int:
    """Return a character that no character of a str is wider than, in bytes as CPython stores them.

    A str that is stored wider than it must be is equal to no other.
    """
    if part.isascii():
        return 0x7F
    if len(part) < 2 * _HEADER:
        return ord(max(part))
    size = (sys.getsizeof(part) - sys.getsizeof("")) // len(part)
    return {1: 0xFF, 2: 0xFFFF, 4: 0x10FFFF}[size]
