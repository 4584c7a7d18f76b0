"""Decoding much output, slice by slice."""

from __future__ import annotations

import sys

import pytest

from aiovfork import _text

SIZE = 3 * _text._JOINED


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-7", "gb18030", "shift_jis_2004"])
@pytest.mark.parametrize("chars", ["a", "aé€"], ids=ascii)
async def test_any_encoding(chars: str, encoding: str) -> None:
    """Characters, and what an encoding remembers between them, survive the borders of slices."""
    text = chars * (200_000 // len(chars))
    if encoding == "shift_jis_2004":
        text = text.replace("é", "").replace("€", "\N{KATAKANA LETTER A}")
    assert await _text.decoded(text.encode(encoding), encoding, "strict") == text


@pytest.mark.parametrize("size", [0, 1, 100_000])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-le", "utf-16-be", "utf-32-be"])
@pytest.mark.parametrize("mark", [False, True])
async def test_byte_orders(mark: bool, encoding: str, size: int) -> None:
    """Text without a mark of its byte order, or with that of another machine, is what bytes.decode() makes of it."""
    order = "le" if sys.byteorder == "little" else "be"
    written = encoding if encoding[-2:] in {"le", "be"} else f"{encoding}-{order}"
    if mark and written != encoding:
        written = f"{encoding}-{'be' if order == 'le' else 'le'}"
    data = ("\ufeff" * mark + "é" * size).encode(written)
    expected = data.decode(encoding)
    assert expected.endswith("é" * size)
    assert await _text.decoded(data, encoding, "strict") == expected
    # In whatever pieces it comes.
    pieces = [data[:1], data[1:3], data[3:]]
    assert await _text.decoded(lambda: filter(None, pieces), encoding, "strict") == expected


@pytest.mark.parametrize("size", [10, _text.SLICE * 3])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "idna", "punycode", "no-such-bytes"])
async def test_what_is_shown_in_an_exception(encoding: str, size: int) -> None:
    """Whatever the codec can do, there is a text for an exception."""
    if encoding == "no-such-bytes":
        assert await _text.escaped(b"x\xff", "ascii", "strict") == "x\\xff"
    else:
        assert isinstance(await _text.escaped(b"\xff\x00" * size + b"\xd8", encoding, "strict"), str)


@pytest.mark.parametrize("last", ["a", "é", "€", "\N{GRINNING FACE}"], ids=ascii)
@pytest.mark.parametrize("size", [SIZE, SIZE + 7])
async def test_a_large_str_is_as_python_makes_it(last: str, size: int) -> None:
    """A str that was put together is equal to one of Python's, stored as it is, and nobody else holds it."""
    text = "x" * size + last
    found = await _text.decoded(text.encode(), "utf-8", "strict")
    assert found == text
    assert hash(found) == hash(text)
    assert sys.getsizeof(found) == sys.getsizeof(text)
    assert sys.getrefcount(found) == 2


async def test_without_ctypes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python that was built without ctypes decodes too."""
    monkeypatch.setitem(sys.modules, "ctypes", None)
    _text._strings.cache_clear()
    try:
        assert await _text.decoded(b"x" * SIZE, "ascii", "strict") == "x" * SIZE
    finally:
        _text._strings.cache_clear()


@pytest.mark.parametrize("size", [10, _text.SLICE * 3])
@pytest.mark.parametrize(
    ("errors", "expected"),
    [("replace", "\N{REPLACEMENT CHARACTER}"), ("ignore", ""), ("surrogateescape", "\udcff")],
)
async def test_what_cannot_be_decoded(size: int, errors: str, expected: str) -> None:
    """errors= means what it means for bytes.decode(), in an output of any size."""
    data = b"x" * size + b"\xff" + b"y" * size
    assert await _text.decoded(data, "utf-8", errors) == "x" * size + expected + "y" * size
    with pytest.raises(UnicodeDecodeError):
        await _text.decoded(data, "utf-8", "strict")
    with pytest.raises(UnicodeDecodeError):
        await _text.decoded(b"x" * size + b"\xe2\x82", "utf-8", "strict")  # a character that never ends


@pytest.mark.parametrize(
    ("encoding", "errors", "refused"),
    [
        ("no-such", "strict", LookupError),
        ("hex", "strict", LookupError),
        ("utf-8", "no-such", LookupError),
        (8, "strict", TypeError),
        ("utf-8", None, TypeError),
        ("utf\0-8", "strict", (LookupError, ValueError)),
    ],
)
def test_what_is_no_codec(encoding: object, errors: object, refused: type[Exception]) -> None:
    """An encoding that is none is refused before anything is started."""
    with pytest.raises(refused):
        _text.check_codec(encoding, errors)
