"""lines(): what a program writes, line by line, while it runs.

Layer: above the transport, the teardown and the outcome. Thread: that of a running loop.
"""

from __future__ import annotations

import signal
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, SupportsFloat, TypeAlias, Unpack, overload

from aiovfork._capture import Input
from aiovfork._checks import grouped
from aiovfork._identity import Capabilities
from aiovfork._line_reader import Lines
from aiovfork._members import Tree
from aiovfork._options import ChildOptions, Command, Descriptor, Env, Stdio, StrOrBytesPath
from aiovfork._ptmx import at_terminal, session_of
from aiovfork._pty import Pty, pty_of
from aiovfork._splitting import Form, Newlines, OnLong
from aiovfork._terms import agreed, stdin_of

Stream: TypeAlias = Literal["stdout", "stderr"]

_MAX_LINE: Final = 2**26


class _LinesOptions(ChildOptions, total=False):
    """What lines() takes beside source and encoding: for the overloads, which are about those."""

    errors: str
    newlines: Newlines
    max_line: int | None
    on_long: OnLong
    input: Input | str | None
    check: bool
    timeout: SupportsFloat | None
    drain_timeout: SupportsFloat | None
    stop_signal: int
    patience: SupportsFloat
    tree: Tree | None
    stdin: Stdio
    stdout: Stdio
    stderr: Stdio
    pty: bool | Pty


@overload
def lines(
    program: StrOrBytesPath,
    *args: StrOrBytesPath,
    source: Literal["stdout", "stderr"] = ...,
    encoding: str = ...,
    **options: Unpack[_LinesOptions],
) -> Lines[str]: ...
@overload
def lines(
    program: StrOrBytesPath,
    *args: StrOrBytesPath,
    source: Literal["stdout", "stderr"] = ...,
    encoding: None,
    **options: Unpack[_LinesOptions],
) -> Lines[bytes]: ...
@overload
def lines(
    program: StrOrBytesPath,
    *args: StrOrBytesPath,
    source: Literal["both"],
    encoding: str = ...,
    **options: Unpack[_LinesOptions],
) -> Lines[tuple[Stream, str]]: ...
@overload
def lines(
    program: StrOrBytesPath,
    *args: StrOrBytesPath,
    source: Literal["both"],
    encoding: None,
    **options: Unpack[_LinesOptions],
) -> Lines[tuple[Stream, bytes]]: ...
def lines(  # noqa: D417  # the options of a spawn are described once, at SpawnOptions
    program: StrOrBytesPath,
    *args: StrOrBytesPath,
    source: Literal["stdout", "stderr", "both"] = "stdout",
    encoding: str | None = "utf-8",
    errors: str = "replace",
    newlines: Newlines = "\n",
    max_line: int | None = _MAX_LINE,
    on_long: OnLong = "raise",
    input: Input | str | None = None,  # noqa: A002  # subprocess's name
    check: bool = True,
    timeout: SupportsFloat | None = None,
    drain_timeout: SupportsFloat | None = 0.5,
    stop_signal: int = signal.SIGTERM,
    patience: SupportsFloat = 5.0,
    tree: Tree | None = "group",
    stdin: Stdio = DEVNULL,
    stdout: Stdio = PIPE,
    stderr: Stdio = PIPE,
    pty: bool | Pty = False,
    executable: StrOrBytesPath | None = None,
    cwd: StrOrBytesPath | int | None = None,
    env: Env | None = None,
    close_fds: bool = True,
    pass_fds: Iterable[int] = (),
    start_new_session: bool = False,
    process_group: int | None = 0,
    umask: int = -1,
    restore_signals: bool = True,
    pipesize: int = -1,
    spawn_timeout: SupportsFloat | None = None,
    user: str | int | None = None,
    group: str | int | None = None,
    extra_groups: Iterable[str | int] | None = None,
    rlimits: Mapping[int, int | tuple[int, int]] | None = None,
    nice: int = 0,
    cpu_affinity: Iterable[int] | None = None,
    scheduler: int | tuple[int, int] | None = None,
    io_priority: int | tuple[int, int] | None = None,
    oom_score_adj: int | None = None,
    pdeathsig: int | None = None,
    no_new_privs: bool = False,
    signal_mask: Iterable[int] | None = None,
    default_signals: Iterable[int] = (),
    ignored_signals: Iterable[int] = (),
    chroot: StrOrBytesPath | None = None,
    cgroup: StrOrBytesPath | int | None = None,
    controlling_tty: int | None = None,
    foreground: bool = False,
    fd_map: Mapping[int, Descriptor] | None = None,
    listen_fds: Iterable[Descriptor] | Mapping[str, Descriptor] = (),
    capabilities: Capabilities | None = None,
    unshare: int = 0,
    best_effort: Iterable[str] = (),
) -> Lines[Any]:
    r"""Run a program and get what it writes, line by line, while it runs.

    >>> async with aiovfork.lines("git", "log", "--oneline") as output:
    ...     async for line in output:
    ...         print(line)

    A line comes without its end. It may be as long as max_line says: there is no limit of 64 KiB. While
    nobody asks for lines, reading pauses, and the program waits when its pipe is full. A stream that is not
    asked for is read and thrown away, but for its end, which an error shows.

    A block that has read all lines waits for the exit at its end. A block that is left early, by break,
    return, an exception or a cancellation, ends the program and its group: stop_signal, and SIGKILL patience
    seconds later. A second cancellation kills at once.

    Args:
        program: The program; looked up in the PATH of env if it has no slash.
        args: Its arguments, from argv[1] on.
        source: "stdout", "stderr"; or "both": pairs of the stream's name and the line, in the order in which
            they were read. Two streams are two pipes: what was written at nearly the same time may come the
            other way round.
        encoding: Of the lines, which are str; None: they are bytes.
        errors: What becomes of bytes that are no text: a name that bytes.decode takes.
        newlines: "\n" ends a line; or "any": "\n", "\r" and "\r\n" do, as for progress bars.
        max_line: The longest line, in characters, or in bytes with encoding=None. None: any length.
        on_long: A line that is longer: "raise" LineTooLong, or "truncate" it.
        input: What the program reads from stdin; a str is encoded with encoding. None: stdin is at its end.
        check: Whether a return code other than 0 raises ProcessFailed, if all lines were read.
        timeout: Seconds from the start to the exit; then the program and its group are ended, whatever the
            block does meanwhile. ProcessTimeout comes for the next line, or at the end of the block.
        drain_timeout: Seconds of silence, after the exit, while a descendant keeps a pipe open; then reading
            ends. None: it ends when the last descendant has closed it.
        stop_signal: What asks the program to end.
        patience: Seconds from stop_signal to SIGKILL.
        tree: What is ended with the program: "group", "session", "cgroup", or None, the program alone.
        stdin: Without input: DEVNULL, PIPE (write to `output.stdin`), None (the caller's own), a descriptor
            or an object with fileno().
        stdout: PIPE, which source="stdout" needs. With "stderr" also DEVNULL, None (the caller's own), a
            descriptor or an object with fileno().
        stderr: As stdout, the other way round; or STDOUT.

    The other keywords are described at SpawnOptions. process_group=0: the program leads a group of its own,
    and a Ctrl-C at the terminal does not reach it; None: it stays in the caller's group, and is ended alone.

    Returns:
        What `async with` starts: an iterator of lines with `process`, `pid`, `returncode`, `stdin` and
        `stderr_tail`.

    Raises:
        ValueError: An option has a wrong value.
        TypeError: An argument has a wrong type.
        LookupError: encoding or errors is unknown.

    In the block, or at its end:

    Raises:
        SpawnError: As create_subprocess_exec.
        ProcessFailed: check, and the return code is not 0.
        ProcessTimeout: timeout is over.
        LineTooLong: A line is longer than max_line.
        UnicodeError: With errors="strict": the program has written what is no text.
    """
    if source not in ("stdout", "stderr", "both"):
        raise ValueError(f"source must be 'stdout', 'stderr' or 'both', not {source!r}")
    for name, value in (("stdout", stdout), ("stderr", stderr)):
        if source in (name, "both") and value != PIPE:
            raise ValueError(f"source={source!r} reads {name}, which must be PIPE")
    terminal = pty_of(pty)
    if terminal is not None and source != "stdout":
        raise ValueError("with pty, what the program writes comes from one terminal: source='stdout'")
    form = Form(encoding, errors, newlines, max_line, on_long)
    # fmt: off
    asked = (  # tools/signatures.py
        executable, cwd, env, close_fds, pass_fds, start_new_session, process_group, umask, restore_signals,
        pipesize, spawn_timeout, user, group, extra_groups, rlimits, nice, cpu_affinity, scheduler,
        io_priority, oom_score_adj, pdeathsig, no_new_privs, signal_mask, default_signals, ignored_signals,
        chroot, cgroup, controlling_tty, foreground, fd_map, listen_fds, capabilities, unshare, best_effort,
    )
    # fmt: on
    options = grouped(asked, in_shell=False)
    options = session_of(options, terminal)
    terms = agreed(
        (
            timeout,
            check,
            encoding,
            errors,
            None,
            "raise",
            stop_signal,
            patience,
            tree,
            "stop",
            drain_timeout,
        ),
        options,
    )
    given = None
    if input is not None:
        stdin, given = stdin_of(stdin, input, terms)
    command = Command((program, *args), stdin, stdout, stderr, options)
    command, given = at_terminal(command, given, terminal)
    return Lines(command, source, form, given, terms)
