"""Calls that aiovfork refuses and a plugged loop hands to its own implementation, where that was asked for.

Layer: below the loops. Thread: the loop's.
"""

from __future__ import annotations

import inspect
import types
import warnings
from typing import Any, Final, Literal, TypeAlias, get_args

from aiovfork._options import Options
from aiovfork._stats import count_native_call

Unsupported: TypeAlias = Literal["refuse", "native"]

#: What Popen takes of Options, and so do asyncio's and uvloop's own functions. A test asks Popen for it. A
#: program cannot: a library may have replaced Popen by something whose signature says nothing.
POPENS: Final = frozenset(
    {
        *("executable", "cwd", "env", "close_fds", "pass_fds", "start_new_session", "process_group", "umask"),
        *("restore_signals", "pipesize", "startupinfo", "creationflags", "user", "group", "extra_groups"),
        *("preexec_fn", "shell", "text", "encoding", "errors", "universal_newlines", "bufsize"),
    }
)

# Frames of these packages are not the caller's. uvloop has none: it is compiled.
_BETWEEN: Final = {"aiovfork", "asyncio"}

# Each place that was warned of, with what was said. It grows with the program's code, not with its calls.
_warned: set[tuple[str, int, str]] = set()


def agreed(unsupported: Any) -> Unsupported:
    """Return the value of an option unsupported.

    Raises:
        ValueError: It is neither "refuse" nor "native".
    """
    if unsupported not in get_args(Unsupported):
        raise ValueError(f"unsupported must be 'refuse' or 'native', not {unsupported!r}")
    agreed_value: Unsupported = unsupported
    return agreed_value


def options_for_native(given: tuple[Any, ...], *, in_shell: bool) -> dict[str, Any]:
    """Return the options that a caller gave, for the loop's own implementation.

    Those that have their default are left out: uvloop refuses most options whatever their value.

    Args:
        given: The values of the call, in the order of Options.
        in_shell: Which default shell= has.

    Raises:
        ValueError: An option that only aiovfork has.
    """
    usual = Options()._replace(shell=in_shell)
    options = {
        name: value
        for name, value, default in zip(Options._fields, given, usual, strict=True)
        if value is not default
    }
    for name in options:
        if name not in POPENS:
            raise ValueError(
                f"{name} cannot be had together with preexec_fn: the loop's own spawn does not know it"
            )
    return options


def note_native_call(method: str, preexec_fn: Any) -> None:
    """Count a call that is handed over, and warn of it, once for each line of code that makes such calls.

    Raises:
        RuntimeWarning: The warning, if the filters of warnings make errors of such.
    """
    frame = _caller()
    place = (frame.f_code.co_filename, frame.f_lineno)
    message = (
        f"preexec_fn ({_described(preexec_fn)}): the loop's own {method}() starts this child, by a fork of "
        "the whole process, which stops the loop. aiovfork has options for what preexec_fn is used for: see "
        "its how-to page 'Replace preexec_fn'"
    )
    if (*place, message) not in _warned:
        # Not warnings.warn(): only from Python 3.12 on can it skip frames by their package. And its memory
        # of what it has said is lost whenever somebody changes the filters.
        warnings.warn_explicit(message, RuntimeWarning, *place, frame.f_globals.get("__name__"))
        _warned.add((*place, message))
    count_native_call()


def _caller() -> types.FrameType:
    """Return the innermost frame that is neither asyncio's nor ours: who awaits a call is below it."""
    frame = inspect.currentframe()
    assert frame is not None  # CPython has frames
    while str(frame.f_globals.get("__name__")).partition(".")[0] in _BETWEEN and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _described(function: Any) -> str:
    """Return the name of a function and where it is defined, the same for each closure of one definition."""
    code = getattr(function, "__code__", None)
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return name if code is None else f"{name}, {code.co_filename}:{code.co_firstlineno}"
