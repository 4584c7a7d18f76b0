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
