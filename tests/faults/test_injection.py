"""Every system call of worker and child fails in every way that is thinkable: an error with its step, or success."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from typing import Any, Final

import pytest

import aiovfork
from aiovfork import DEVNULL, PIPE, _binding
from tests.support.isolated import isolated
from tests.support.mailboxes import many_open
from tests.support.seccomp import SYSCALLS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
    pytest.mark.skipif("execve" not in SYSCALLS, reason="knows the system calls of x86-64 and aarch64 only"),
]

ERRORS: Final = ["EPERM", "EINTR", "EMFILE", "ENOMEM", "EAGAIN", "ENOSYS"]
#: System calls, and how often at most one thread or child makes them in a spawn. Not close: one that fails without
#: having closed is a leak by definition. Not those that cannot fail (rt_sigprocmask, clock_gettime).
CALLS: Final = {
    "pipe2": 3,
    "fcntl": 3,
    "clone3": 1,
    "epoll_ctl": 1,
    "close_range": 2,
    "kcmp": 1,
    "rt_sigaction": 3,
    "dup3": 3,
    "openat": 1,
    "chdir": 1,
    "umask": 1,
    "setsid": 1,
    "execve": 1,
    "prctl": 1,
}


@contextlib.contextmanager
def _injected(call: str, what: str, when: int) -> Iterator[None]:
    """Do something to the when-th call of each thread and child to come. This thread's own are used up here, if failing."""
    libc: Any = ctypes.CDLL(None)
    rule = f"inject={call}:{what}:when={when}"
    # Not -q: strace says when it has attached. What it traces it must, to inject.
    command = ["strace", "-f", "-e", f"trace={call}", "-e", rule, "-o", "/dev/null", "-p", str(os.getpid())]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as strace:
        assert strace.stderr is not None
        try:
            while b"attached" not in (said := strace.stderr.readline()):
                assert said, "strace has ended"
            for _ in range(when if what.startswith("error") else 0):
                libc.syscall(*map(ctypes.c_long, (SYSCALLS[call], -1, -1, -1, -1, -1)))
            yield
        finally:
            strace.send_signal(signal.SIGINT)
            strace.stderr.read()


async def _attempt(**options: Any) -> list[Any]:
    try:
        process = await aiovfork.create_subprocess_exec("/bin/echo", "here", stdout=PIPE, **options)
    except OSError as exc:
        return [errno.errorcode[exc.errno or 0], exc.step]  # type: ignore[attr-defined]
    output, _ = await process.communicate()
    return [process.returncode, (output or b"").decode()]


OPTIONS: Final[list[dict[str, Any]]] = [
    {"stdin": PIPE, "stderr": PIPE},
    {"stdin": DEVNULL, "cwd": "/", "umask": 0o22, "start_new_session": True, "pass_fds": [0]},
]


async def _sweep(call: str, mode: list[str]) -> list[Any]:
    """Return (error, when, outcome) of every attempt that was not a plain success."""
    _binding.force(*mode)  # type: ignore[arg-type]
    assert await _attempt() == [0, "here\n"]
    odd = []
    for error in ERRORS:
        for when in range(1, CALLS[call] + 1):
            with _injected(call, f"error={error}", when):
                outcomes = [await _attempt(**options) for options in OPTIONS]
            odd += [[error, when, outcome] for outcome in outcomes if outcome != [0, "here\n"]]
            assert await _attempt(**OPTIONS[0]) == [0, "here\n"], (error, when)
    return odd


@pytest.mark.parametrize("mode", [("clone3", "memory"), ("clone", "pipe")], ids="-".join)
@pytest.mark.parametrize("call", CALLS)
def test_a_failing_system_call(call: str, mode: tuple[str, str]) -> None:
    """P4, P6. Whatever fails, with whatever errno: that errno and a step, or success by another way; nothing is left."""
    odd = isolated(_sweep, call, mode, loop="asyncio", timeout=100)
    assert odd or call in {"kcmp", "prctl"} or (call, mode[0]) == ("clone3", "clone"), "nothing was injected"
    for error, when, (code, step) in odd:
        assert code == error, f"{call} number {when} failed with {error}, reported was {code}, {step!r}"
        assert step


#: As CALLS, where the process has many descriptors.
CALLS_OF_MANY: Final = {"getsockopt": 5, "socketpair": 1, "sendmsg": 1, "recvmsg": 2, "dup3": 4}


async def _sweep_with_many(call: str) -> list[Any]:
    found: list[Any] = []
    with many_open():
        for error in ERRORS:
            for when in range(1, CALLS_OF_MANY[call] + 1):
                assert await _attempt(**OPTIONS[0]) == [0, "here\n"]
                before = len(os.listdir("/proc/self/fd"))
                with _injected(call, f"error={error}", when):
                    outcome = await _attempt(**OPTIONS[0])
                found += [[error, when, outcome]] if outcome != [0, "here\n"] else []
                assert len(os.listdir("/proc/self/fd")) <= before, (error, when)
                assert await _attempt(**OPTIONS[0]) == [0, "here\n"], (error, when)
    return found


@pytest.mark.parametrize("call", CALLS_OF_MANY)
def test_a_failing_system_call_with_many_descriptors(call: str) -> None:
    """P4, P6. What stages a child's files fails: the table is copied; only what places them ends the spawn."""
    odd = isolated(
        _sweep_with_many, call, loop="asyncio", timeout=100, check_leaks=False
    )  # a number may be given up
    for error, when, (code, step) in odd:
        assert (call, code) == ("dup3", error), f"{call} number {when} failed with {error}: {code}, {step!r}"


async def _kill_at(call: str, mode: list[str]) -> list[Any]:
    _binding.force(*mode)  # type: ignore[arg-type]
    assert await _attempt() == [0, "here\n"]
    with _injected(call, "signal=KILL", 1):
        outcome = await _attempt(**OPTIONS[1])
    return [outcome, await _attempt()]


@pytest.mark.parametrize("mode", [("clone3", "memory"), ("clone", "pipe")], ids="-".join)
@pytest.mark.parametrize(
    "call", ["rt_sigaction", "dup3", "openat", "chdir", "umask", "setsid", "close_range", "execve"]
)
def test_a_child_that_is_killed_at_a_system_call(call: str, mode: tuple[str, str]) -> None:
    """P4, P6. SIGKILL at any moment between clone and exec is a failed start: ECHILD, and nothing is left."""
    (error, step), after = isolated(_kill_at, call, mode, loop="asyncio")
    assert (error, after) == ("ECHILD", [0, "here\n"])
    assert step
