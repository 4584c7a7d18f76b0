"""What was asked for: the command, and its keywords with their types, defaults, and what is refused.

Layer: below the plan. Thread: any. A new keyword is a row in Options, and in the tables of steps in _plan.py
and csrc; `python -m tools.signatures` writes it into every function that takes it.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any, Final, Literal, NamedTuple, Protocol, SupportsFloat, TypeAlias, TypedDict, cast

from aiovfork._errors import PREEXEC_REPLACEMENTS
from aiovfork._identity import Capabilities, user
from aiovfork._pty import Pty
from aiovfork._values import items_of

StrOrBytesPath: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Env: TypeAlias = Mapping[str, StrOrBytesPath] | Mapping[bytes, StrOrBytesPath]
Stdio: TypeAlias = int | IO[Any] | None


class HasFileno(Protocol):
    """A file, a socket, or whatever else has a descriptor."""

    def fileno(self) -> int:
        """Return the descriptor."""


#: A descriptor, or what has one.
Descriptor: TypeAlias = int | HasFileno


class StageOptions(TypedDict, total=False):
    """What pipeline() takes of SpawnOptions, for each of its programs."""

    cwd: StrOrBytesPath | int | None
    env: Env | None
    close_fds: bool
    pass_fds: Iterable[int]
    process_group: int | None
    umask: int
    restore_signals: bool
    pipesize: int
    spawn_timeout: SupportsFloat | None
    user: str | int | None
    group: str | int | None
    extra_groups: Iterable[str | int] | None
    rlimits: Mapping[int, int | tuple[int, int]] | None
    nice: int
    cpu_affinity: Iterable[int] | None
    scheduler: int | tuple[int, int] | None
    io_priority: int | tuple[int, int] | None
    oom_score_adj: int | None
    pdeathsig: int | None
    no_new_privs: bool
    signal_mask: Iterable[int] | None
    default_signals: Iterable[int]
    ignored_signals: Iterable[int]
    chroot: StrOrBytesPath | None
    cgroup: StrOrBytesPath | int | None
    foreground: bool
    fd_map: Mapping[int, Descriptor] | None
    listen_fds: Iterable[Descriptor] | Mapping[str, Descriptor]
    capabilities: Capabilities | None
    unshare: int
    best_effort: Iterable[str]


class ChildOptions(StageOptions, total=False):
    """What run(), lines() and the like take of SpawnOptions: all but what is refused."""

    executable: StrOrBytesPath | None
    start_new_session: bool
    controlling_tty: int | None


class SpawnOptions(ChildOptions, total=False):
    """The keywords of every function that starts a child, but for stdin, stdout, stderr and limit.

    Attributes:
        executable: The program to execute, while argv[0] stays what was given.
        cwd: The child's folder, or a descriptor of it; a relative program is looked up from there.
        env: The child's environment; its PATH is the one that is searched. None: the caller's own.
        close_fds: Whether the child gets no descriptor above 2 but pass_fds.
        pass_fds: Descriptors that the child keeps, under the same numbers.
        start_new_session: Whether the child calls setsid().
        process_group: The child calls setpgid(0, process_group); with start_new_session that is EPERM.
        umask: The child's umask; -1 leaves it.
        restore_signals: Whether SIGPIPE, SIGXFZ and SIGXFSZ, which Python ignores, become default.
        pipesize: The size of the pipes in bytes (F_SETPIPE_SZ); -1 leaves it.
        spawn_timeout: Seconds until the program must run; then the child is killed: TimeoutError.
        user: The child's user, real, effective and saved: a name, or a number.
        group: The child's group, likewise.
        extra_groups: The child's supplementary groups, names or numbers; [] is none. None: the caller's.
        rlimits: Limits of resources: {resource.RLIMIT_X: both limits, or (soft, hard)}; -1 is no limit.
        nice: What is added to the caller's niceness; 0 leaves it.
        cpu_affinity: The CPUs that the child may run on.
        scheduler: The scheduling policy, such as os.SCHED_BATCH, or (policy, priority).
        io_priority: The class of I/O priority, an IOPriority, or (class, level).
        oom_score_adj: How willingly the kernel kills the child when memory is out: from -1000 to 1000.
        pdeathsig: The signal that the child gets when this process dies; not by a set-user-ID program.
        no_new_privs: Whether no program gives the child or its descendants more rights, as sudo would.
        signal_mask: The signals that are blocked in the child. None: those that are in the calling thread.
        default_signals: Signals that become default in the child, where the caller ignores them.
        ignored_signals: Signals that the child ignores.
        chroot: The child's root folder, where cwd and the program are looked up; its cwd is "/" unless given.
        cgroup: The cgroup (v2) that the child is born into: its folder, or a descriptor of that.
        controlling_tty: The child's descriptor of its controlling terminal; needs start_new_session.
        foreground: Whether the child's process group becomes the terminal's foreground.
        fd_map: Descriptors that the child gets: {its number, above 2: the caller's, or a file}.
        listen_fds: Sockets for a server, as systemd hands them over: from 3 on. A mapping names them.
        capabilities: What of root's power the child has or can get: a Capabilities.
        unshare: The namespaces that the child leaves, such as os.CLONE_NEWNET: flags of unshare(2).
        best_effort: Names of options whose failure is noted in spawn_info.not_applied, and not fatal.
        startupinfo: Refused: for Windows.
        creationflags: Refused unless 0: for Windows.
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
    cwd: StrOrBytesPath | int | None = None
    env: Env | None = None
    close_fds: bool = True
    pass_fds: Iterable[int] = ()
    start_new_session: bool = False
    process_group: int | None = None
    umask: int = -1
    restore_signals: bool = True
    pipesize: int = -1
    spawn_timeout: SupportsFloat | None = None
    user: str | int | None = None
    group: str | int | None = None
    extra_groups: Iterable[str | int] | None = None
    rlimits: Mapping[int, int | tuple[int, int]] | None = None
    nice: int = 0
    cpu_affinity: Iterable[int] | None = None
    scheduler: int | tuple[int, int] | None = None
    io_priority: int | tuple[int, int] | None = None
    oom_score_adj: int | None = None
    pdeathsig: int | None = None
    no_new_privs: bool = False
    signal_mask: Iterable[int] | None = None
    default_signals: Iterable[int] = ()
    ignored_signals: Iterable[int] = ()
    chroot: StrOrBytesPath | None = None
    cgroup: StrOrBytesPath | int | None = None
    controlling_tty: int | None = None
    foreground: bool = False
    fd_map: Mapping[int, Descriptor] | None = None
    listen_fds: Iterable[Descriptor] | Mapping[str, Descriptor] = ()
    capabilities: Capabilities | None = None
    unshare: int = 0
    best_effort: Iterable[str] = ()
    startupinfo: None = None
    creationflags: int = 0
    preexec_fn: None = None
    shell: bool = False
    text: Literal[False] | None = None
    encoding: None = None
    errors: None = None
    universal_newlines: Literal[False] = False
    bufsize: Literal[0] = 0


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
)
#: The options that checked() looks at by itself.
CHECKED: Final = frozenset({"pipesize", "spawn_timeout", "shell", "best_effort"})
#: What best_effort may name: where a failure leaves the child no more rights than were asked for.
BEST_EFFORT: Final = frozenset(
    {"nice", "cpu_affinity", "scheduler", "io_priority", "oom_score_adj", "rlimits", "foreground"}
)

_refusable: Final = operator.attrgetter(*(name for name, _, _ in REFUSED))
_NOTHING_REFUSED: Final = _refusable(Options())
_ITERABLES: Final = [
    place for place, kind in enumerate(Options.__annotations__.values()) if "Iterable[" in str(kind)
]
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
    if same(given, usual):
        return usual  # one for all: there may be thousands of living children
    options = Options._make(readable_again(given))
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
    if options.best_effort != ():
        options = options._replace(best_effort=_best_effort(options.best_effort))
    if options.controlling_tty is not None and not options.start_new_session:
        raise ValueError("controlling_tty needs start_new_session=True")
    if options.chroot is not None and isinstance(options.cwd, int):
        raise ValueError("with chroot, cwd must be a path: a descriptor could lead out of the new root")
    if options.pdeathsig is not None and options.capabilities is not None and not options.no_new_privs:
        _check_death_signal(options)
    return options


def _check_death_signal(options: Options) -> None:
    """Refuse what Linux would forget: exec clears it where the program gains a capability (prctl(2))."""
    capabilities, uid = options.capabilities, user(options.user)
    of_root = os.geteuid() == 0 if uid is None else uid == 0
    if of_root and isinstance(capabilities, Capabilities) and capabilities.ambient is not None:
        raise ValueError(
            "pdeathsig with ambient capabilities needs a user other than root, or no_new_privs: exec gives "
            "root's program more capabilities, and Linux forgets the signal then"
        )


def same(values: tuple[Any, ...], usual: tuple[Any, ...]) -> bool:
    """Whether values are the usual ones. An item that is another object is asked whether it equals."""
    try:
        return values == usual
    except Exception:  # noqa: BLE001  # of an array, which compares each of its items
        return False


def readable_again(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return options, those of a child or all, of which each can be read twice: iterators become tuples."""
    found = {place: tuple(given[place]) for place in _ITERABLES if hasattr(given[place], "__next__")}
    return tuple(found.get(place, value) for place, value in enumerate(given)) if found else given


def _best_effort(names: Any) -> frozenset[str]:
    chosen = frozenset(items_of(names, "best_effort"))
    for name in chosen - BEST_EFFORT:
        raise ValueError(f"best_effort cannot hold {name!r}, but {', '.join(sorted(BEST_EFFORT))}")
    return chosen


#: What run(), lines() and the like take of Options: the first ones, without what is refused.
CHILD_OPTIONS: Final = Options._fields[: Options._fields.index("startupinfo")]
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
    if same(given, _GROUPED_GIVEN):
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
    pty: Pty | None = None

    @property
    def program(self) -> StrOrBytesPath:
        """What is executed."""
        executable = self.options.executable
        return self.args[0] if executable is None else executable

    @property
    def cwd(self) -> StrOrBytesPath | int | None:
        """The option cwd."""
        return self.options.cwd

    @property
    def chroot(self) -> StrOrBytesPath | None:
        """The option chroot."""
        return self.options.chroot

    @property
    def cgroup(self) -> StrOrBytesPath | int | None:
        """The option cgroup."""
        return self.options.cgroup

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
