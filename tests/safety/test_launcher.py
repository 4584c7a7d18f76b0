"""P2: children that change their credentials do so in an address space of their own."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Final

import pytest

from aiovfork import _binding
from aiovfork._binding import PLAN, lib
from tests.support.core import Port, Step, plan
from tests.support.hold import held_program
from tests.support.isolated import isolated
from tests.support.native import compiled
from tests.support.seccomp import prctl, refuse
from tests.support.view import read_status

LAUNCHER: Final = pathlib.Path(_binding.LAUNCHER)
#: Needs no right, and the launcher all the same.
AS_MYSELF: Final = Step(lib.AVF_STEP_SETUID, os.geteuid())
EX_USAGE: Final = 64
NOBODY: Final = 65534
_PR_GET_DUMPABLE: Final = 3
_PR_GET_KEEPCAPS: Final = 7
WALL: Final = 0x40000000  # __WALL, waitpid(2)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may start a program as another user")


@pytest.fixture
def port() -> Iterator[Port]:
    """A port of its own."""
    port = Port()
    yield port
    lib.avf_port_free(port.port)


def output_of(port: Port, *argv: str, **description: Any) -> bytes:
    """What a child writes to stdout until it exits with 0."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    with open(read_end, "rb") as pipe:
        port.spawn(*argv, stdout=write_end, **description)
        os.close(write_end)
        output = pipe.read()
    (exited,) = port.events(lib.AVF_EXITED, 1)
    assert exited.status == 0
    return output


def test_nothing_of_it_is_left_in_the_target(port: Port) -> None:
    """The target has its own name, arguments, program and environment, and no descriptor that it was not given."""
    script = """
import json, os
names = {}
for fd in os.listdir("/proc/self/fd"):
    try:
        names[fd] = os.readlink("/proc/self/fd/" + fd)
    except FileNotFoundError:
        pass  # the folder itself
print(json.dumps([sorted(names), open("/proc/self/cmdline").read().split("\\0")[1:3], os.readlink("/proc/self/exe"),
    open("/proc/self/environ").read(), open("/proc/self/maps").read().count("memfd"), list(os.environ)]))
"""
    found = output_of(port, sys.executable, "-Ic", script, steps=[AS_MYSELF], env={"GIVEN": "value"})
    fds, arguments, exe, environ, mapped, names = json.loads(found)
    assert fds == ["0", "1", "2"]
    assert arguments == ["-Ic", script]
    assert os.path.samefile(exe, sys.executable)
    assert (environ, mapped) == ("GIVEN=value\0", 0)
    assert set(names) <= {"GIVEN", "LC_CTYPE"}


def test_by_hand() -> None:
    """Somebody who runs it reads what it is; whatever the arguments, it says so and exits with 64."""
    for arguments in ([], ["3", "4"], ["0", "1"], ["x", "1"], ["99999999999", "2"], ["-1", "2"], ["", ""]):
        done = subprocess.run(
            [LAUNCHER, *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        assert (done.returncode, done.stdout) == (EX_USAGE, b"")
        assert b"aiovfork" in done.stderr


def launched_by_hand(content: bytes, *, sealed: bool) -> tuple[int, bytes]:
    """Its exit status, and its words, for a memfd with that content."""
    memfd = os.memfd_create("plan", os.MFD_ALLOW_SEALING)
    read_end, write_end = os.pipe()
    with open(read_end, "rb") as words, open(write_end, "wb") as told, open(memfd, "wb") as file:
        file.write(content)
        file.flush()
        if sealed:
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
            fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, seals)
        command = [str(LAUNCHER), str(memfd), str(write_end)]
        done = subprocess.run(command, pass_fds=(memfd, write_end), stderr=subprocess.DEVNULL, check=False)
        told.close()
        return done.returncode, words.read()


def test_it_trusts_no_plan() -> None:
    """It takes no plan that somebody could still change, and reads nothing of one that is not well-formed."""
    block = plan("true", steps=[AS_MYSELF])
    header = struct.pack("=QQiI32x", 0x314B524F46564F41, 0, os.getpid(), len(block))
    assert launched_by_hand(header + block, sealed=True)[0] == 0
    assert launched_by_hand(header + block, sealed=False) == (EX_USAGE, b"")
    assert launched_by_hand(header + block[:-1], sealed=True) == (EX_USAGE, b"")
    assert launched_by_hand(b"x" + (header + block)[1:], sealed=True) == (EX_USAGE, b"")
    version = block[:4] + struct.pack("=I", lib.AVF_PLAN_VERSION + 1) + block[8:]
    word = struct.pack("=ii", lib.AVF_STEP_LAUNCHER, -errno.EPROTO)
    assert launched_by_hand(header + version, sealed=True) == (127, word)
    broken = block[:4] + block[4 : PLAN.size] + block[PLAN.size :].replace(b"\0", b"x")
    assert launched_by_hand(header + broken, sealed=True)[0] == 127


def failure(port: Port, *argv: str, **description: Any) -> tuple[str, int]:
    """The step and the errno of a spawn that fails."""
    port.spawn(*argv, **description)
    (failed,) = port.events(lib.AVF_FAILED, 1)
    return _binding.step_name(failed.step), -failed.error


def test_failures_behind_it(port: Port) -> None:
    """What fails in the launcher is told with step and errno, as anywhere else; nothing is left to reap."""
    assert failure(port, "/no/such/program", steps=[AS_MYSELF]) == ("exec", errno.ENOENT)
    assert failure(port, "/etc", steps=[AS_MYSELF]) == ("exec", errno.EACCES)
    bad = Step(lib.AVF_STEP_PDEATHSIG, 1000)
    assert failure(port, "true", steps=[AS_MYSELF, bad]) == ("pdeathsig", errno.EINVAL)
    gone = Step(lib.AVF_STEP_CHROOT, b"/no/such/folder\0")
    assert failure(port, "true", steps=[AS_MYSELF, gone]) == ("chroot", errno.ENOENT)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG | WALL)


def _missing() -> tuple[str, int]:
    return failure(Port(), "/no/such/program", steps=[AS_MYSELF])


def test_its_last_word_is_heard() -> None:
    """A launcher whose end is seen before its last word has failed all the same: the word is looked for again."""
    env = {"LD_PRELOAD": compiled("late_poll")}
    assert isolated(_missing, env=env, check_leaks=False) == ["exec", errno.ENOENT]


def _missing_without_poll() -> tuple[str, int]:
    port = Port()
    refuse({"poll": "EPERM"})
    return failure(port, "/no/such/program", steps=[AS_MYSELF])


def test_without_poll() -> None:
    """Where a filter refuses poll the launcher's words are read all the same."""
    assert isolated(_missing_without_poll, check_leaks=False) == ["exec", errno.ENOENT]


def _without_rights() -> list[Any]:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    port = Port()
    groups = Step(lib.AVF_STEP_SETGROUPS, struct.pack("=II", 1, 5))
    return [
        failure(port, "true", steps=[step])
        for step in (
            groups,
            Step(lib.AVF_STEP_SETGID, 5),
            Step(lib.AVF_STEP_SETUID, 5),
            Step(lib.AVF_STEP_CAP_BOUNDING, 1),
            Step(lib.AVF_STEP_CAPABILITIES, 1),
        )
    ]


@needs_root
def test_failures_of_credentials() -> None:
    """Whoever may not change them hears which step was refused; the program has not run."""
    steps = ["setgroups", "setgid", "setuid", "capability bounding set", "capabilities"]
    assert isolated(_without_rights, check_leaks=False) == [[step, errno.EPERM] for step in steps]


_SETGID, _SETUID, _SETPCAP, _NET_BIND_SERVICE = 1 << 6, 1 << 7, 1 << 8, 1 << 10
_RIGHTS: Final = _SETGID | _SETUID | _SETPCAP | _NET_BIND_SERVICE
_PR_SET_KEEPCAPS: Final = 8
_PR_SET_DUMPABLE: Final = 4
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_RAISE: Final = 2


def _capable(effective: int, inheritable: int, ambient: int) -> None:
    """Become a user other than root who has some capabilities, as a daemon does that starts as root."""
    prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    header, sets = (
        struct.pack("=Ii", 0x20080522, 0),
        struct.pack("=6I", effective, _RIGHTS, inheritable, 0, 0, 0),
    )
    assert ctypes.CDLL(None).capset(header, sets) == 0
    for number in range(32):
        if ambient >> number & 1:
            prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number)
    prctl(_PR_SET_DUMPABLE, 1)


def _as_popen(effective: int, inheritable: int, ambient: int) -> list[Any]:
    port, show = Port(), ["grep", "^[UGC][ia][dp]", "/proc/self/status"]
    _capable(effective, inheritable, ambient)
    found: list[Any] = []
    for user in (NOBODY, 1):
        steps = [Step(lib.AVF_STEP_SETGID, user), Step(lib.AVF_STEP_SETUID, user)]
        forked = subprocess.run(show, user=user, group=user, stdout=subprocess.PIPE, check=True).stdout
        found.append([output_of(port, *show, steps=steps).decode(), forked.decode()])
    kept = [
        Step(lib.AVF_STEP_CAP_BOUNDING, _NET_BIND_SERVICE),
        Step(lib.AVF_STEP_CAPABILITIES, _NET_BIND_SERVICE),
    ]
    return [*found, output_of(port, *show, steps=kept).decode(), prctl(_PR_GET_DUMPABLE)]


@needs_root
@pytest.mark.parametrize(
    ("inheritable", "ambient"),
    [(0, 0), (_SETUID | _SETPCAP, _SETUID), (_RIGHTS, _RIGHTS)],
    ids=["0", "1", "all"],
)
def test_capabilities_of_a_user_other_than_root(inheritable: int, ambient: int) -> None:
    """P2. Capabilities that are not ambient serve the launcher, as they serve a fork; no program gets one of them."""
    *found, kept, dumpable = isolated(_as_popen, _RIGHTS, inheritable, ambient, check_leaks=False)
    for launched, forked in found:
        assert launched == forked
    assert kept.count(f"{_NET_BIND_SERVICE:016x}") == 5
    assert dumpable == 1


def _ineffective() -> tuple[str, int]:
    port = Port()
    _capable(_SETGID, 0, 0)
    return failure(port, "true", steps=[Step(lib.AVF_STEP_SETGID, 1), Step(lib.AVF_STEP_SETUID, 1)])


@needs_root
def test_a_capability_that_is_not_effective() -> None:
    """What the caller could use, and does not, the launcher does not use."""
    assert isolated(_ineffective, check_leaks=False) == ["setuid", errno.EPERM]


def _forgotten(how: str) -> tuple[str, int]:
    if how == "ids":
        os.setegid(1)
    else:
        less = int(read_status(pathlib.Path("/proc/self/status").read_text())["CapPrm"], 16) & ~1
        header, sets = (
            struct.pack("=Ii", 0x20080522, 0),
            [less & 2**32 - 1] * 2 + [0] + [less >> 32] * 2 + [0],
        )
        assert ctypes.CDLL(None).capset(header, struct.pack("=6I", *sets)) == 0
    port, signal_step = Port(), Step(lib.AVF_STEP_PDEATHSIG, signal.SIGKILL)
    return failure(port, "true", steps=[signal_step])


@needs_root
@pytest.mark.parametrize("how", ["ids", "capabilities"])
def test_a_death_signal_that_exec_would_clear(how: str) -> None:
    """P9. Where Linux forgets a parent-death signal at exec, whatever the program is, the spawn fails and says so."""
    assert isolated(_forgotten, how, check_leaks=False) == ["pdeathsig", errno.EPERM]


def _from(folder: str, uid: int) -> Any:
    port = Port()
    assert lib.avf_set_launcher(os.fsencode(f"{folder}/_launcher")) == 0
    if uid:
        return output_of(port, "id", "-u", steps=[Step(lib.AVF_STEP_SETUID, uid)]).decode()
    return [failure(port, "true", steps=[AS_MYSELF]), _binding.probe().launcher]


@needs_root
def test_the_user_need_not_reach_the_package(tmp_path: pathlib.Path) -> None:
    """A user who may not read the folder of the package starts programs all the same."""
    shutil.copy(LAUNCHER, tmp_path / "_launcher")
    tmp_path.chmod(0o700)
    assert isolated(_from, str(tmp_path), NOBODY, check_leaks=False) == f"{NOBODY}\n"


def test_a_package_without_it(tmp_path: pathlib.Path) -> None:
    """A launcher that is missing, or may not be executed, is named, and the probe has said so."""
    assert isolated(_from, str(tmp_path), 0, check_leaks=False) == [["launcher", errno.ENOENT], -errno.ENOENT]
    shutil.copy(LAUNCHER, tmp_path / "_launcher")
    (tmp_path / "_launcher").chmod(0o600)
    assert isolated(_from, str(tmp_path), 0, check_leaks=False) == [["launcher", errno.EACCES], -errno.EACCES]


@needs_root
def test_on_a_mount_without_exec(tmp_path: pathlib.Path) -> None:
    """On a file system mounted noexec the step and EACCES tell."""
    unshare = shutil.which("unshare")
    assert unshare
    mount = f'mount -t tmpfs -o noexec none {tmp_path} && cp {LAUNCHER} {tmp_path}/_launcher && exec "$@"'
    found = isolated(
        _from, str(tmp_path), 0, check_leaks=False, prefix=[unshare, "-m", "sh", "-c", mount, "sh"]
    )
    assert found == [["launcher", errno.EACCES], -errno.EACCES]


def test_the_window_is_over_when_it_runs(port: Port, tmp_path: pathlib.Path) -> None:
    """P12. A launcher whose exec hangs holds up no setgid() of this process; cancelled, it is killed and reaped."""
    with held_program(tmp_path) as (program, wait_reached):
        ticket = port.spawn(program, steps=[AS_MYSELF])
        wait_reached()
        os.setgid(os.getgid())
        assert lib.avf_cancel(ticket, -errno.ECANCELED) == 0
        (failed,) = port.events(lib.AVF_FAILED, 1)
        assert (_binding.step_name(failed.step), failed.error) == ("exec", -errno.ECANCELED)
        assert failed.flags & lib.AVF_LAUNCHER
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG | WALL)


def test_killed_before_exec(port: Port, tmp_path: pathlib.Path) -> None:
    """A launcher that somebody kills is a failed spawn or a program that died so: never one that has not ended."""
    with held_program(tmp_path) as (program, wait_reached):
        ticket = port.spawn(program, steps=[AS_MYSELF])
        wait_reached()
        (child,) = children_of(os.getpid())
        os.kill(child, signal.SIGKILL)
        assert lib.avf_kill(ticket, 0) in (0, -errno.ESRCH)
        (exited,) = port.events(lib.AVF_EXITED, 1)
        assert exited.status == signal.SIGKILL


def children_of(pid: int) -> list[int]:
    """The children of a process."""
    return [
        int(child)
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def state() -> dict[str, Any]:
    """What a process has of its own that a child could have changed."""
    status = read_status(pathlib.Path("/proc/self/status").read_text())
    names = "Umask Uid Gid Groups SigBlk SigIgn SigCgt CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp".split()
    limits = pathlib.Path("/proc/self/limits").read_text()
    return {
        "dumpable": prctl(_PR_GET_DUMPABLE),
        "keepcaps": prctl(_PR_GET_KEEPCAPS),
        "owner": os.stat("/proc/self/mem").st_uid,
        "cwd": os.getcwd(),
        "root": os.stat("/proc/self/root/.").st_ino,
        "session": [os.getsid(0), os.getpgid(0)],
        "nice": [
            os.getpriority(os.PRIO_PROCESS, 0),
            os.sched_getscheduler(0),
            sorted(os.sched_getaffinity(0)),
        ],
        "oom": pathlib.Path("/proc/self/oom_score_adj").read_text(),
        "namespaces": sorted(str(link.readlink()) for link in pathlib.Path("/proc/self/ns").iterdir()),
        "limits": limits,
        "fds": sorted(os.listdir("/proc/self/fd")),
        **{name: status[name] for name in names if name in status},
    }


#: One of each kind of step that a child of root can do.
EVERY_STEP: Final = [
    Step(lib.AVF_STEP_OOM_SCORE_ADJ, 500),
    Step(lib.AVF_STEP_UNSHARE, 0x04000000),  # CLONE_NEWUTS
    Step(lib.AVF_STEP_CHROOT, b"/\0"),
    Step(lib.AVF_STEP_CHDIR, b"/tmp\0"),
    Step(lib.AVF_STEP_UMASK, 0o77),
    Step(lib.AVF_STEP_DEFAULT_SIGNALS, 1 << (signal.SIGUSR1 - 1)),
    Step(lib.AVF_STEP_IGNORED_SIGNALS, 1 << (signal.SIGUSR2 - 1)),
    Step(lib.AVF_STEP_SETSID),
    Step(lib.AVF_STEP_RLIMIT, struct.pack("=QQ", 50, 60), resource.RLIMIT_NOFILE),
    Step(lib.AVF_STEP_NICE, 3),
    Step(lib.AVF_STEP_SCHEDULER, os.SCHED_BATCH),
    Step(lib.AVF_STEP_CPU_AFFINITY, struct.pack("=IIQ", 8, 0, 1)),
    Step(lib.AVF_STEP_IO_PRIORITY, 3 << 13),
    Step(lib.AVF_STEP_CAP_BOUNDING, (1 << 10) | (1 << 6) | (1 << 7) | (1 << 8)),
    Step(lib.AVF_STEP_SETGROUPS, struct.pack("=III", 2, 3, 4)),
    Step(lib.AVF_STEP_SETGID, NOBODY),
    Step(lib.AVF_STEP_SETUID, NOBODY),
    Step(lib.AVF_STEP_CAPABILITIES, 1 << 10),
    Step(lib.AVF_STEP_NO_NEW_PRIVS),
    Step(lib.AVF_STEP_PDEATHSIG, signal.SIGKILL),
    Step(lib.AVF_STEP_SIGMASK, 1 << (signal.SIGHUP - 1)),
]


def _some_steps(chosen: random.Random) -> list[Step]:
    """Steps that can be had together: root that gives capabilities up regains them by exec, which costs the signal."""
    steps = chosen.sample(EVERY_STEP, chosen.randrange(len(EVERY_STEP) + 1))
    kinds = {step.step for step in steps}
    forgets = lib.AVF_STEP_CAPABILITIES in kinds and not kinds & {
        lib.AVF_STEP_SETUID,
        lib.AVF_STEP_NO_NEW_PRIVS,
    }
    return [step for step in steps if not (forgets and step.step == lib.AVF_STEP_PDEATHSIG)]


def _mixed(spawns: int, seed: int) -> list[dict[str, Any]]:
    port = Port()
    port.spawn("true", steps=[AS_MYSELF])
    port.events(lib.AVF_EXITED, 1)
    chosen = random.Random(seed)  # noqa: S311  # no secret
    before = state()
    for _ in range(spawns // 16):
        for _ in range(16):
            port.spawn("true", steps=_some_steps(chosen))
        port.events(lib.AVF_EXITED, 16)
    after = state()
    lib.avf_port_free(port.port)
    return [before, after]


@needs_root
@pytest.mark.parametrize("spawns", [320, pytest.param(10_000, marks=pytest.mark.slow)])
def test_the_parent_stays_what_it_is(spawns: int) -> None:
    """P2. Whatever steps its children take, a process keeps its own credentials, limits, folder and all the rest."""
    before, after = isolated(_mixed, spawns, 1, check_leaks=False, timeout=600)
    assert after == before


def _attacked(program: str, spawns: int) -> list[Any]:
    canary = ctypes.create_string_buffer(b"untouched")
    port = Port()
    before = prctl(_PR_GET_DUMPABLE)
    command = [program, str(os.getpid()), str(ctypes.addressof(canary))]
    attacker = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, user=NOBODY, group=NOBODY, extra_groups=[]
    )
    assert attacker.stdin
    assert attacker.stdout
    assert attacker.stdout.readline() == b"ready\n"
    steps = [Step(lib.AVF_STEP_SETGID, NOBODY), Step(lib.AVF_STEP_SETUID, NOBODY)]
    for _ in range(spawns // 8):
        for _ in range(8):
            port.spawn("true", steps=[Step(lib.AVF_STEP_SETGROUPS, struct.pack("=I", 0)), *steps])
        port.events(lib.AVF_EXITED, 8)
    output, _ = attacker.communicate()
    reached, children = map(int, output.split())
    lib.avf_port_free(port.port)
    return [reached, children > 0, canary.value.decode(), prctl(_PR_GET_DUMPABLE) == before]


@needs_root
def test_an_attack_by_the_user_of_the_child() -> None:
    """P2. A process of the user that children become gets at neither the memory nor the life of their parent."""
    program = compiled("attacker", shared=False)
    assert isolated(_attacked, program, 400, check_leaks=False) == [0, True, "untouched", True]


def test_exits_that_somebody_else_reaps(port: Port) -> None:
    """P5. Where somebody reaps every child that he can get, a status is true or said to be unknown."""
    for code in range(20):
        port.spawn("sh", "-c", f"exit {code}", steps=[AS_MYSELF])
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-1, WALL)
        (exited,) = port.events(lib.AVF_EXITED, 1)
        assert exited.status == code << 8 or exited.flags & lib.AVF_STATUS_UNKNOWN
