"""What can be said of a terminal that a child is to have.

Layer: below the options. Thread: any.
"""

from __future__ import annotations

import dataclasses
import operator
from typing import Any, Final

_MOST: Final = 2**16 - 1  # a terminal counts with unsigned shorts


@dataclasses.dataclass(frozen=True)
class Pty:
    """The terminal that a child gets with `pty=`; `pty=True` is Pty().

    Attributes:
        rows: Its height, in lines.
        cols: Its width, in characters.
        echo: Whether what is typed is shown, until the program says otherwise.
        raw: Whether it passes every byte on as it is, both ways: no lines, no echo, no Ctrl-C, no newline
            that becomes a carriage return and a newline; until the program says otherwise (cfmakeraw(3)).

    Raises:
        ValueError: rows or cols is not between 1 and 65535.
        TypeError: One of them is no integer.
    """

    rows: int = 24
    cols: int = 80
    echo: bool = True
    raw: bool = False

    def __post_init__(self) -> None:
        """Check the size."""
        check_size(self.rows, self.cols)


def check_size(rows: Any, cols: Any) -> tuple[int, int]:
    """Return the size of a terminal.

    Raises:
        ValueError: A number that no terminal has.
        TypeError: No integer.
    """
    for name, value in (("rows", rows), ("cols", cols)):
        if not 0 < operator.index(value) <= _MOST:
            raise ValueError(f"{name} must be between 1 and {_MOST}, not {value}")
    return operator.index(rows), operator.index(cols)


_USUAL: Final = Pty()


def pty_of(value: Any) -> Pty | None:
    """Return what `pty=` says; None for no terminal.

    Raises:
        TypeError: It is neither a bool nor a Pty.
    """
    if isinstance(value, Pty):
        return value
    if not isinstance(value, bool):
        raise TypeError(f"pty must be a bool or a Pty, not {type(value).__name__}")
    return _USUAL if value else None
