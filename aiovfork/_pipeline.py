"""pipeline(): programs that read what the one before them writes.

Layer: above _pipelining. Thread: that of a running loop.
"""

from __future__ import annotations

import signal
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, SupportsFloat, Unpack, overload

from aiovfork._capture import Input
from aiovfork._checks import grouped
from aiovfork._identity import Capabilities
from aiovfork._options import Command, Descriptor, Env, StageOptions, Stdio, StrOrBytesPath
from aiovfork._pipeline_outcome import PipelineResult
from aiovfork._pipelining import complete
from aiovfork._terms import OnLimit, agreed, stdin_of


class _PipelineOptions(StageOptions, total=False):
    """What pipeline() takes beside encoding: for the overloads, which are about that."""

    input: Input | str | None
    timeout: SupportsFloat | None
    check: bool
    pipefail: bool
    errors: str
    stdin: Stdio
    stdout: Stdio
    stderr: Stdio
    max_output: int | None
    on_limit: OnLimit
    stop_signal: int
    patience: SupportsFloat
    tree: Literal["group"] | None
    on_cancel: Literal["stop", "kill"]
    drain_timeout: SupportsFloat | None


@overload
async def pipeline(
    *commands: Sequence[StrOrBytesPath], encoding: None = ..., **options: Unpack[_PipelineOptions]
) -> PipelineResult[bytes]: ...
@overload
async def pipeline(
    *commands: Sequence[StrOrBytesPath], encoding: str, **options: Unpack[_PipelineOptions]
) -> PipelineResult[str]: ...
async def pipeline(  # noqa: D417  # the options of a spawn are described once, at SpawnOptions
    *commands: Sequence[StrOrBytesPath],
    input: Input | str | None = None,  # noqa: A002  # subprocess's name
    timeout: SupportsFloat | None = None,  # noqa: ASYNC109  # subprocess's name, and what it does is documented
    check: bool = True,
    pipefail: bool = True,
    encoding: str | None = None,
    errors: str = "strict",
    stdin: Stdio = DEVNULL,
    stdout: Stdio = PIPE,
    stderr: Stdio = PIPE,
    max_output: int | None = None,
    on_limit: OnLimit = "raise",
    stop_signal: int = signal.SIGTERM,
    patience: SupportsFloat = 5.0,
    tree: Literal["group"] | None = "group",
    on_cancel: Literal["stop", "kill"] = "stop",
    drain_timeout: SupportsFloat | None = 0.5,
    cwd: StrOrBytesPath | int | None = None,
    env: Env | None = None,
    close_fds: bool = True,
    pass_fds: Iterable[int] = (),
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
    foreground: bool = False,
    fd_map: Mapping[int, Descriptor] | None = None,
    listen_fds: Iterable[Descriptor] | Mapping[str, Descriptor] = (),
    capabilities: Capabilities | None = None,
    unshare: int = 0,
    best_effort: Iterable[str] = (),
) -> PipelineResult[Any]:
    """Run programs of which each reads what the one before it writes, to their ends.

    >>> result = await aiovfork.pipeline(["git", "log", "--format=%ae"], ["sort"], ["uniq", "-c"])

    Kernel pipes join them; what goes through these is copied by nobody. All are in one process group, which
    the first leads. If one cannot be started, the others are ended, and the error is that of the start.

    Args:
        commands: Each a program with its arguments.
        input: What the first reads from stdin; a str is encoded with encoding. None: stdin is at its end.
        timeout: Seconds from the call; then all are ended: ProcessTimeout.
        check: Whether a failure is PipelineFailed.
        pipefail: Whether each program that fails counts, or the last alone. SIGPIPE is no failure of any but
            the last: who comes next has read enough. A program that ignores SIGPIPE may fail in its own way.
        encoding: What stdout and stderr are decoded with. None: they are bytes.
        errors: What becomes of bytes that cannot be decoded, as in bytes.decode().
        stdin: Of the first, without input: DEVNULL, None (the caller's own), a descriptor or an object with
            fileno().
        stdout: Of the last: PIPE, which captures it, None, DEVNULL, a descriptor or such an object.
        stderr: Of each: PIPE, which captures it apart from the others', None, DEVNULL, a descriptor or such
            an object; or STDOUT: what it writes to stderr goes where its stdout goes.
        max_output: Bytes that are kept of stdout, and of each stderr. None: no limit.
        on_limit: What comes of more: "raise" ends all, OutputLimitExceeded; "truncate" drops it.
        stop_signal: What asks the programs to end.
        patience: Seconds from stop_signal to SIGKILL.
        tree: What is ended: the "group", with the programs' descendants in it; None: the programs alone.
        on_cancel: What a cancellation does first: "stop", or "kill" at once.
        drain_timeout: Seconds to read on after the last exit, where a descendant holds a pipe. None: no
            limit.

    The other keywords are for each program, and described at SpawnOptions. process_group=None leaves all in
    the caller's group, a number joins another one; then the programs are ended alone.

    Returns:
        PipelineResult: the return code of each, stdout of the last, stderr of each.

    Raises:
        SpawnError: One was not started. A note says which.
        PipelineFailed: check, and one has failed. It is a ProcessFailed, about the last that has.
        ProcessTimeout: timeout is over.
        OutputLimitExceeded: One wrote more than max_output.
        UnicodeError: None has failed, and what one wrote is not text of that encoding. The outputs in its
            `result` are bytes.
        ValueError: An option has a wrong value.
        TypeError: An argument has a wrong type.

    After each of them nobody of the group is left. ProcessTimeout, OutputLimitExceeded and PipelineFailed
    have what is known as `result`.

    Cancellation: all are ended, then CancelledError propagates; its `result` has the output so far. A second
    cancellation kills at once.
    """
    if not commands:
        raise ValueError("a pipeline needs a command")
    for command in commands:
        if isinstance(command, (str, bytes)) or not isinstance(command, Sequence):
            raise TypeError(f"a command is a sequence of a program and its arguments, not {command!r}")
        if not command:
            raise ValueError("a command needs a program")
    if tree not in ("group", None):
        raise ValueError(f"tree must be 'group' or None, not {tree!r}")
    if on_cancel not in ("stop", "kill"):
        raise ValueError(f"on_cancel must be 'stop' or 'kill', not {on_cancel!r}")
    # fmt: off
    asked = (  # tools/signatures.py
        None, cwd, env, close_fds, pass_fds, False, process_group, umask, restore_signals, pipesize,
        spawn_timeout, user, group, extra_groups, rlimits, nice, cpu_affinity, scheduler, io_priority,
        oom_score_adj, pdeathsig, no_new_privs, signal_mask, default_signals, ignored_signals, chroot, cgroup,
        None, foreground, fd_map, listen_fds, capabilities, unshare, best_effort,
    )
    # fmt: on
    options = grouped(asked, in_shell=False)
    terms = agreed(
        (
            timeout,
            check,
            encoding,
            errors,
            max_output,
            on_limit,
            stop_signal,
            patience,
            tree,
            on_cancel,
            drain_timeout,
        ),
        options,
    )
    given, data = stdin_of(stdin, input, terms)
    built = [Command(tuple(command), PIPE, PIPE, stderr, options) for command in commands]
    built[0] = built[0]._replace(stdin=given)
    built[-1] = built[-1]._replace(stdout=stdout)
    return await complete(built, data, terms, pipefail=pipefail)
