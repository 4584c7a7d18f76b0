"""Each step of a child fails for real, and the error says which: type, errno, step, and what to do about it."""

from __future__ import annotations

import errno
import os
import pathlib
import resource
import signal
from typing import Any, Final

import pytest

import aiovfork
from aiovfork import _binding, _steps
from aiovfork._binding import lib, step_name
from tests.support.isolated import isolated
from tests.support.seccomp import refuse, refuse_flag

NOBODY: Final = 65534
_NO_BITS_IN_COMMON: Final = 8  # of SIGTERM and SIGXFSZ, and not of SIGINT, which the loop's runner sets

Failure = list[Any]
#: Options, type, errno, step, and a part of the note.
Expected = tuple[dict[str, Any], type[OSError], int, str, str]

#: Of any caller.
OF_ANYBODY: Final[list[Expected]] = [
    ({"cwd": "/no/such/folder"}, FileNotFoundError, errno.ENOENT, "chdir", "the directory cwd"),
    ({"cwd": "/proc/self/exe"}, NotADirectoryError, errno.ENOTDIR, "chdir", ""),
    (
        {"start_new_session": True, "process_group": 0},
        PermissionError,
        errno.EPERM,
        "setpgid",
        "the child leads a session",
    ),
    (
        {"controlling_tty": 0, "start_new_session": True},
        OSError,
        errno.ENOTTY,
        "controlling tty",
        "it is no terminal",
    ),
    (
        {"foreground": True, "start_new_session": True},
        OSError,
        errno.ENXIO,
        "foreground",
        "no controlling terminal",
    ),
    ({"cpu_affinity": [60000]}, OSError, errno.EINVAL, "cpu affinity", "none of them is there"),
    ({"cgroup": "/no/such/cgroup"}, FileNotFoundError, errno.ENOENT, "cgroup", "no such cgroup"),
    ({"cgroup": "/"}, OSError, errno.EBADF, "cgroup", "not the folder of a cgroup"),
    ({"cgroup": 99_999}, OSError, errno.EBADF, "cgroup", "not the folder of a cgroup"),
    ({"fd_map": {9: 990}}, OSError, errno.EBADF, "dup fds", "not open"),
    ({"cwd": 990}, OSError, errno.EBADF, "dup fds", "not open"),
    ({"fd_map": {2**31 - 1: 0}}, OSError, errno.EBADF, "pass fds", "above RLIMIT_NOFILE"),
]
#: Of one who has no capability.
OF_NOBODY: Final[list[Expected]] = [
    ({"oom_score_adj": -900}, PermissionError, errno.EACCES, "oom_score_adj", "CAP_SYS_RESOURCE"),
    ({"unshare": 0x40000000}, PermissionError, errno.EPERM, "unshare", "CAP_SYS_ADMIN"),
    ({"chroot": "/"}, PermissionError, errno.EPERM, "chroot", "CAP_SYS_CHROOT"),
    (
        {"rlimits": {resource.RLIMIT_CORE: 0, resource.RLIMIT_NICE: 5}},
        PermissionError,
        errno.EPERM,
        "rlimit RLIMIT_NICE",
        "CAP_SYS_RESOURCE",
    ),
    ({"nice": -5}, PermissionError, errno.EACCES, "nice", "CAP_SYS_NICE or RLIMIT_NICE"),
    ({"scheduler": (os.SCHED_FIFO, 5)}, PermissionError, errno.EPERM, "scheduler", "RLIMIT_RTPRIO"),
    ({"io_priority": 1}, PermissionError, errno.EPERM, "io priority", "CAP_SYS_NICE"),
    (
        {"capabilities": aiovfork.Capabilities(bounding=[])},
        PermissionError,
        errno.EPERM,
        "capability bounding set",
        "CAP_SETPCAP",
    ),
    ({"extra_groups": [0]}, PermissionError, errno.EPERM, "setgroups", "CAP_SETGID"),
    ({"group": 0}, PermissionError, errno.EPERM, "setgid", "CAP_SETGID"),
    ({"user": 0}, PermissionError, errno.EPERM, "setuid", "CAP_SETUID"),
    (
        {"capabilities": aiovfork.Capabilities(["CAP_KILL"])},
        PermissionError,
        errno.EPERM,
        "capabilities",
        "does not have one of them",
    ),
]
#: Where a filter of system calls refuses the calls.
FILTERED: Final[list[Expected]] = [
    ({"restore_signals": True}, PermissionError, errno.EPERM, "restore signals", "a filter"),
    ({"umask": 0o22}, OSError, errno.ENOSYS, "umask", "a filter"),
    ({"start_new_session": True}, OSError, errno.ENOSYS, "setsid", "a filter"),
    ({"default_signals": [signal.SIGTERM]}, PermissionError, errno.EPERM, "default signals", "a filter"),
    ({"ignored_signals": [signal.SIGTERM]}, PermissionError, errno.EPERM, "ignored signals", "a filter"),
    ({"no_new_privs": True}, OSError, errno.ENOSYS, "no_new_privs", "a filter"),
    ({"pdeathsig": 9}, OSError, errno.ENOSYS, "pdeathsig", "a filter"),
    (
        {"capabilities": aiovfork.Capabilities(bounding=[])},
        OSError,
        errno.ENOSYS,
        "capability bounding set",
        "dropping capabilities",
    ),
]
#: What fails in no child that Linux lets come so far, or is provoked in another test.
ELSEWHERE: Final = {"sigmask"}


async def _failures(expected: list[Expected]) -> list[Failure]:
    """What each spawn raises."""
    found = []
    for options, kind, *_ in expected:
        with pytest.raises(aiovfork.SpawnError) as info:
            await aiovfork.create_subprocess_exec("true", stdin=aiovfork.DEVNULL, **options)
        exc = info.value
        found.append([isinstance(exc, kind), exc.errno, exc.step, "".join(exc.__notes__)])
    return found


async def _of_anybody() -> list[Failure]:
    return await _failures(OF_ANYBODY)


def _become_nobody() -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)


def _can_become_nobody() -> bool:
    status = pathlib.Path("/proc/self/status").read_text()
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    return os.geteuid() != 0 or effective >> 6 & 3 == 3  # CAP_SETGID, CAP_SETUID


nobody = pytest.mark.skipif(not _can_become_nobody(), reason="root without CAP_SETUID stays root")


async def _of_nobody() -> list[Failure]:
    _become_nobody()
    return await _failures(OF_NOBODY)


async def _filtered() -> list[Failure]:
    await aiovfork.run("true")  # what is probed or loaded once is by now
    refuse_flag("rt_sigaction", 0, _NO_BITS_IN_COMMON, "EPERM")
    refuse(dict.fromkeys(("umask", "setsid", "prctl"), errno.ENOSYS))
    alone: list[Expected] = [
        ({"restore_signals": False, **options}, kind, number, step, note)
        for options, kind, number, step, note in FILTERED
    ]
    return await _failures(alone)


def check(found: list[Failure], expected: list[Expected]) -> None:
    """Compare what was raised with a table."""
    for (options, _, number, step, note), failure in zip(expected, found, strict=True):
        assert failure[:3] == [True, number, step], options
        assert note in failure[3]
        assert f"failed at step {step!r}" in failure[3]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(_of_anybody, OF_ANYBODY, id="anybody"),
        pytest.param(_of_nobody, OF_NOBODY, id="nobody", marks=nobody),
        pytest.param(_filtered, FILTERED, id="filtered"),
    ],
)
def test_a_step_that_fails(body: Any, expected: list[Expected]) -> None:
    """P4. The error is of the stdlib's type, with errno, the step and the reason; nothing is left of the child."""
    check(isolated(body, loop="asyncio"), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(_of_anybody, OF_ANYBODY, id="anybody"),
        pytest.param(_of_nobody, OF_NOBODY, id="nobody", marks=nobody),
    ],
)
def test_a_step_that_fails_is_told_through_a_pipe(body: Any, expected: list[Expected]) -> None:
    """P4. The same where the report comes through a pipe, as where vfork shares no memory."""
    check(isolated(body, loop="uvloop", env={"AIOVFORK_REPORT": "pipe"}), expected)


def test_no_step_is_missing() -> None:
    """A new step cannot be forgotten here."""
    tried = {step.split(" RLIMIT_")[0] for *_, step, _ in [*OF_ANYBODY, *OF_NOBODY, *FILTERED]}
    names = {step_name(number).removesuffix(" RLIMIT_CPU") for _, number, _ in _steps.STEPS}
    assert names <= tried | ELSEWHERE
    assert lib.AVF_STEP_MASK > lib.AVF_STEP_COUNT


async def _not_applied() -> list[Any]:
    _become_nobody()
    names = ["nice", "cpu_affinity", "scheduler", "io_priority", "oom_score_adj", "rlimits", "foreground"]
    options: dict[str, Any] = {
        "nice": -5,
        "cpu_affinity": [60000],
        "scheduler": (os.SCHED_FIFO, 5),
        "io_priority": 1,
        "oom_score_adj": -900,
        "rlimits": {resource.RLIMIT_CORE: 0, resource.RLIMIT_NICE: 5, resource.RLIMIT_RTPRIO: 5},
        "foreground": True,
    }
    done = await aiovfork.run("sh", "-c", "ulimit -c", best_effort=names, start_new_session=True, **options)
    process = await aiovfork.create_subprocess_exec("true", best_effort=("nice",), nice=-5)
    await process.wait()
    with pytest.raises(aiovfork.SpawnError) as info:
        await aiovfork.run("true", best_effort=["nice"], nice=-5, oom_score_adj=-900)
    return [
        done.stdout.decode(),
        done.spawn_info.not_applied,
        process.spawn_info.not_applied,
        info.value.step,
    ]


@nobody
def test_best_effort() -> None:
    """What could not be had is noted with its errno, the rest is applied; an option that is not named is fatal."""
    output, of_run, of_process, step = isolated(_not_applied, loop="asyncio")
    assert output == "0\n"
    assert of_run == {
        "oom_score_adj": errno.EACCES,
        "foreground": errno.ENXIO,
        "rlimit RLIMIT_NICE": errno.EPERM,
        "rlimit RLIMIT_RTPRIO": errno.EPERM,
        "nice": errno.EACCES,
        "scheduler": errno.EPERM,
        "cpu affinity": errno.EINVAL,
        "io priority": errno.EPERM,
    }
    assert of_process == {"nice": errno.EACCES}
    assert step == "oom_score_adj"


async def _without_clone3() -> Failure:
    refuse({"clone3": "ENOSYS"})
    (failure,) = await _failures([({"cgroup": "/sys/fs/cgroup"}, OSError, errno.ENOSYS, "cgroup", "clone3")])
    await aiovfork.run("true")
    return failure


def test_a_cgroup_fails_closed() -> None:
    """P4. Where clone3 is refused, no child is started outside of the cgroup that was asked for."""
    assert isolated(_without_clone3, loop="asyncio")[1:3] == [errno.ENOSYS, "cgroup"]


def test_the_launcher_is_there() -> None:
    """The probe has found that the launcher can be executed."""
    assert _binding.probe().launcher == 0
