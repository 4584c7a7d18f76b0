"""Values of options: what each becomes in the plan, and what is refused at once, as the stdlib refuses it."""

from __future__ import annotations

import array
import grp
import os
import pwd
import resource
import signal
import socket
import struct
import subprocess
import warnings
from collections.abc import Callable
from typing import Any

import pytest

import aiovfork
from aiovfork import _checks, _options, _plan, _steps
from aiovfork._binding import PLAN, PLAN_STEP, lib

OPTIONS = _options.Options()


def built(**options: Any) -> bytes:
    """The plan of a child."""
    return _plan.build(_options.Command(("true",), None, None, None, OPTIONS._replace(**options))).block


def steps_of(block: bytes) -> list[tuple[int, int, int, int]]:
    """The steps of a plan: number, detail, flags, value."""
    count = PLAN.unpack_from(block)[7]
    return [PLAN_STEP.unpack_from(block, PLAN.size + index * PLAN_STEP.size) for index in range(count)]


def value_of(option: str, value: Any, step: int) -> int:
    """The value of the one step that an option adds."""
    added = set(steps_of(built(**{option: value}))) - set(steps_of(built()))
    ((number, detail, flags, found),) = added
    assert (number, detail, flags) == (step, 0, 0)
    return found


BITS_OF_TERM_AND_64 = (1 << 14 | 1 << 63) - 2**64
NUMBERS: list[tuple[str, Any, int, int]] = [
    ("user", 7, lib.AVF_STEP_SETUID, 7),
    ("user", "root", lib.AVF_STEP_SETUID, 0),
    ("user", 2**32 - 2, lib.AVF_STEP_SETUID, 2**32 - 2),
    ("group", "root", lib.AVF_STEP_SETGID, 0),
    ("nice", -3, lib.AVF_STEP_NICE, -3),
    ("scheduler", os.SCHED_BATCH, lib.AVF_STEP_SCHEDULER, os.SCHED_BATCH),
    ("scheduler", (os.SCHED_FIFO, 5), lib.AVF_STEP_SCHEDULER, os.SCHED_FIFO | 5 << 32),
    (
        "scheduler",
        os.SCHED_IDLE | os.SCHED_RESET_ON_FORK,
        lib.AVF_STEP_SCHEDULER,
        os.SCHED_IDLE | os.SCHED_RESET_ON_FORK,
    ),
    ("io_priority", aiovfork.IOPriority.IDLE, lib.AVF_STEP_IO_PRIORITY, 3 << 13),
    ("io_priority", 2, lib.AVF_STEP_IO_PRIORITY, 2 << 13 | 4),
    ("io_priority", (aiovfork.IOPriority.REALTIME, 0), lib.AVF_STEP_IO_PRIORITY, 1 << 13),
    ("oom_score_adj", 0, lib.AVF_STEP_OOM_SCORE_ADJ, 0),
    ("pdeathsig", signal.SIGKILL, lib.AVF_STEP_PDEATHSIG, 9),
    ("no_new_privs", True, lib.AVF_STEP_NO_NEW_PRIVS, 0),
    ("signal_mask", [], lib.AVF_STEP_SIGMASK, 0),
    ("signal_mask", {signal.SIGTERM, 64}, lib.AVF_STEP_SIGMASK, BITS_OF_TERM_AND_64),
    ("default_signals", [signal.SIGTERM, 64], lib.AVF_STEP_DEFAULT_SIGNALS, BITS_OF_TERM_AND_64),
    ("ignored_signals", iter([1]), lib.AVF_STEP_IGNORED_SIGNALS, 1),
    ("controlling_tty", 0, lib.AVF_STEP_CONTROLLING_TTY, 0),
    ("foreground", True, lib.AVF_STEP_FOREGROUND, 0),
    ("unshare", 0x40000000, lib.AVF_STEP_UNSHARE, 0x40000000),
    ("capabilities", aiovfork.Capabilities(ambient=[]), lib.AVF_STEP_CAPABILITIES, 0),
    (
        "capabilities",
        aiovfork.Capabilities(ambient=["CAP_CHOWN", "kill", 40]),
        lib.AVF_STEP_CAPABILITIES,
        1 << 40 | 33,
    ),
    ("capabilities", aiovfork.Capabilities(bounding=["cap_bpf"]), lib.AVF_STEP_CAP_BOUNDING, 1 << 39),
]


def test_numbers() -> None:
    """What is a number for the kernel is the value of the option's step."""
    found = [value_of(option, value, step) for option, value, step, _ in NUMBERS]
    assert found == [expected for *_, expected in NUMBERS]


def test_what_lies_in_the_block() -> None:
    """Limits, groups, CPUs and paths lie behind everything else, each aligned, and the step has the offset."""
    options = {
        "rlimits": {resource.RLIMIT_NOFILE: (5, -1), resource.RLIMIT_CPU: 2**64 - 2},
        "extra_groups": [7, "root", 9],
        "cpu_affinity": [0, 3, 65],
        "chroot": b"/root",
        "cwd": "/folder",
    }
    block = built(**options)
    assert len(block) == PLAN.unpack_from(block)[0]
    found = {(step, detail): at for step, detail, _, at in steps_of(block)}
    assert all(at % 8 == 0 for at in found.values())

    def limits(kind: int) -> tuple[Any, ...]:
        return struct.unpack_from("=QQ", block, found[lib.AVF_STEP_RLIMIT, kind])

    assert limits(resource.RLIMIT_NOFILE) == (5, 2**64 - 1)
    assert limits(resource.RLIMIT_CPU) == (2**64 - 2, 2**64 - 2)
    assert struct.unpack_from("=4I", block, found[lib.AVF_STEP_SETGROUPS, 0]) == (3, 7, 0, 9)
    at = found[lib.AVF_STEP_CPU_AFFINITY, 0]
    size, unused = struct.unpack_from("=2I", block, at)
    words = array.array("L", block[at + 8 : at + 8 + size])
    assert (size, unused) == (16, 0)
    assert [word for word in words if word] == [9, 2]
    for step, path in ((lib.AVF_STEP_CHROOT, b"/root\0"), (lib.AVF_STEP_CHDIR, b"/folder\0")):
        assert block[found[step, 0] :].startswith(path)


def test_the_steps_ascend() -> None:
    """The table has the core's order, and so has a plan; a limit follows the one before it."""
    numbers = [number for _, number, _ in _steps.STEPS]
    assert numbers == sorted(set(numbers))
    block = built(rlimits={9: 1, 2: 1, 7: 1}, user=1, cwd="/", umask=0, best_effort=["rlimits", "nice"])
    found = steps_of(block)
    assert [step[:2] for step in found] == sorted(step[:2] for step in found)
    flagged = {step for step, _, flags, _ in found if flags == lib.AVF_STEP_BEST_EFFORT}
    assert flagged == {lib.AVF_STEP_RLIMIT}


def test_a_folder_that_is_open() -> None:
    """cwd as a descriptor is held for its step, which has its index."""
    block = built(cwd=12, pass_fds=[30, 4])
    fields = PLAN.unpack_from(block)
    assert fields[7:10] == (2, 2, 1)  # restore_signals is the other step
    assert steps_of(block)[0] == (lib.AVF_STEP_CHDIR, 1, 0, 0)
    at = PLAN.size + 2 * PLAN_STEP.size
    assert struct.unpack_from("=5i", block, at) == (4, 30, 4, 30, 12)


def given_in(block: bytes) -> dict[int, int]:
    """The child's descriptors above 2, and the caller's that they come from."""
    fields = PLAN.unpack_from(block)
    steps, count = fields[7:9]
    numbers = struct.unpack_from(f"={2 * count}i", block, PLAN.size + steps * PLAN_STEP.size)
    children, callers = numbers[:count], numbers[count:]
    assert list(children) == sorted(children)
    return dict(zip(children, callers, strict=True))


def environment_in(block: bytes) -> list[bytes]:
    """The environment."""
    at, count = PLAN.unpack_from(block)[14:16]
    return block[at:].split(b"\0")[:count]


def test_descriptors_are_united() -> None:
    """pass_fds, fd_map and listen_fds go into one list, in the order of the child's numbers."""
    with socket.socket() as listener:
        number = listener.fileno()
        block = built(pass_fds=[1, 50], fd_map={40: 7, 30: listener}, listen_fds=[listener, 9])
        assert given_in(block) == {3: number, 4: 9, 30: number, 40: 7, 50: 50}
    assert PLAN.unpack_from(block)[2] == lib.AVF_PLAN_CLOSE_FDS | lib.AVF_PLAN_LISTEN


def test_a_server_is_told_of_its_sockets() -> None:
    """The names and the number are in the environment, the pid last; what the caller was told is not."""
    env = {"LISTEN_PID": "1", "LISTEN_FDS": "9", "A": "B", "LISTEN_FDNAMES": "x", "LISTEN_PIDFDID": "2"}
    strings = environment_in(built(env=env, listen_fds={"http": 5, "api": 4}))
    assert strings == [b"A=B", b"LISTEN_FDS=2", b"LISTEN_FDNAMES=http:api", b"LISTEN_PID="]
    strings = environment_in(built(env={}, listen_fds=(4, 5)))
    assert strings == [b"LISTEN_FDS=2", b"LISTEN_FDNAMES=unknown:unknown", b"LISTEN_PID="]
    assert environment_in(built(listen_fds=[4]))[:-3] == environment_in(built())


@pytest.mark.parametrize("option", [{"fd_map": {7: 3}}, {"listen_fds": [4]}, {"pass_fds": [4]}], ids=str)
def test_close_fds_is_implied(option: dict[str, Any]) -> None:
    """A child that is given descriptors gets no others, as with pass_fds: a warning says so."""
    with pytest.warns(RuntimeWarning, match="overrid"):
        block = built(close_fds=False, **option)
    assert PLAN.unpack_from(block)[2] & lib.AVF_PLAN_CLOSE_FDS


POPENS: list[dict[str, Any]] = [
    {"user": "no-such-user"},
    {"user": b"root"},
    {"user": 1.5},
    {"user": -1},
    {"user": 2**32},
    {"user": 2**70},
    {"group": "no-such-group"},
    {"group": [0]},
    {"group": -5},
    {"group": 2**32},
    {"extra_groups": "root"},
    {"extra_groups": 5},
    {"extra_groups": [0, "no-such-group"]},
    {"extra_groups": [0, b"root"]},
    {"extra_groups": [-1]},
    {"extra_groups": [2**32]},
]


def raised_by(function: Callable[[], object]) -> Exception:
    """What a function raises."""
    with pytest.raises(Exception) as info:  # noqa: PT011  # it is compared
        function()
    return info.value


def test_credentials_are_refused_as_by_popen() -> None:
    """The type and the message are Popen's, as far as the C part of Python does not have the last word."""
    for options in POPENS:
        theirs = raised_by(lambda: subprocess.Popen("/bin/true", **options))  # noqa: B023  # called at once
        ours = raised_by(lambda: built(**options))  # noqa: B023  # likewise
        assert type(ours) is type(theirs), options
        if type(ours) is not OverflowError:
            assert str(ours) == str(theirs)


CAPABILITIES: Callable[..., Any] = aiovfork.Capabilities
WRONG: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: built(user=2**32 - 1), OverflowError, "greater than maximum"),
    (lambda: built(group=2**32 - 1), OverflowError, "greater than maximum"),
    (lambda: built(extra_groups=[2**32 - 1]), ValueError, "invalid group id"),
    (lambda: built(extra_groups=range(2**16 + 1)), ValueError, "too many extra_groups"),
    (lambda: built(rlimits=[(7, 1)]), TypeError, "rlimits must be a mapping"),
    (lambda: built(rlimits={"NOFILE": 1}), TypeError, "a resource of rlimits must be an integer"),
    (lambda: built(rlimits={16: 1}), ValueError, "invalid resource specified"),
    (lambda: built(rlimits={7: "5"}), TypeError, "RLIMIT_NOFILE must be an integer or a pair"),
    (lambda: built(rlimits={7: (1, 2, 3)}), ValueError, "RLIMIT_NOFILE must be a pair"),
    (lambda: built(rlimits={7: (2, 1)}), ValueError, "current limit exceeds maximum limit"),
    (lambda: built(rlimits={7: (-1, 1)}), ValueError, "current limit exceeds maximum limit"),
    (lambda: built(rlimits={7: -2}), ValueError, "RLIMIT_NOFILE must not be negative"),
    (lambda: built(rlimits={7: 2**64}), OverflowError, "too large"),
    (lambda: built(nice="5"), TypeError, "nice must be an integer"),
    (lambda: built(nice=2**31), OverflowError, "C int"),
    (lambda: built(cpu_affinity=[]), ValueError, "must name a CPU"),
    (lambda: built(cpu_affinity=[-1]), ValueError, "negative CPU number"),
    (lambda: built(cpu_affinity=[2**40]), OverflowError, "CPU number too large"),
    (lambda: built(cpu_affinity=3), TypeError, "cpu_affinity must be an iterable"),
    (lambda: built(scheduler=os.SCHED_FIFO), ValueError, "priorities from 1 to 99, not 0"),
    (lambda: built(scheduler=(os.SCHED_BATCH, 1)), ValueError, "priorities from 0 to 0, not 1"),
    (lambda: built(scheduler=99), ValueError, "no policy 99"),
    (lambda: built(scheduler=6), ValueError, "SCHED_DEADLINE"),
    (lambda: built(scheduler="batch"), TypeError, "scheduler must be an integer or a pair"),
    (lambda: built(io_priority=4), ValueError, "the class of io_priority"),
    (lambda: built(io_priority=(2, 8)), ValueError, "the level of io_priority"),
    (lambda: built(io_priority=(3, 1)), ValueError, "the level of IDLE"),
    (lambda: built(oom_score_adj=1001), ValueError, "oom_score_adj must be from -1000 to 1000"),
    (lambda: built(pdeathsig=0), ValueError, "no signal has the number 0"),
    (lambda: built(signal_mask=[65]), ValueError, "signal_mask: no signal has the number 65"),
    (lambda: built(signal_mask=[32]), ValueError, "no signal has the number 32"),
    (lambda: built(signal_mask="9"), TypeError, "signal_mask must be an iterable"),
    (lambda: built(default_signals=[9]), ValueError, "SIGKILL is always default"),
    (lambda: built(ignored_signals=[signal.SIGSTOP]), ValueError, "SIGSTOP is always default"),
    (lambda: built(chroot="a\0b"), ValueError, "embedded null byte"),
    (lambda: built(chroot=5), TypeError, "expected str, bytes or os.PathLike"),
    (lambda: built(cwd=True), TypeError, "a path or a descriptor, not bool"),
    (lambda: built(cwd=1.5), TypeError, "expected str, bytes or os.PathLike"),
    (lambda: built(controlling_tty=7), ValueError, "a descriptor that the child gets, not 7"),
    (lambda: built(controlling_tty=-1), ValueError, "a descriptor that the child gets, not -1"),
    (lambda: built(controlling_tty="0"), TypeError, "controlling_tty must be an integer"),
    (lambda: built(fd_map=[(5, 5)]), TypeError, "fd_map must be a mapping"),
    (lambda: built(fd_map={2: 5}), ValueError, "use stdin, stdout, stderr"),
    (lambda: built(fd_map={"5": 5}), TypeError, "a number of fd_map must be an integer"),
    (lambda: built(fd_map={5: "5"}), TypeError, "fd_map[5] must be a descriptor or a file"),
    (lambda: built(fd_map={5: 6}, pass_fds=[5]), ValueError, "its descriptor 5 twice"),
    (lambda: built(fd_map={3: 6}, listen_fds=[5]), ValueError, "its descriptor 3 twice"),
    (lambda: built(listen_fds={"a:b": 5}), ValueError, "without a colon"),
    (lambda: built(listen_fds={"": 5}), ValueError, "without a colon"),
    (lambda: built(listen_fds={"a" * 256: 5}), ValueError, "at most 255 characters"),
    (lambda: built(listen_fds={5: 5}), TypeError, "a name of listen_fds must be str"),
    (lambda: built(listen_fds=5), TypeError, "listen_fds must be an iterable"),
    (lambda: built(unshare=0x10000000), ValueError, "CLONE_NEWUSER"),
    (lambda: built(unshare=0x400), ValueError, "CLONE_FILES"),
    (lambda: built(unshare=1), ValueError, "flags of namespaces"),
    (lambda: built(capabilities={"CAP_KILL"}), TypeError, "capabilities must be Capabilities"),
    (lambda: CAPABILITIES(["CAP_NONE"]), ValueError, "no capability 'CAP_NONE'"),
    (lambda: CAPABILITIES("CAP_KILL"), TypeError, "ambient must be an iterable"),
    (lambda: CAPABILITIES(None, [64]), ValueError, "from 0 to 63"),
    (lambda: CAPABILITIES([1.5]), TypeError, "must be an integer"),
]


def test_wrong_values() -> None:
    """What cannot be had is refused at once, with a sentence that names the option."""
    for build, kind, message in WRONG:
        exc = raised_by(build)
        assert (type(exc), message in str(exc)) == (kind, True), (message, repr(exc))


TOGETHER: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"controlling_tty": 0}, ValueError, "needs start_new_session=True"),
    ({"chroot": "/", "cwd": 5}, ValueError, "cwd must be a path"),
    (
        {"pdeathsig": 9, "user": 0, "capabilities": aiovfork.Capabilities([])},
        ValueError,
        "needs a user other than root",
    ),
    ({"best_effort": ["user"]}, ValueError, "best_effort cannot hold 'user'"),
    ({"best_effort": "nice"}, TypeError, "best_effort must be an iterable"),
    ({"cgroup": "/", "own_cgroup": True}, ValueError, "cgroup cannot be given too"),
    ({"fd_map": {5: -1}}, OSError, "Bad file descriptor"),
    ({"cwd": -1}, OSError, "Bad file descriptor"),
    ({"cgroup": -1}, OSError, "Bad file descriptor"),
    ({"cgroup": "/no/such/folder"}, FileNotFoundError, "No such file or directory: '/no/such/folder'"),
    ({"cgroup": 1.5}, TypeError, "path should be"),
    ({"cgroup": "/etc/passwd"}, NotADirectoryError, "Not a directory: '/etc/passwd'"),
]


async def test_spawns_that_cannot_be() -> None:
    """What a call refuses by itself starts nothing and leaves no descriptor."""
    before = aiovfork.stats()
    for options, kind, message in TOGETHER:
        with pytest.raises(kind, match=message):
            await aiovfork.create_subprocess_exec("true", **options)
    assert aiovfork.stats() == before


async def test_a_cgroup_of_its_own_is_refused_everywhere() -> None:
    """cgroup= and a tree that is a cgroup of the child's own exclude each other."""
    with pytest.raises(ValueError, match="cgroup cannot be given too"):
        await aiovfork.run("true", tree="cgroup", cgroup="/")
    with pytest.raises(ValueError, match="cgroup cannot be given too"):
        aiovfork.lines("true", tree="cgroup", cgroup="/")
    async with aiovfork.ProcessGroup(teardown=aiovfork.Teardown(tree="cgroup")) as group:
        with pytest.raises(ValueError, match="cgroup cannot be given too"):
            await group.start("true", cgroup="/")


def test_an_iterator_can_be_read_twice() -> None:
    """What is iterated over once, a generator, becomes a tuple: a plan may be built more than once."""
    given = tuple(OPTIONS._replace(extra_groups=iter([5, 6]), pass_fds=(fd for fd in [7])))
    options = _checks.checked(given, in_shell=False)
    assert (options.extra_groups, options.pass_fds) == ((5, 6), (7,))


class Array:
    """What compares each of its items, as an array of numpy does."""

    def __init__(self, *items: int) -> None:
        self._items = items

    def __iter__(self) -> Any:
        return iter(self._items)

    def __eq__(self, other: object) -> bool:
        raise ValueError("the truth value of an array is ambiguous")

    __hash__ = None  # type: ignore[assignment]  # as there


def test_an_array_will_do() -> None:
    """An option is recognized as set whatever its comparison says or raises."""
    options = _checks.checked(
        tuple(OPTIONS._replace(cpu_affinity=Array(1), signal_mask=Array(2))), in_shell=False
    )
    block = _plan.build(_options.Command(("true",), None, None, None, options)).block
    assert {step[0] for step in steps_of(block)} >= {lib.AVF_STEP_CPU_AFFINITY, lib.AVF_STEP_SIGMASK}


def test_names_are_looked_up_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made of options may be remembered, but not what the name of a user or a group meant."""
    numbers = iter([5, 6, 7, 8])
    monkeypatch.setattr(
        "pwd.getpwnam", lambda name: pwd.struct_passwd(["", "", next(numbers), 0, "", "", ""])
    )
    monkeypatch.setattr("grp.getgrnam", lambda name: grp.struct_group(["", "", next(numbers), []]))
    for option, step in (("user", lib.AVF_STEP_SETUID), ("group", lib.AVF_STEP_SETGID)):
        assert value_of(option, "name", step) + 1 == value_of(option, "name", step)
    numbers = iter([5, 6])
    blocks = [built(extra_groups=[1, "name"]) for _ in range(2)]
    at = {len(block) - 16 for block in blocks}.pop()
    assert [struct.unpack_from("=3I", block, at) for block in blocks] == [(2, 1, 5), (2, 1, 6)]


def test_what_is_remembered_is_not_mixed_up() -> None:
    """Values that look alike are other values: True and 1, and arrays of the same bytes."""
    assert value_of("signal_mask", [1], lib.AVF_STEP_SIGMASK) == 1
    assert value_of("signal_mask", array.array("b", [2, 3]), lib.AVF_STEP_SIGMASK) == 0b110
    with pytest.raises(ValueError, match="no signal has the number"):
        built(signal_mask=array.array("h", bytes([2, 3])))
    built(cwd=b"/usr")
    with pytest.raises(TypeError):
        built(cwd=bytearray(b"/usr"))
    blocks = [built(rlimits={7: 5}, umask=mask, cwd=cwd) for mask in (1, 2) for cwd in ("/a", "/b")]
    assert len(set(blocks)) == 4
    assert blocks == [built(rlimits={7: 5}, umask=mask, cwd=cwd) for mask in (1, 2) for cwd in ("/a", "/b")]
    for number in range(1000):
        built(umask=number)  # there is no end of values, but one of memory
    assert len(_steps._memory) <= 128


def test_warnings_of_nothing() -> None:
    """No option by itself warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        built(fd_map={5: 5}, listen_fds=[4])
