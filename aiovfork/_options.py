"""What was asked for: the command, and its keywords with their types and defaults.

Layer: below their checks. Thread: any. A new keyword is a row in Options, and in the tables of steps in
_steps.py and csrc; `python -m tools.signatures` writes it into every function that takes it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import IO, Any, Final, Literal, NamedTuple, Protocol, SupportsFloat, TypeAlias, TypedDict, cast

from aiovfork._identity import Capabilities
from aiovfork._pty import Pty

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


#: What run(), lines() and the like take of Options: the first ones, without what is refused.
CHILD_OPTIONS: Final = Options._fields[: Options._fields.index("startupinfo")]


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
