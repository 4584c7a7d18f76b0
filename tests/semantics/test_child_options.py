"""Every option, alone and beside any other, does what it names, and changes nothing else in the child."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import errno
import fcntl
import itertools
import os
import pathlib
import pickle
import pty
import random
import resource
import shutil
import signal
import socket
import tempfile
import termios
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import pytest

import aiovfork
from aiovfork import _cgroup, _options
from tests.support.isolated import isolated
from tests.support.native import compiled
from tests.support.state import CAPABILITIES, state_of
from tests.support.view import STOPPED, wait_stopped

NOBODY: Final = 65534
IS_ROOT: Final = os.geteuid() == 0
#: The capability that an option needs: linux/capability.h.
NEEDED: Final = {
    "user": 7,
    "group": 6,
    "extra_groups": 6,
    "capabilities": 8,
    "chroot": 18,
    "unshare": 21,
}
#: What cannot be had together, or what one of them makes of the other is a test of its own.
NOT_TOGETHER: Final = [{"start_new_session", "process_group"}, {"controlling_tty", "process_group"}]
# Unless the child has another user.
NOT_OF_ROOT: Final = {"pdeathsig", "capabilities"}
CREDENTIALS: Final = {"user", "group", "extra_groups", "capabilities"}
KILL, NET_RAW = 5, 13

State = dict[str, Any]


class Place(NamedTuple):
    """What the samples need: files, a terminal, sockets."""

    root: pathlib.Path
    witness: str
    file: int
    folder: int
    listener: socket.socket
    terminal: int
    cgroup: str | None


@pytest.fixture
def place() -> Iterator[Place]:
    """Make them."""
    root = pathlib.Path(
        tempfile.mkdtemp(prefix="aiovfork-options-")
    )  # not pytest's, which is the user's alone
    root.chmod(0o755)
    (root / "usr").mkdir()
    witness = shutil.copy(compiled("witness", "-static", shared=False), root / "witness")
    cgroup = None
    with contextlib.suppress(OSError):
        cgroup = _cgroup.Cgroup.create()
    master, slave = pty.openpty()
    with open("/dev/zero", "rb") as file, socket.socket() as listener:
        folder = os.open("/usr", os.O_RDONLY | os.O_DIRECTORY)
        yield Place(
            root,
            str(witness),
            file.fileno(),
            folder,
            listener,
            slave,
            None if cgroup is None else cgroup.path,
        )
    shutil.rmtree(root)
    for fd in (folder, master, slave):
        os.close(fd)
    if cgroup is not None:
        cgroup.close_fd()
        assert cgroup.remove()


Sample = Callable[[Place], tuple[Any, Callable[[State, State], object]]]


def _put(**changes: Any) -> Callable[[State, State], object]:
    return lambda state, _: state.update(changes)


def _listening(state: State, _: State) -> None:
    state["environ"] += ["LISTEN_FDS=1", "LISTEN_FDNAMES=http", "LISTEN_PID=its own"]
    state["fds"][3] = "socket"


def _fd(number: int, target: str) -> Callable[[State, State], object]:
    return lambda state, _: state["fds"].update({number: target})


def _limits(state: State, _: State) -> None:
    state["limits"].update({"open files": ("200", "300"), "core file size": ("0", "0")})


#: For each option of a child, a value and what it changes. Capabilities follow from three of them: capabilities_of().
SAMPLES: Final[dict[str, Sample]] = {
    "cwd": lambda _: ("/usr", lambda state, _: state.update(cwd=state["root"].rstrip("/") + "/usr")),
    "umask": lambda _: (0o123, _put(Umask="0123")),
    "restore_signals": lambda _: (
        False,
        lambda state, _: state.update(SigIgn=state["SigIgn"] | bit(signal.SIGPIPE) | bit(signal.SIGXFSZ)),
    ),
    "start_new_session": lambda _: (True, _put(session="its own", group="its own")),
    "process_group": lambda _: (0, _put(group="its own")),
    "pass_fds": lambda place: ([place.file], _fd(place.file, "/dev/zero")),
    "user": lambda _: (NOBODY, _put(Uid=" ".join([str(NOBODY)] * 4))),
    "group": lambda _: (4321, _put(Gid="4321 4321 4321 4321")),
    "extra_groups": lambda _: ([4444, 5555], _put(Groups="4444 5555")),
    "rlimits": lambda _: ({resource.RLIMIT_NOFILE: (200, 300), resource.RLIMIT_CORE: 0}, _limits),
    "nice": lambda _: (3, lambda state, _: state.update(nice=min(state["nice"] + 3, 19))),
    "cpu_affinity": lambda _: ([max(os.sched_getaffinity(0))], _put(cpus={max(os.sched_getaffinity(0))})),
    "scheduler": lambda _: (os.SCHED_BATCH, _put(policy=os.SCHED_BATCH)),
    "io_priority": lambda _: ((aiovfork.IOPriority.BEST_EFFORT, 7), _put(io=(2, 7))),
    "oom_score_adj": lambda _: (900, _put(oom_score_adj=900)),
    "pdeathsig": lambda _: (signal.SIGUSR1, _put(pdeathsig=int(signal.SIGUSR1))),
    "no_new_privs": lambda _: (True, _put(NoNewPrivs="1")),
    "signal_mask": lambda _: ([signal.SIGUSR1, 64], _put(SigBlk=bit(signal.SIGUSR1) | bit(64))),
    "default_signals": lambda _: (
        [signal.SIGUSR2],
        lambda state, _: state.update(SigIgn=state["SigIgn"] & ~bit(signal.SIGUSR2)),
    ),
    "ignored_signals": lambda _: (
        [signal.SIGHUP, 64],
        lambda state, _: state.update(SigIgn=state["SigIgn"] | bit(signal.SIGHUP) | bit(64)),
    ),
    "chroot": lambda place: (place.root, _put(root=str(place.root), cwd=str(place.root))),
    "cgroup": lambda place: (place.cgroup, lambda state, _: state.update(cgroup=own_cgroup(place))),
    "controlling_tty": lambda place: (
        0,
        _put(
            terminal=os.fstat(place.terminal).st_rdev,
            foreground="its own",
            fds={0: os.ttyname(place.terminal), 1: "/dev/null", 2: "/dev/null"},
        ),
    ),
    "fd_map": lambda place: ({40: place.file}, _fd(40, "/dev/zero")),
    "listen_fds": lambda place: ({"http": place.listener}, _listening),
    "capabilities": lambda _: (aiovfork.Capabilities(["kill"], ["CAP_KILL", NET_RAW]), _put()),
    "unshare": lambda _: (0x40000000 | 0x4000000, _put(**{"other namespaces": {"net", "uts"}})),
}
#: What the child's state does not show, and other tests do.
ELSEWHERE: Final = {
    *("executable", "env", "close_fds", "pipesize", "spawn_timeout"),  # test_env_and_path, test_pass_fds, ...
    *("foreground", "best_effort"),  # below
}
# These change what others change further: they come first.
FIRST: Final = ("chroot", "controlling_tty")


def bit(number: int) -> int:
    """A signal in a mask."""
    return 1 << number - 1


def own_cgroup(place: Place) -> str:
    """The cgroup of the samples, as /proc has it."""
    own = pathlib.Path("/proc/self/cgroup").read_text().rpartition("0::")[2].strip()
    return os.path.join(own, os.path.basename(place.cgroup or ""))


def capabilities_of(options: dict[str, Any], usual: State) -> dict[str, int]:
    """What capabilities(7) says of a child of root's with these options."""
    bounding, inheritable, ambient = usual["CapBnd"], usual["CapInh"], usual["CapAmb"]
    if "capabilities" in options:
        bounding &= 1 << KILL | 1 << NET_RAW
        inheritable = ambient = 1 << KILL
    elif "user" in options:
        ambient = 0
    permitted = ambient if "user" in options else inheritable | bounding
    if {"capabilities", "no_new_privs"} <= {*options}:
        permitted = ambient
    sets = (inheritable, permitted, permitted, bounding, ambient)
    return dict(zip(CAPABILITIES, sets, strict=True))


def available(place: Place) -> list[str]:
    """The options that can be tried here."""
    status = pathlib.Path("/proc/self/status").read_text()
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    left_out = {name for name, capability in NEEDED.items() if not effective >> capability & 1}
    if place.cgroup is None:
        left_out.add("cgroup")
    return [name for name in SAMPLES if name not in left_out]


async def observed(place: Place, options: dict[str, Any]) -> tuple[State, str]:
    """The state of a child with these options, and the engine that started it."""
    streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), aiovfork.DEVNULL)
    if "controlling_tty" in options:
        streams["stdin"] = place.terminal
        options = {**options, "start_new_session": True}
    program = "/witness" if "chroot" in options else place.witness
    process = await aiovfork.create_subprocess_exec(program, **streams, **options)
    try:
        return state_of(process.pid), process.spawn_info.engine
    finally:
        process.kill()
        await process.wait()


async def check(place: Place, names: tuple[str, ...], usual: State) -> None:
    """Start a child with options, and compare its state with the one of a child without any."""
    samples = {name: SAMPLES[name](place) for name in names}
    state, engine = await observed(place, {name: value for name, (value, _) in samples.items()})
    expected = {
        **usual,
        "fds": dict(usual["fds"]),
        "limits": dict(usual["limits"]),
        "environ": [*usual["environ"]],
    }
    for name in sorted(names, key=lambda name: name not in FIRST):
        samples[name][1](expected, usual)
    if "controlling_tty" in names:
        expected.update(session="its own", group="its own")
    if IS_ROOT:
        expected.update(capabilities_of(dict.fromkeys(names), usual))
    if "io_priority" not in names:  # older kernels derive it from niceness and policy
        state["io"] = expected["io"]
    different = {key: (state[key], expected[key]) for key in expected if state[key] != expected[key]}
    assert not different, f"{' and '.join(names)}: {different}"
    assert (engine == "launcher") == bool(CREDENTIALS & {*names}), names


@pytest.fixture
def signals() -> Iterator[None]:
    """Have something in the caller's signals that options can change."""
    before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    signal.signal(signal.SIGUSR2, before)


def test_every_option_has_a_sample() -> None:
    """A new option cannot be forgotten here."""
    assert {*SAMPLES, *ELSEWHERE} == {*_options.CHILD_OPTIONS}


@pytest.mark.usefixtures("signals")
async def test_each_option_alone(place: Place) -> None:
    """Each option changes in the child what it names, and nothing else."""
    usual, _ = await observed(place, {})
    for name in available(place):
        await check(place, (name,), usual)


def _pairs(place: Place) -> list[tuple[str, ...]]:
    pairs = itertools.combinations(available(place), 2)
    return [pair for pair in pairs if not any(both <= {*pair} for both in [*NOT_TOGETHER, NOT_OF_ROOT])]


@pytest.mark.usefixtures("signals")
async def test_options_beside_each_other(place: Place) -> None:
    """Of random pairs, and handfuls, each option does what it does alone."""
    usual, _ = await observed(place, {})
    pairs = _pairs(place)
    handful = tuple(name for name in available(place) if name not in {"process_group", "start_new_session"})
    for names in [handful, *random.sample(pairs, min(24, len(pairs)))]:
        await check(place, names, usual)


class Reader(asyncio.SubprocessProtocol):
    """Keeps what a child writes."""

    def __init__(self) -> None:
        self.output = b""
        self.end = asyncio.get_running_loop().create_future()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Output."""
        self.output += data

    def connection_lost(self, exc: Exception | None) -> None:
        """All pipes are closed, and the child is over."""
        self.end.set_result(None)


async def written(process: aiovfork.Process) -> bytes:
    """What a process writes."""
    output, _ = await process.communicate()
    return output


async def test_every_function_takes_them() -> None:
    """Each way to start a child hands an option on: niceness, as nice(1) tells it."""
    found: list[bytes | str | None] = []
    options: dict[str, Any] = {"nice": 3}
    found.append((await aiovfork.run("nice", **options)).stdout)
    found.append((await aiovfork.run_shell("nice", **options)).stdout)
    found.append((await aiovfork.pipeline(["nice"], ["cat"], **options)).stdout)
    async with aiovfork.lines("nice", **options) as lines:
        found += [line async for line in lines]
    found += [done.stdout async for done in aiovfork.run_many([("nice",)], limit=1, **options)]
    found.append(
        await written(await aiovfork.create_subprocess_exec("nice", stdout=aiovfork.PIPE, **options))
    )
    found.append(
        await written(await aiovfork.create_subprocess_shell("nice", stdout=aiovfork.PIPE, **options))
    )
    for start, command in ((aiovfork.subprocess_exec, "nice"), (aiovfork.subprocess_shell, "exec nice")):
        _, protocol = await start(Reader, command, **options)
        await protocol.end
        found.append(protocol.output)
    async with aiovfork.ProcessGroup() as group:
        found.append((await group.run("nice", **options)).stdout)
        found.append(await written(await group.start("nice", stdout=aiovfork.PIPE, **options)))
        found.append(await written(await group.start_shell("nice", stdout=aiovfork.PIPE, **options)))
    async with aiovfork.supervise(
        *("sh", "-c", "nice; read end"), stdin=aiovfork.PIPE, stdout=aiovfork.PIPE, **options
    ) as supervisor:
        process = await supervisor.ready()
        assert process.stdout is not None
        found.append(await process.stdout.readline())
    expected = str(min(os.getpriority(os.PRIO_PROCESS, 0) + 3, 19))
    texts = [line.decode() if isinstance(line, bytes) else line for line in found]
    assert [text.strip() for text in texts if text is not None] == [expected] * 13


async def _in_the_foreground() -> list[str]:
    master, slave = pty.openpty()  # this interpreter leads a session that has no terminal
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it comes when the terminal goes
    found = []
    for wanted in (True, False, True):
        process = await aiovfork.create_subprocess_exec(*STOPPED, process_group=0, foreground=wanted)
        wait_stopped(process.pid)
        with open(f"/proc/{process.pid}/stat") as stat:
            group, _, terminal, foreground = map(int, stat.read().rpartition(")")[2].split()[2:6])
        assert (group, terminal) == (process.pid, os.fstat(slave).st_rdev)
        found.append("its own" if foreground == group else "another")
        process.kill()
        await process.wait()
    os.close(slave)
    os.close(master)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    return found


def test_the_foreground_of_a_terminal() -> None:
    """foreground=True makes the child's group the one that the terminal's keys reach, from the background too."""
    assert isolated(_in_the_foreground, loop="asyncio") == ["its own", "another", "its own"]


async def test_what_was_not_applied_can_be_sent() -> None:
    """spawn_info can be copied and pickled, with what best_effort has left out and without."""
    choices: list[dict[str, Any]] = [{}, {"cpu_affinity": [60000], "best_effort": ["cpu_affinity"]}]
    for options in choices:
        info = (await aiovfork.run("true", **options)).spawn_info
        assert pickle.loads(pickle.dumps(info)) == copy.deepcopy(info) == info  # noqa: S301  # ours
        assert info.not_applied == ({"cpu affinity": errno.EINVAL} if options else {})


@pytest.mark.slow
@pytest.mark.usefixtures("signals")
async def test_every_pair_of_options(place: Place, engine_mode: tuple[str, str]) -> None:
    """Of every pair, each option does what it does alone, whatever the engine; a cgroup needs clone3."""
    if engine_mode[0] == "clone":
        place = place._replace(cgroup=None)
    usual, _ = await observed(place, {})
    for names in _pairs(place):
        await check(place, names, usual)
