"""Looking for a pattern in what a terminal shows.

Layer: lowest. Thread: any.
"""

from __future__ import annotations

import codecs
import re
from typing import Any, AnyStr, Final, Generic, NamedTuple, TypeAlias

Pattern: TypeAlias = AnyStr | re.Pattern[AnyStr]

# What a message shows of the end of a terminal's text.
_SAMPLE: Final = 200


class Expected(NamedTuple, Generic[AnyStr]):
    """What Terminal.expect() has found, and taken.

    Attributes:
        before: What came before it.
        match: The match: `match[0]` is its text, `match["name"]` a group of the pattern.
    """

    before: AnyStr
    match: re.Match[AnyStr]


class ExpectTimeout(TimeoutError):  # noqa: N818  # what it is called
    """The pattern did not come in time. It is a TimeoutError too.

    Nothing was taken: what has come can be read, or is looked through by the next expect().

    Attributes:
        pattern: What was expected.
        before: What has come instead: str if a str was expected.
        timeout: The seconds that it was given.
    """

    def __init__(self, pattern: Any, before: Any, timeout: float) -> None:
        super().__init__(pattern, before, timeout)
        self.pattern, self.before, self.timeout = pattern, before, timeout

    def __str__(self) -> str:
        return f"{self.pattern!r} did not come within {self.timeout:g} s{_shown(self.before)}"


class ExpectEnded(EOFError):  # noqa: N818  # as ExpectTimeout
    """The terminal has ended, and the pattern has not come. It is an EOFError too.

    Nothing was taken.

    Attributes:
        pattern: What was expected.
        before: What has come instead: str if a str was expected.
    """

    def __init__(self, pattern: Any, before: Any) -> None:
        super().__init__(pattern, before)
        self.pattern, self.before = pattern, before

    def __str__(self) -> str:
        return f"{self.pattern!r} did not come before the end{_shown(self.before)}"


def _shown(before: Any) -> str:
    if not before:
        return "; nothing came"
    return f"; what came ends with {before[-_SAMPLE:]!r}"


class Search(Generic[AnyStr]):
    """Looks for one pattern in a buffer that grows.

    Text is UTF-8; bytes that are none become surrogates, as in os.fsdecode(), so that every place in the text
    is a place in the buffer. A character of which the last bytes have not come yet is not looked at.
    """

    def __init__(self, pattern: Pattern[AnyStr]) -> None:
        """Prepare it.

        Raises:
            TypeError: The pattern is neither str, bytes, nor a compiled one of either.
        """
        self._literal: AnyStr | None = None
        if isinstance(pattern, (str, bytes)):
            self._literal = pattern
            self._regex: Any = re.compile(re.escape(pattern))
        elif isinstance(pattern, re.Pattern):
            self._regex = pattern
        else:
            raise TypeError(f"a pattern must be str, bytes or re.Pattern, not {type(pattern).__name__}")
        self._is_text = isinstance(self._regex.pattern, str)
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._text = ""
        self._decoded = 0  # bytes
        self._from = 0

    def look(self, buffer: bytearray, *, at_end: bool) -> tuple[Expected[AnyStr], int] | None:
        """Return what was found, and how many bytes of the buffer it and what is before it take."""
        seen: Any = self.seen(buffer, at_end=at_end)
        literal = self._literal
        if literal is not None:
            at = seen.find(literal, self._from)
            self._from = max(0, len(seen) - len(literal) + 1)
            if at < 0:
                return None
            seen = seen[: at + len(literal)]
            match = self._regex.match(bytes(seen) if isinstance(seen, bytearray) else seen, at)
        else:
            match = self._regex.search(bytes(seen) if isinstance(seen, bytearray) else seen)
        if match is None:
            return None
        before, taken = match.string[: match.start()], match.string[: match.end()]
        size = len(taken.encode("utf-8", "surrogateescape") if self._is_text else taken)
        return Expected(before, match), size

    def seen(self, buffer: bytearray, *, at_end: bool) -> bytearray | str:
        """Return what is looked through: all of the buffer, as text if the pattern is."""
        if not self._is_text:
            return buffer
        self._text += self._decoder.decode(bytes(buffer[self._decoded :]), final=at_end)
        self._decoded = len(buffer)
        return self._text
