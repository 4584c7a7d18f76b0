"""What was asked for: the command, and its keywords with their types, defaults, and what is refused.

Layer: below the plan. Thread: any. A new keyword is a row in Options, and in the tables of steps in _plan.py
and csrc; `python -m tools.signatures` writes it into every function that takes it.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any, Final, Literal, NamedTuple, SupportsFloat, TypeAlias, TypedDict, cast

from aiovfork._errors import PREEXEC_REPLACEMENTS

StrOrBytesPath: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Env: TypeAlias = Mapping[str, StrOrBytesPath] | Mapping[bytes, StrOrBytesPath]
Stdio: TypeAlias = int | IO[Any] | None


class StageOptions(TypedDict, total=False):
    """What pipeline() takes of SpawnOptions, for each of its programs."""

    cwd: StrOrBytesPath | None
    env: Env | None
    close_fds: bool
    pass_fds: Iterable[int]
    process_group: int | None
    umask: int
    restore_signals: bool
    pipesize: int
    spawn_timeout: SupportsFloat | None


class ChildOptions(StageOptions, total=False):
    """What run(), lines() and the like take of SpawnOptions: all but what is refused."""

    executable: StrOrBytesPath | None
    start_new_session: bool


class SpawnOptions(ChildOptions, total=False):
    """The keywords of every function that starts a child, but for stdin, stdout, stderr and limit.

    Attributes:
        executable: The program to execute, while argv[0] stays what was given.
        cwd: The child's folder; a relative program is looked up from there.
        env: The child's environment; its PATH is the one that is searched. None: the caller's own.
        close_fds: Whether the child gets no descriptor above 2 but pass_fds.
        pass_fds: Descriptors that the child keeps, under the same numbers.
        start_new_session: Whether the child calls setsid().
        process_group: The child calls setpgid(0, process_group); with start_new_session that is EPERM.
        umask: The child's umask; -1 leaves it.
        restore_signals: Whether SIGPIPE, SIGXFZ and SIGXFSZ, which Python ignores, become default.
        pipesize: The size of the pipes in bytes (F_SETPIPE_SZ); -1 leaves it.
        spawn_timeout: Seconds until the program must run; then the child is killed: TimeoutError.
        startupinfo: Refused: for Windows.
        creationflags: Refused unless 0: for Windows.
        user: Refused: credentials must not change in a child that shares its parent's memory.
        group: Refused, as user.
        extra_groups: Refused, as user.
        preexec_fn: Refused: Python code cannot run in a child that shares its parent's memory.
        shell: Refused but for what the function does anyway, as in asyncio.
        text: Refused, as in asyncio: its streams are bytes.
        encoding: Refused, as text.
        errors: Refused, as text.
        universal_newlines: Refused, as text.
        bufsize: Refused unless 0, as in asyncio.
    """

    startupinfo: None
    creationflags: int
    user: None
    group: None
    extra_groups: None
    preexec_fn: None
    shell: bool
    text: Literal[False] | None
    encoding: None
    errors: None
    universal_newlines: Literal[False]
    bufsize: Literal[0]


class Options(NamedTuple):
    """The keywords of one spawn: those of SpawnOptions, with their defaults.

    tools/signatures.py writes these rows into every signature, TypedDict and tuple that repeats them.
    """

    executable: StrOrBytesPath | None = None
    cwd: StrOrBytesPath | None = None
    env: Env | None = None
    close_fds: bool = True
    pass_fds: Iterable[int] = ()
    start_new_session: bool = False
    process_group: int | None = None
    umask: int = -1
    restore_signals: bool = True
    pipesize: int = -1
    spawn_timeout: SupportsFloat | None = None
    startupinfo: None = None
    creationflags: int = 0
    user: None = None
    group: None = None
    extra_groups: None = None
    preexec_fn: None = None
    shell: bool = False
    text: Literal[False] | None = None
    encoding: None = None
    errors: None = None
    universal_newlines: Literal[False] = False
    bufsize: Literal[0] = 0


_CREDENTIALS: Final = (
    "The {!r} parameter is not supported yet: credentials must not change in a child that shares its "
    "parent's memory"
)


def _none(value: object) -> bool:
    return value is None


# What is refused, as asyncio and Popen on POSIX do: the option, whether a value is allowed, and what is said
# of others. In asyncio's order and words (base_events.subprocess_exec).
REFUSED: Final[tuple[tuple[str, Callable[[Any], bool], str], ...]] = (
    ("universal_newlines", operator.not_, "universal_newlines must be False"),
    ("bufsize", lambda value: bool(value == 0), "bufsize must be 0"),
    ("text", operator.not_, "text must be False"),
    ("encoding", _none, "encoding must be None"),
    ("errors", _none, "errors must be None"),
    ("preexec_fn", _none, PREEXEC_REPLACEMENTS),
    ("startupinfo", _none, "startupinfo is only supported on Windows platforms"),
    ("creationflags", lambda value: bool(value == 0), "creationflags is only supported on Windows platforms"),
    ("user", _none, _CREDENTIALS.format("user")),
    ("group", _none, _CREDENTIALS.format("group")),
    ("extra_groups", _none, _CREDENTIALS.format("extra_groups")),
)
#: The options that checked() looks at by itself.
CHECKED: Final = frozenset({"pipesize", "spawn_timeout", "shell"})

_refusable: Final = operator.attrgetter(*(name for name, _, _ in REFUSED))
_NOTHING_REFUSED: Final = _refusable(Options())
_WITHOUT_SHELL: Final = Options()
_IN_SHELL: Final = _WITHOUT_SHELL._replace(shell=True)  # noqa: S604  # an option, not a call


def checked(given: tuple[Any, ...], *, in_shell: bool) -> Options:
    """Return the options of a call, given in the order of Options, if they can be had.

    A test holds the callers to that order. They give a plain tuple because it is cheap.

    Raises:
        ValueError: An option that cannot be had, or a wrong value of one.
        TypeError: A value of a wrong type.
    """
    usual = _IN_SHELL if in_shell else _WITHOUT_SHELL
    if given == usual:
        return usual  # one for all: there may be thousands of living children
    options = Options._make(given)
    values = _refusable(options)
    if values != _NOTHING_REFUSED:
        for (_, is_allowed, reason), value in zip(REFUSED, values, strict=True):
            if not is_allowed(value):
                raise ValueError(reason)
    if not isinstance(options.pipesize, int):
        raise TypeError("pipesize must be an integer")
    if bool(options.shell) is not in_shell:
        raise ValueError(f"shell must be {in_shell}")
    if options.spawn_timeout is not None:
        options = options._replace(spawn_timeout=_positive_seconds(options.spawn_timeout))
    return options


#: What run(), lines() and the like take of Options: the first ones, without what is refused.
CHILD_OPTIONS: Final = Options._fields[: Options._fields.index("spawn_timeout") + 1]
_REFUSED_ALL: Final = _WITHOUT_SHELL[len(CHILD_OPTIONS) :]
_REFUSED_ALL_IN_SHELL: Final = _IN_SHELL[len(CHILD_OPTIONS) :]
_GROUPED: Final = _WITHOUT_SHELL._replace(process_group=0)
_GROUPED_IN_SHELL: Final = _IN_SHELL._replace(process_group=0)
_GROUPED_GIVEN: Final = tuple(_GROUPED[: len(CHILD_OPTIONS)])


def grouped(given: tuple[Any, ...], *, in_shell: bool) -> Options:
    """As checked(), of a call that takes CHILD_OPTIONS and gives the child a process group of its own.

    That is the call's default, process_group=0; a new session has such a group by itself.

    Raises:
        ValueError: A wrong value of an option.
        TypeError: A value of a wrong type.
    """
    if given == _GROUPED_GIVEN:
        return _GROUPED_IN_SHELL if in_shell else _GROUPED
    options = checked((*given, *(_REFUSED_ALL_IN_SHELL if in_shell else _REFUSED_ALL)), in_shell=in_shell)
    if options.start_new_session and options.process_group == 0:
        return options._replace(process_group=None)
    return options


def _positive_seconds(value: SupportsFloat) -> float | None:
    """Return what any loop's call_later takes: no Decimal, and for uvloop no infinity."""
    if not isinstance(value, SupportsFloat):
        raise TypeError(f"spawn_timeout must be a real number or None, not {type(value).__name__}")
    seconds = float(value)
    if not seconds > 0:  # NaN too
        raise ValueError(f"spawn_timeout must be positive or None, not {value!r}")
    return seconds if seconds < math.inf else None


def seconds(value: SupportsFloat | None, name: str) -> float | None:
    """Return what any loop's call_later takes: no infinity. It may be over: what is left until a deadline."""
    if value is None:
        return None
    if not isinstance(value, SupportsFloat):
        raise TypeError(f"{name} must be a real number or None, not {type(value).__name__}")
    number = float(value)
    if math.isnan(number):
        raise ValueError(f"{name} must be a number of seconds or None, not {value!r}")
    return number if number < math.inf else None


class Command(NamedTuple):
    """One spawn as it was asked for; a shell's args are ("/bin/sh", "-c", cmd)."""

    args: tuple[StrOrBytesPath, ...]
    stdin: Stdio
    stdout: Stdio
    stderr: Stdio
    options: Options = Options()
    is_shell: bool = False

    @property
    def program(self) -> StrOrBytesPath:
        """What is executed."""
        executable = self.options.executable
        return self.args[0] if executable is None else executable

    @property
    def cwd(self) -> StrOrBytesPath | None:
        """The option cwd."""
        return self.options.cwd

    @property
    def spawn_timeout(self) -> float | None:
        """The option spawn_timeout, which checked() has made a float."""
        return cast("float | None", self.options.spawn_timeout)

    @property
    def popen_args(self) -> tuple[StrOrBytesPath, ...] | StrOrBytesPath:
        """Popen.args."""
        return self.args[2] if self.is_shell else self.args

    @property
    def called(self) -> StrOrBytesPath:
        """What asyncio's logs call it: argv[0], for the rest may be secret, or the shell's command."""
        return self.args[2] if self.is_shell else self.args[0]

    @property
    def action(self) -> str:
        """asyncio's words for it, in the log of debug mode."""
        return "run shell command" if self.is_shell else "execute program"
