"""What values of options may be, and how a plan has them: integers, switches, signals, strings.

Layer: below the options. Thread: any.
"""

from __future__ import annotations

import functools
import operator
import signal as signals
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

_INT_MAX: Final = 2**31 - 1
_NOT_TO_BE_SET: Final = frozenset({signals.SIGKILL, signals.SIGSTOP})


class Held(NamedTuple):
    """A descriptor of the caller's that a step uses, and that the child loses."""

    fd: int


#: What an encoder makes of an option: no step (None), a number, bytes of which the step has the offset, a
#: descriptor, or several steps, each a detail and bytes.
Encoded: TypeAlias = int | bytes | Held | Sequence[tuple[int, bytes]] | None


def integer(value: Any, name: str) -> int:
    """Return an integer.

    Raises:
        TypeError: It is none.
    """
    if type(value) is int:  # the usual one, fast
        return value
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}") from None


def c_int(value: int) -> int:
    """Return what fits a C int.

    Raises:
        OverflowError: It does not.
    """
    if not -_INT_MAX - 1 <= value <= _INT_MAX:
        raise OverflowError("Python int too large to convert to C int")
    return value


def between(value: Any, name: str, least: int, most: int) -> int:
    """Return an integer of a range.

    Raises:
        TypeError: It is no integer.
        ValueError: It is out of the range.
    """
    number = integer(value, name)
    if not least <= number <= most:
        raise ValueError(f"{name} must be from {least} to {most}, not {number}")
    return number


def pair(value: Any, name: Callable[[], str]) -> Sequence[Any]:
    """Return two values; name() is asked for the name if they are not two.

    Raises:
        TypeError, ValueError: They are not two.
    """
    if type(value) is not tuple and (not isinstance(value, Sequence) or isinstance(value, (str, bytes))):
        raise TypeError(f"{name()} must be an integer or a pair of them, not {type(value).__name__}")
    if len(value) != 2:  # noqa: PLR2004  # a pair
        raise ValueError(f"{name()} must be a pair, not {value!r}")
    checked: Sequence[Any] = value
    return checked


def strings(items: Sequence[bytes]) -> bytes:
    """Join to NUL-terminated strings.

    Raises:
        ValueError: There is a NUL in one of them.
    """
    joined = b"\0".join(items) + b"\0"
    if joined.count(b"\0") != len(items):
        raise ValueError("embedded null byte")
    return joined


def items_of(values: Any, name: str) -> list[Any]:
    """Return what is iterated over; a string is not meant to be.

    Raises:
        TypeError: It cannot be iterated over, or is a string.
    """
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be an iterable, not {type(values).__name__}")
    return list(values)


def signed(bits: int) -> int:
    """Return 64 bits as the plan's signed number has them."""
    return bits - 2**64 if bits >> 63 else bits


@functools.cache
def _valid_signals() -> frozenset[int]:
    return frozenset(map(int, signals.valid_signals()))  # each call makes enums: 0.2 ms


def signal_number(value: Any, name: str) -> int:
    """Return the number of a signal.

    Raises:
        TypeError: It is no integer.
        ValueError: There is no such signal.
    """
    number = integer(value, name)
    if number not in _valid_signals():
        raise ValueError(f"{name}: no signal has the number {number}")
    return number


def signal_bits(values: Any, name: str) -> int:
    """Return a set of signals as bits: signal n is bit n - 1.

    Raises:
        TypeError: It is no iterable of integers.
        ValueError: There is no such signal.
    """
    bits = 0
    for value in items_of(values, name):
        bits |= 1 << signal_number(value, name) - 1
    return signed(bits)


def disposed_signals(values: Any, name: str) -> int | None:
    """Return a set of signals that can be ignored, as signal_bits() does; None if it is empty.

    Raises:
        TypeError: It is no iterable of integers.
        ValueError: There is no such signal, or it cannot be ignored.
    """
    chosen = items_of(values, name)
    for value in chosen:
        if value in _NOT_TO_BE_SET:
            raise ValueError(f"{name}: {signals.Signals(value).name} is always default")
    return signal_bits(chosen, name) or None
