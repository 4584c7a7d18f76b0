"""What run() is asked beyond the spawn itself: the keywords, their types and defaults, and what is refused.

Layer: above the stop of a tree. Thread: any.
"""

from __future__ import annotations

import operator
import signal as signals
import subprocess
from typing import Any, Final, Literal, NamedTuple, SupportsFloat, cast, get_args

from aiovfork._capture import Input, immutable
from aiovfork._checks import seconds
from aiovfork._members import Tree
from aiovfork._options import ChildOptions, Options, Stdio
from aiovfork._pty import Pty
from aiovfork._text import check_codec
from aiovfork._tree import Teardown, check_no_cgroup, check_tree

OnLimit = Literal["raise", "truncate"]
OnCancel = Literal["stop", "kill", "detach"]


class MemberOptions(ChildOptions, total=False):
    """OutputOptions but for what a ProcessGroup says for all."""

    input: Input | str | None
    timeout: SupportsFloat | None
    check: bool
    errors: str
    stdin: Stdio
    stdout: Stdio
    stderr: Stdio
    max_output: int | None
    on_limit: OnLimit
    drain_timeout: SupportsFloat | None


class OutputOptions(MemberOptions, total=False):
    """RunOptions but for encoding, which decides what the result is."""

    stop_signal: int
    patience: SupportsFloat
    tree: Tree | None
    on_cancel: OnCancel
    pty: bool | Pty


class RunOptions(OutputOptions, total=False):
    """The keywords of run() and run_shell(); those of a spawn are described at SpawnOptions.

    Attributes:
        input: What the child reads from stdin; a str is encoded with encoding. None: stdin is at its end.
        timeout: Seconds from the call, in the queue and in exec too; then the tree is ended: ProcessTimeout.
        check: Whether a return code other than 0 is ProcessFailed.
        encoding: What stdout and stderr are decoded with; line ends stay as they are. None: they are bytes.
        errors: What becomes of bytes that cannot be decoded, as in bytes.decode().
        stdin: Without input: DEVNULL, None (the caller's own), a descriptor or an object with fileno().
        stdout: PIPE, which captures it, None (the caller's own), DEVNULL, a descriptor or such an object.
        stderr: As stdout, or STDOUT.
        max_output: Bytes that are kept of stdout, and of stderr. None: no limit.
        on_limit: What comes of more: "raise" ends the tree, OutputLimitExceeded; "truncate" drops it.
        stop_signal: What asks the child to end.
        patience: Seconds from stop_signal to SIGKILL.
        tree: What is ended with the child: "group", "session", which needs start_new_session, "cgroup", or
            None, the child alone.
        on_cancel: What a cancellation does first: "stop", "kill" at once, or "detach", the child goes on.
        drain_timeout: Seconds to read on after the exit, where a descendant holds the pipes. None: no limit.
        pty: Whether the child runs on a terminal of its own: True or a Pty. stdout is what it shows then.
    """

    encoding: str | None


class Terms(NamedTuple):
    """The keywords of one call that are not the spawn's, as agreed() has checked them."""

    timeout: float | None = None
    check: bool = True
    encoding: str | None = None
    errors: str = "strict"
    limit: int | None = None
    truncate: bool = False
    teardown: Teardown = Teardown()
    on_cancel: OnCancel = "stop"
    drain_timeout: float | None = 0.5
    leaves_nothing: bool = False  # descendants are ended, however the child ends


#: What agreed() is given, in this order.
TERMS: Final = (
    "timeout",
    "check",
    "encoding",
    "errors",
    "max_output",
    "on_limit",
    "stop_signal",
    "patience",
    "tree",
    "on_cancel",
    "drain_timeout",
)
# A capture counts with 64 bits: nothing is longer than that.
_MOST: Final = 2**63 - 1
_USUAL: Final = Terms()
# As agreed() is given it, but for timeout.
_USUAL_GIVEN: Final = (True, None, "strict", None, "raise", signals.SIGTERM, 5.0, "group", "stop", 0.5)


def agreed(given: tuple[Any, ...], options: Options) -> Terms:
    """Check the keywords of a call.

    Args:
        given: Those of TERMS.
        options: Of the spawn. A child that leads no process group is ended alone by tree="group".

    Raises:
        ValueError: A wrong value of one, or a tree that the child cannot have.
        TypeError: A value of a wrong type.
        LookupError: An encoding or errors that Python does not know.
    """
    timeout, *others = given
    leads = options.process_group == 0 or options.start_new_session
    if timeout is not None:
        timeout = seconds(timeout, "timeout")
    if leads and tuple(others) == _USUAL_GIVEN:
        return _USUAL if timeout is None else _USUAL._replace(timeout=timeout)
    check, encoding, errors, limit, on_limit, stop_signal, patience, tree, on_cancel, drain_timeout = others
    if encoding is not None:
        check_codec(encoding, errors)
    if limit is not None:
        limit = operator.index(limit)
        if limit < 0:
            raise ValueError(f"max_output must not be negative: {limit}")
    _choice(on_limit, OnLimit, "on_limit")
    _choice(on_cancel, OnCancel, "on_cancel")
    teardown = Teardown((stop_signal,), patience, None if tree == "group" and not leads else tree)
    check_tree(teardown.tree, own_cgroup=tree == "cgroup", options=options)
    if tree == "cgroup":
        check_no_cgroup(options, "tree='cgroup'")
    drain_timeout = seconds(drain_timeout, "drain_timeout")
    return Terms(
        timeout,
        check,
        encoding,
        errors,
        None if limit is None or limit > _MOST else limit,
        on_limit == "truncate",
        teardown,
        on_cancel,
        None if drain_timeout is None else max(drain_timeout, 0.0),
    )


def _choice(value: Any, choices: Any, name: str) -> None:
    allowed = get_args(choices)
    if value not in allowed:
        raise ValueError(f"{name} must be {' or '.join(map(repr, allowed))}, not {value!r}")


def stdin_of(stdin: Stdio, data: Any, terms: Terms) -> tuple[Stdio, Input | None]:
    """Return what stdin is to be, and its input: a snapshot, if it could be changed.

    Raises:
        ValueError: Both were given.
        TypeError: The input is neither of bytes nor, with an encoding, a str.
    """
    if data is None:
        return stdin, b"" if stdin == subprocess.PIPE else None
    if stdin not in (subprocess.DEVNULL, subprocess.PIPE):
        raise ValueError("stdin and input may not both be given")
    if isinstance(data, str):
        if terms.encoding is None:
            raise TypeError("input must be bytes, bytearray or memoryview; a str needs encoding=")
        data = data.encode(terms.encoding, terms.errors)
    return subprocess.PIPE, immutable(cast("Input", data))
