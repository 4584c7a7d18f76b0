"""Chunks of bytes to lines: pure, in bounded steps.

Layer: below lines(). Thread: any.
"""

from __future__ import annotations

import codecs
import operator
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar

from aiovfork._text import check_codec

LineT = TypeVar("LineT", str, bytes)
Newlines: TypeAlias = Literal["\n", "any"]
OnLong: TypeAlias = Literal["raise", "truncate"]

#: A step takes so many bytes, and gives so many lines at most: a few hundred microseconds.
CHUNK: Final = 2**16
BATCH: Final = 2**10


#: A longer line is not joined here: to do so would stop the loop.
LONG: Final = 2**20


class Pieces:
    """A line of more than LONG, in pieces of at most CHUNK."""

    __slots__ = ("_length", "parts")

    def __init__(self, parts: list[Any], length: int) -> None:
        self.parts = parts
        self._length = length

    def __len__(self) -> int:
        return self._length


class LineTooLong(ValueError):  # noqa: N818  # it says what is wrong, as the stdlib's names do
    """A line is longer than max_line."""


class Splitter(Generic[LineT]):
    r"""Cuts what one stream says into lines, without their ends.

    feed() takes a chunk, then next_lines() is called until it gives no more. A fault of the input (bytes that
    are no text, a line that is too long) is raised after the lines that came before it; afterwards nothing
    more comes.

    Args:
        decoder: Makes text of bytes; None: the lines are bytes.
        newlines: "\n" alone ends a line; or "any": "\n", "\r" and "\r\n" do.
        max_line: The longest line, as len() counts it; None: no limit.
        on_long: "raise" LineTooLong; or "truncate": the rest of the line is thrown away.
    """

    def __init__(
        self,
        decoder: codecs.IncrementalDecoder | None,
        newlines: Newlines,
        max_line: int | None,
        on_long: OnLong,
    ) -> None:
        # Any: str or bytes, as the decoder decides.
        constants: tuple[Any, ...] = ("", "\r", "\n", "\r\n") if decoder else (b"", b"\r", b"\n", b"\r\n")
        self._empty, self._cr, self._lf, self._crlf = constants
        self._decoder = decoder
        self._any = newlines == "any"
        self._max = max_line
        self._truncate = on_long == "truncate"
        self._rest: Any = self._empty  # not looked at yet
        self._pieces: list[Any] = []  # of the line that has not ended
        self._length = 0  # of these
        self._after_cr = False
        self.ended = False
        self._fault: Exception | None = None

    def feed(self, data: bytes) -> None:
        """Take a chunk. What the last one held has been fetched by then."""
        self._rest = self._unified(data if self._decoder is None else self._decoded(data))

    def end(self) -> None:
        """Nothing more comes: what is there is the last line, if there is something."""
        if self._decoder is not None:
            self._rest = self._unified(self._decoded(b"", final=True))
        self.ended = True

    def next_lines(self) -> list[Any]:
        """Return the next lines, in order; none: the chunk is used up. The first may be Pieces.

        Raises:
            UnicodeError: Here is what the decoder cannot read.
            LineTooLong: Here is a line longer than max_line.
        """
        lines = self._cut() if self._rest else []
        if lines:
            return lines
        if self._fault is not None:
            raise self._fault
        if self.ended and self._length:
            lines.append(self._joined(self._empty))
        return lines

    def _decoded(self, data: bytes, *, final: bool = False) -> Any:
        decoder: Any = self._decoder
        before = decoder.getstate()
        try:
            return decoder.decode(data, final)
        except UnicodeError as exc:
            self._fault = exc
            if not isinstance(exc, UnicodeDecodeError):  # UTF-16 without its mark, for instance
                return self._empty
            good = exc.start - len(before[0])  # it counts from the bytes that it had kept
            decoder.setstate(before)
            return decoder.decode(data[: max(good, 0)])

    def _unified(self, text: Any) -> Any:
        """Make every end of a line a newline."""
        if not self._any or not text:
            return text
        if self._after_cr and text.startswith(self._lf):
            text = text[1:]
        self._after_cr = text.endswith(self._cr)
        if self._cr in text:
            text = text.replace(self._crlf, self._lf).replace(self._cr, self._lf)
        return text

    def _cut(self) -> list[Any]:
        limit = self._max
        may_be_long = limit is not None and self._length + len(self._rest) > limit
        lines: list[Any] = self._rest.split(self._lf, BATCH)
        last = lines.pop()
        if lines and self._length:
            room = None if limit is None or not self._truncate else limit - self._length
            lines[0] = self._joined(lines[0][:room])
        if len(lines) == BATCH:
            self._rest, last = last, self._empty
        else:
            self._rest = self._empty
        if limit is not None and may_be_long:
            if self._truncate:
                lines = [line if len(line) <= limit else line[:limit] for line in lines]
                last = last[: limit - self._length]
            else:
                lines, last = self._until_too_long(lines, last, limit)
        if last:
            self._pieces.append(last)
            self._length += len(last)
        return lines

    def _joined(self, end: Any) -> Any:
        self._pieces.append(end)
        length = self._length + len(end)
        line = self._empty.join(self._pieces) if length <= LONG else Pieces(self._pieces, length)
        self._pieces, self._length = [], 0
        return line

    def _until_too_long(self, lines: list[Any], last: Any, limit: int) -> tuple[list[Any], Any]:
        good = next((number for number, line in enumerate(lines) if len(line) > limit), len(lines))
        if good == len(lines) and self._length + len(last) <= limit:
            return lines, last
        unit = "bytes" if self._decoder is None else "characters"
        self._fault = LineTooLong(f"a line is longer than max_line={limit} {unit}")
        self._rest, self._pieces, self._length = self._empty, [], 0
        return lines[:good], self._empty


class Form:
    """What a line is: the options of lines() that are about nothing else.

    Raises:
        ValueError: A value that an option does not know.
        TypeError: A value of a wrong type.
        LookupError: encoding or errors is unknown, or no encoding of text.
    """

    def __init__(
        self, encoding: str | None, errors: str, newlines: Newlines, max_line: int | None, on_long: OnLong
    ) -> None:
        self._decoder = None
        if encoding is not None:
            check_codec(encoding, errors)
            self._decoder = codecs.getincrementaldecoder(encoding)
        if newlines not in ("\n", "any"):
            raise ValueError(f"newlines must be '\\n' or 'any', not {newlines!r}")
        if on_long not in ("raise", "truncate"):
            raise ValueError(f"on_long must be 'raise' or 'truncate', not {on_long!r}")
        if max_line is not None and operator.index(max_line) <= 0:
            raise ValueError(f"max_line must be positive or None, not {max_line!r}")
        self._encoding = encoding
        self._errors = errors
        self._newlines = newlines
        self._max_line = max_line
        self._on_long = on_long

    def splitter(self) -> Splitter[Any]:
        """Return one for a stream."""
        decoder = None if self._decoder is None else self._decoder(self._errors)
        return Splitter(decoder, self._newlines, self._max_line, self._on_long)

    def text(self, data: bytes) -> Any:
        """Return what is no line as lines are: str, or bytes without an encoding."""
        return data if self._encoding is None else data.decode(self._encoding, "replace")
