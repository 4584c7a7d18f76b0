"""What makes lines of chunks: the lines do not depend on where the chunks end."""

from __future__ import annotations

import codecs
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiovfork._splitting import BATCH, CHUNK, LONG, LineTooLong, Newlines, OnLong, Pieces, Splitter

PIECES = st.sampled_from(
    [
        b"a",
        b"bc",
        b"\n",
        b"\r",
        b"\r\n",
        "é".encode(),
        "💡".encode(),
        b"\xff",
        b"\xe2\x82",
        b"\0",
        b" \x85\x0b",
    ]
)
CHUNKS = st.lists(st.lists(PIECES, max_size=6).map(b"".join), max_size=8)


def splitter(
    encoding: str | None = "utf-8",
    errors: str = "replace",
    newlines: Newlines = "\n",
    max_line: int | None = None,
    on_long: OnLong = "raise",
) -> Splitter[Any]:
    """A splitter with lines()' defaults, but for max_line."""
    decoder = None if encoding is None else codecs.getincrementaldecoder(encoding)(errors)
    return Splitter(decoder, newlines, max_line, on_long)


def fetched(one: Splitter[Any]) -> list[Any]:
    """What next_lines() gives until the chunk is used up."""
    found = []
    while lines := one.next_lines():
        found += lines
    return found


def split(one: Splitter[Any], chunks: list[bytes]) -> list[Any]:
    """The lines of chunks."""
    found = []
    for chunk in chunks:
        one.feed(chunk)
        found += fetched(one)
    one.end()
    return found + fetched(one)


def expected(data: bytes, encoding: str | None, newlines: str) -> list[Any]:
    """The lines, found the slow way."""
    pattern = r"\r\n|\r|\n" if newlines == "any" else "\n"
    lines: list[Any]
    if encoding is None:
        lines = re.split(pattern.encode(), data)
    else:
        lines = re.split(pattern, data.decode(encoding, "replace"))
    return lines if lines[-1] else lines[:-1]


@given(
    chunks=CHUNKS,
    newlines=st.sampled_from(["\n", "any"]),
    encoding=st.sampled_from([None, "utf-8", "latin-1"]),
)
def test_chunks_do_not_matter(chunks: list[bytes], newlines: Newlines, encoding: str | None) -> None:
    r"""However the bytes are cut, within a character or between \\r and \\n, the lines are those of the whole."""
    lines = split(splitter(encoding, newlines=newlines), chunks)
    assert lines == expected(b"".join(chunks), encoding, newlines)


@given(chunks=CHUNKS, limit=st.integers(1, 4), encoding=st.sampled_from([None, "utf-8"]))
def test_long_lines_are_cut(chunks: list[bytes], limit: int, encoding: str | None) -> None:
    """on_long="truncate" leaves the beginning of each line, and hides none."""
    lines = split(splitter(encoding, max_line=limit, on_long="truncate"), chunks)
    assert lines == [line[:limit] for line in expected(b"".join(chunks), encoding, "\n")]


@given(chunks=CHUNKS, limit=st.integers(1, 4), encoding=st.sampled_from([None, "utf-8"]))
def test_a_long_line_is_refused(chunks: list[bytes], limit: int, encoding: str | None) -> None:
    """on_long="raise" gives the lines before the one that is too long, then LineTooLong."""
    one = splitter(encoding, max_line=limit)
    whole = expected(b"".join(chunks), encoding, "\n")
    long = [number for number, line in enumerate(whole) if len(line) > limit]
    found: list[Any] = []
    try:
        for chunk in [*chunks, None]:
            one.end() if chunk is None else one.feed(chunk)
            while lines := one.next_lines():
                found += lines
    except LineTooLong:
        assert long
        assert found == whole[: long[0]]
    else:
        assert not long
        assert found == whole


@given(chunks=CHUNKS, encoding=st.sampled_from(["utf-8", "utf-16-le", "shift_jis"]))
def test_what_is_no_text(chunks: list[bytes], encoding: str) -> None:
    """With errors="strict" the lines before the bytes that are no text come first, then UnicodeDecodeError."""
    data = b"".join(chunks)
    try:
        text, good = data.decode(encoding), True
    except UnicodeDecodeError as exc:
        text, good = data[: exc.start].decode(encoding, "ignore"), False
    one = splitter(encoding, "strict")
    found: list[Any] = []
    try:
        for chunk in [*chunks, None]:
            one.end() if chunk is None else one.feed(chunk)
            while lines := one.next_lines():
                found += lines
    except UnicodeDecodeError:
        assert not good
        assert found == text.split("\n")[:-1]
    else:
        assert good
        assert found == [*text.split("\n")[:-1], *filter(None, text.split("\n")[-1:])]


def test_no_text_at_all() -> None:
    """What a decoder refuses as a whole is raised by next_lines(), too: UTF-16 without its mark."""
    one = splitter("utf-16")
    one.feed(b"aaaa")
    with pytest.raises(UnicodeError, match="BOM"):
        one.next_lines()


def test_a_carriage_return_ends_a_line_at_once() -> None:
    r"""newlines="any" gives a line that ends with \\r before the next byte has come; a \\n then is no second end."""
    one = splitter(newlines="any")
    one.feed(b"50 %\r")
    assert fetched(one) == ["50 %"]
    one.feed(b"\nnext\r")
    assert fetched(one) == ["next"]
    one.feed(b"\r\n\n")
    assert fetched(one) == ["", ""]


def test_steps_are_bounded() -> None:
    """A chunk of empty lines is given in many steps."""
    one = splitter(encoding=None)
    one.feed(b"\n" * CHUNK)
    steps = []
    while lines := one.next_lines():
        steps.append(len(lines))
    assert max(steps) <= BATCH
    assert sum(steps) == CHUNK


@pytest.mark.parametrize("encoding", [None, "utf-8"])
def test_a_long_line_costs_no_more_than_it_holds(encoding: str | None) -> None:
    """A line of many chunks is put together once, not once for each chunk."""
    one = splitter(encoding)
    for _ in range(2000):
        one.feed(b"x" * CHUNK)
        assert one.next_lines() == []
    one.feed(b"\n")
    (line,) = one.next_lines()
    assert isinstance(line, Pieces)
    assert len(line) == 2000 * CHUNK
    assert max(map(len, line.parts)) == CHUNK


@pytest.mark.parametrize("on_long", ["raise", "truncate"])
def test_a_long_line_is_cut_too(on_long: OnLong) -> None:
    """max_line holds for what is given in pieces."""
    one = splitter(max_line=LONG + 5, on_long=on_long)
    for _ in range(LONG // CHUNK):
        one.feed(b"x" * CHUNK)
        assert one.next_lines() == []
    one.feed(b"1234567\nnext\n")
    if on_long == "raise":
        with pytest.raises(LineTooLong):
            one.next_lines()
    else:
        line, following = one.next_lines()
        assert (len(line), following) == (LONG + 5, "next")
        assert line.parts[-1] == "12345"
