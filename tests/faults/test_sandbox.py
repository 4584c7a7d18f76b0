"""System calls that a sandbox refuses: something else is used, or the failure names its step."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import pathlib
import resource
import shutil
import signal
from typing import Any, Final

import pytest

import aiovfork
from aiovfork import PIPE, _binding
from tests.support.backends import LOOP_FACTORIES
from tests.support.isolated import isolated
from tests.support.seccomp import SYSCALLS, refuse, refuse_flag
from tests.support.view import STOPPED, open_files, wait_stopped

pytestmark = pytest.mark.skipif(
    "execve" not in SYSCALLS, reason="knows the system calls of x86-64 and aarch64 only"
)

MODES: Final = [(engine, report) for engine in ("clone3", "clone") for report in ("memory", "pipe")]
_UNSHARE: Final = 2


async def _spawn_all_ways() -> list[Any]:
    """Spawn with success, with failure, with pipes, and with secrets around. Returns what was seen."""
    secrets = [os.open("/dev/zero", os.O_RDONLY) for _ in range(10)]
    try:
        for fd in secrets:
            os.set_inheritable(fd, True)
        process = await aiovfork.create_subprocess_exec(*STOPPED, stdin=PIPE, pass_fds=secrets[:1])
        wait_stopped(process.pid)
        passed = sorted(fd for fd in open_files(process.pid)[0] if fd > 2) == secrets[:1]
        process.kill()
        await process.wait()
    finally:
        for fd in secrets:
            os.close(fd)
    failures = []
    for argv, options in [(["/no/such/program"], {}), (["true"], {"cwd": "/no/such/directory"})]:
        try:
            await aiovfork.create_subprocess_exec(*argv, **options)  # type: ignore[arg-type]
        except OSError as exc:
            failures.append([exc.errno, exc.step])  # type: ignore[attr-defined]
    return [passed, failures, *process.spawn_info[:3]]


_FINE: Final = [True, [[errno.ENOENT, "exec"], [errno.ENOENT, "chdir"]]]


async def _confined(after_a_spawn: bool, calls: dict[str, str]) -> list[Any]:
    if after_a_spawn:
        await _spawn_all_ways()
    refuse(calls)
    return [await _spawn_all_ways() for _ in range(2)]


@pytest.mark.parametrize("after_a_spawn", [True, False], ids=["after a spawn", "from the start"])
@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_clone3_is_missing(loop: str, after_a_spawn: bool) -> None:
    """A sandbox without clone3 (ENOSYS), which may come after the first spawn: libc's clone takes its place."""
    found = isolated(_confined, after_a_spawn, {"clone3": "ENOSYS"}, loop=loop)
    for seen in found:
        assert seen[:3] == [*_FINE, "clone"]


async def _without_clone3(error: str) -> list[Any]:
    await _spawn_all_ways()
    refuse({"clone3": error})
    try:
        return await _spawn_all_ways()
    except OSError as exc:
        return [exc.errno, exc.step]  # type: ignore[attr-defined]


@pytest.mark.parametrize("error", ["EPERM", "EINVAL"])
def test_clone3_is_refused(error: str) -> None:
    """clone3 refused with EPERM or EINVAL, as by old container profiles: clone, where libc can still make a thread."""
    found = isolated(_without_clone3, error, loop="asyncio")
    # glibc from 2.34 on makes threads by clone3 and takes no errno but ENOSYS for its absence.
    assert found[:3] == [*_FINE, "clone"] or found[:2] == [errno.__dict__[error], "thread"]


async def _close_range_refused(after_a_spawn: bool, error: str | None, mode: list[str]) -> list[Any]:
    if after_a_spawn:
        await _spawn_all_ways()
    if error is None:
        refuse_flag("close_range", 2, _UNSHARE, "EPERM")
    else:
        refuse({"close_range": error})
    _binding.force(*mode)  # type: ignore[arg-type]
    return [await _spawn_all_ways() for _ in range(2)]


@pytest.mark.parametrize("mode", MODES, ids="-".join)
@pytest.mark.parametrize("error", ["ENOSYS", "EPERM", None], ids=str)
def test_close_range_is_refused(error: str | None, mode: tuple[str, str]) -> None:
    """P8. Without close_range, or only without its UNSHARE: no descriptor reaches a child that was not passed."""
    for after_a_spawn in (True, False):
        found = isolated(_close_range_refused, after_a_spawn, error, mode, loop="asyncio")
        assert found == [[*_FINE, *mode, False]] * 2


async def _without_close_range_and_proc() -> list[Any]:
    refuse({"close_range": "ENOSYS"})
    assert not os.path.exists("/proc/self")
    with pytest.raises(OSError) as info:  # noqa: PT011  # the errno is what is returned
        await aiovfork.create_subprocess_exec("true")
    failure = [info.value.errno, info.value.step]  # type: ignore[attr-defined]
    process = await aiovfork.create_subprocess_exec("true", close_fds=False)
    return [failure, await process.wait()]


def test_neither_close_range_nor_proc() -> None:
    """P4, P8. Where descriptors cannot be closed the spawn fails and says so: it never starts with all of them open."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare (util-linux), for a /proc that is empty")
    hide_proc = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"]
    found = isolated(_without_close_range_and_proc, loop="asyncio", prefix=hide_proc, check_leaks=False)
    assert found == [[errno.ENOENT, "close fds"], 0]


async def _refused(calls: dict[str, str], options: dict[str, Any]) -> list[Any]:
    await _spawn_all_ways()
    refuse(calls)
    found = []
    for mode in MODES:
        _binding.force(*mode)
        try:
            await aiovfork.create_subprocess_exec("true", stdout=PIPE, **options)
        except OSError as exc:
            found.append([exc.errno, exc.step, exc.filename])  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize(
    ("call", "options", "filename"),
    [("execve", {}, "true"), ("chdir", {"cwd": "/"}, "/")],
    ids=["execve", "chdir"],
)
@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
def test_a_step_is_refused(call: str, error: str, options: dict[str, Any], filename: str) -> None:
    """P4. A step that the sandbox refuses fails with the sandbox's errno and its own name, in every mode."""
    found = isolated(_refused, {call: error}, options, loop="asyncio")
    assert found == [[errno.__dict__[error], "exec" if call == "execve" else call, filename]] * len(MODES)


async def _note_of_a_refusal(calls: dict[str, str]) -> list[Any]:
    refuse(calls)
    with pytest.raises(OSError) as info:  # noqa: PT011  # which one is returned
        await aiovfork.create_subprocess_exec("true")
    return [info.value.step, info.value.__notes__[0]]  # type: ignore[attr-defined]


def test_a_refusal_is_not_taken_for_an_old_kernel() -> None:
    """P4. Where the sandbox refuses what every spawn needs, the note says so, and how to find out what it is."""
    calls = {"waitid": "EPERM"}
    step, note = isolated(_note_of_a_refusal, calls, loop="asyncio", check_leaks=False)  # which asks waitid
    assert step in {"probe", "wait"}
    assert "a filter of system calls" in note
    assert "python -m aiovfork doctor" in note


def _in_another_pid_namespace() -> list[Any]:
    new_pid_namespace = 0x20000000

    async def body() -> list[Any]:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(new_pid_namespace):
            return [ctypes.get_errno()]
        with pytest.raises(OSError) as info:  # noqa: PT011  # which one is returned
            await aiovfork.create_subprocess_exec("true")
        return [info.value.errno, info.value.__notes__[0]]

    return asyncio.run(body())


def test_a_thread_that_has_left_its_pid_namespace() -> None:
    """P4. After unshare(CLONE_NEWPID) Linux gives a thread no worker: EINVAL, and the note says why."""
    found = isolated(_in_another_pid_namespace)
    if found == [errno.EPERM]:
        pytest.skip("needs the right to make a pid namespace")
    assert found[0] == errno.EINVAL
    assert "unshare(CLONE_NEWPID)" in found[1]


async def _without_signals_by_pidfd() -> list[Any]:
    process = await aiovfork.create_subprocess_exec("cat", stdin=PIPE)
    refuse({"pidfd_send_signal": "EPERM"})
    process.terminate()
    return [await process.wait()]


def test_signals_by_pidfd_are_refused_later() -> None:
    """A child that nobody has reaped is signalled by its pid where a later filter forbids the pidfd."""
    assert isolated(_without_signals_by_pidfd, loop="asyncio") == [-signal.SIGTERM]


async def _signals_by_pidfd_refused_before(error: str) -> list[Any]:
    refuse({"pidfd_send_signal": error})
    try:
        await aiovfork.create_subprocess_exec("true")
    except OSError as exc:
        return [exc.errno, exc.step, aiovfork.stats().alive]  # type: ignore[attr-defined]
    return []


@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
def test_signals_by_pidfd_are_refused_before(error: str) -> None:
    """No child is started that could not be ended: the spawn fails at once, with the sandbox's errno."""
    found = isolated(_signals_by_pidfd_refused_before, error, loop="asyncio")
    assert found == [errno.__dict__[error], "probe", 0]


async def _signals_refused_altogether() -> list[Any]:
    process = await aiovfork.create_subprocess_exec("cat", stdin=PIPE)
    refuse({"pidfd_send_signal": "EPERM", "kill": "EPERM"})
    found = []
    try:
        process.terminate()
    except OSError as exc:
        found.append(exc.errno)
    assert process.stdin is not None
    process.stdin.close()
    return [*found, await process.wait()]


def test_signals_are_refused_altogether() -> None:
    """A signal that the sandbox does not let pass is a PermissionError, not silence."""
    assert isolated(_signals_refused_altogether, loop="asyncio") == [errno.EPERM, 0]


async def _without_kcmp() -> list[Any]:
    refuse({"kcmp": "EPERM"})
    return list(await asyncio.gather(*(_spawn_all_ways() for _ in range(6))))


def test_kcmp_is_refused() -> None:
    """P8. Where kcmp cannot tell that descriptors are the same, each spawn has its own duplicates, and none leaks."""
    assert [seen[:2] for seen in isolated(_without_kcmp, loop="asyncio")] == [_FINE] * 6


async def _many_open() -> list[Any]:
    """Spawn with sources on high numbers, where the table is copied and not unshared."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))  # the soft one is often 1,024
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1500)]
    try:
        return await _spawn_all_ways()
    finally:
        for fd in held:
            os.close(fd)


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_many_open_descriptors(loop: str, tmp_path: pathlib.Path) -> None:
    """P7, P8. More than a thousand open descriptors: no difference to the child."""
    assert isolated(_many_open, loop=loop)[:2] == _FINE
