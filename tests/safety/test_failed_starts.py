"""P4 and P6: a start that fails says so, with errno and step, and leaves nothing."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import pathlib
import resource
import signal
import stat
from typing import Any, Final

import pytest

import aiovfork
from aiovfork import PIPE, _binding
from tests.support.backends import LOOP_FACTORIES, PIPES
from tests.support.hold import held
from tests.support.isolated import isolated
from tests.support.native import compiled
from tests.support.window import child_in_window, children_in_window, reaped, until

#: Failures by step: argv, options, errno. pass_fds=[3] may be anything; 987 is closed.
FAILURES: Final[dict[str, tuple[list[str], dict[str, Any], int]]] = {
    "exec": (["/no/such/program"], {}, errno.ENOENT),
    "exec in PATH": (["no-such-program"], {}, errno.ENOENT),
    "exec of a directory": (["/etc"], {}, errno.EACCES),
    "chdir": (["true"], {"cwd": "/no/such/directory"}, errno.ENOENT),
    "setpgid": (["true"], {"process_group": 1}, errno.EPERM),
    "pipesize": (["true"], {"pipesize": 2**31 - 1}, errno.EPERM),
    "dup fds": (["true"], {"pass_fds": [987]}, errno.EBADF),
}


async def _failure(argv: list[str], **options: Any) -> OSError:
    with pytest.raises(OSError) as info:  # noqa: PT011  # which one is the test's
        await aiovfork.create_subprocess_exec(*argv, **{**PIPES, **options})
    return info.value


@pytest.mark.usefixtures("engine_mode")
@pytest.mark.parametrize("case", FAILURES)
async def test_each_step_fails_with_errno_and_name(case: str) -> None:
    """P4. The step that failed is named and its errno raised, in each engine and report mode; never exit 127."""
    argv, options, number = FAILURES[case]
    exc = await _failure(argv, **options)
    if case == "pipesize" and os.geteuid() == 0:
        number = exc.errno if exc.errno in {errno.EPERM, errno.ENOMEM, errno.EINVAL} else 0
    assert (exc.errno, exc.step) == (number, case.partition(" in")[0].partition(" of")[0])  # type: ignore[attr-defined]
    assert len(exc.__notes__) == 1


async def _fail_often(number: int) -> dict[str, Any]:
    seen: list[int] = []
    signal.signal(signal.SIGCHLD, lambda number, _frame: seen.append(number))
    for engine, report in [("clone3", "memory"), ("clone", "memory"), ("clone3", "pipe"), ("clone", "pipe")]:
        _binding.force(engine, report)  # type: ignore[arg-type]
        for argv, options, _ in FAILURES.values():
            await asyncio.gather(*(_failure(argv, **options) for _ in range(number)))
    during = len(seen)
    try:
        nobody: tuple[int | None, int] = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError as exc:
        nobody = (exc.errno, 0)
    process = await aiovfork.create_subprocess_exec("true")
    await process.wait()
    await until(lambda: len(seen) > during)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return {"during": during, "nobody": nobody, "after": len(seen) - during}


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_failed_starts_leave_no_zombie_descriptor_or_sigchld(loop: str) -> None:
    """P6. Hundreds of failed starts: no SIGCHLD, nothing for waitpid(-1) to find, no descriptor; the next one works."""
    found = isolated(_fail_often, 12, loop=loop)
    assert found == {"during": 0, "nobody": [errno.ECHILD, 0], "after": 1}


async def _fail_beside_a_thief(library: str) -> int:
    await _failure(["/no/such/program"])
    thief: Any = ctypes.CDLL(library)
    assert thief.thief_start(2, 0) == 0
    for _ in range(100):
        await _failure(["/no/such/program"])
    stolen: int = thief.thief_stop()
    return stolen


def test_a_thief_cannot_take_a_failed_start() -> None:
    """P6. A thread that reaps whatever waitpid(-1) gives it never gets a child that failed to start."""
    assert isolated(_fail_beside_a_thief, compiled("thief"), loop="asyncio") == 0


#: Makes a child go through the launcher.
AS_MYSELF: Final[dict[str, Any]] = {"user": os.getuid(), "group": os.getgid()}
#: Failures before the launcher, and in it: argv, options, errno, step, filename.
LAUNCHED_FAILURES: Final[list[tuple[list[str], dict[str, Any], int, str, str | None]]] = [
    (["true"], {"cwd": "/no/such/folder"}, errno.ENOENT, "chdir", "/no/such/folder"),
    (["/no/such/program"], {}, errno.ENOENT, "exec", "/no/such/program"),
    (["no-such-program"], {}, errno.ENOENT, "exec", "no-such-program"),
    (["/etc"], {}, errno.EACCES, "exec", "/etc"),
]


async def _fails(argv: list[str], options: dict[str, Any]) -> list[Any]:
    exc: Any = await _failure(argv, **AS_MYSELF, **options)
    return [exc.errno, exc.step, exc.filename]


async def _fail_often_launched() -> dict[str, Any]:
    seen: list[int] = []
    signal.signal(signal.SIGCHLD, lambda number, _frame: seen.append(number))
    found = [await _fails(*LAUNCHED_FAILURES[0][:2]) for _ in range(5)]
    before_the_launcher = len(seen)
    for argv, options, *_ in LAUNCHED_FAILURES[1:]:
        found += [await _fails(argv, options) for _ in range(5)]
    await until(lambda: len(seen) > before_the_launcher)
    try:
        nobody: tuple[int | None, int] = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError as exc:
        nobody = (exc.errno, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return {"found": found, "before the launcher": before_the_launcher, "nobody": nobody}


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_a_failed_start_through_the_launcher(loop: str) -> None:
    """P4, P6. errno, step and filename are right; no zombie, no descriptor. SIGCHLD comes once the launcher has run."""
    found = isolated(_fail_often_launched, loop=loop)
    expected = [
        [number, step, filename] for _, _, number, step, filename in LAUNCHED_FAILURES for _ in range(5)
    ]
    assert found == {"found": expected, "before the launcher": 0, "nobody": [errno.ECHILD, 0]}


async def _fail_beside_a_thief_launched(library: str) -> list[Any]:
    await _fails(*LAUNCHED_FAILURES[1][:2])
    thief: Any = ctypes.CDLL(library)
    assert thief.thief_start(2, 0) == 0
    found = []
    for _ in range(10):
        for argv, options, *_ in LAUNCHED_FAILURES:
            found.append(await _fails(argv, options))
    thief.thief_stop()
    return found


def test_a_thief_does_not_change_why_a_start_failed() -> None:
    """P4. A failed launcher may be reaped by somebody's waitpid(-1): the errno and the step are still right."""
    found = isolated(_fail_beside_a_thief_launched, compiled("thief"), loop="asyncio", check_leaks=False)
    expected = [[number, step, filename] for _, _, number, step, filename in LAUNCHED_FAILURES]
    assert found == expected * 10


@pytest.mark.usefixtures("engine_mode")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM], ids=lambda s: s.name)
async def test_a_child_killed_in_the_window_is_a_failed_start(
    tmp_path: pathlib.Path, number: signal.Signals
) -> None:
    """P4. kill from outside before exec: ChildProcessError that names the signal, not a process that has run."""
    async with held(tmp_path) as hold:
        spawn = asyncio.ensure_future(aiovfork.create_subprocess_exec(hold.path, **PIPES))
        os.kill(await child_in_window(hold), number)
        with pytest.raises(ChildProcessError, match=number.name) as info:
            await spawn
    assert info.value.step == "exec"  # type: ignore[attr-defined]


@pytest.mark.usefixtures("engine_mode")
async def test_too_long_arguments(tmp_path: pathlib.Path) -> None:
    """P4. E2BIG at exec, for one argument over the kernel's limit and for too many, and for the environment."""
    limit = resource.getrlimit(resource.RLIMIT_STACK)[0]
    total = 8 << 20 if limit == resource.RLIM_INFINITY else limit
    piece = "x" * 100_000
    for argv, options in [
        (["true", "x" * (128 * 1024)], {}),
        (["true", *[piece] * (total // len(piece) + 1)], {}),
        (["true"], {"env": {"PATH": os.environ["PATH"], "LONG": "x" * (128 * 1024)}}),
    ]:
        exc = await _failure(argv, **options)
        assert (exc.errno, exc.step, exc.filename) == (errno.E2BIG, "exec", "true")  # type: ignore[attr-defined]
    process = await aiovfork.create_subprocess_exec("printf", "%s", "x" * (128 * 1024 - 1), stdout=PIPE)
    output, _ = await process.communicate()
    assert len(output or b"") == 128 * 1024 - 1


@pytest.mark.usefixtures("engine_mode")
async def test_a_program_that_somebody_still_writes(tmp_path: pathlib.Path) -> None:
    """P4. ETXTBSY is reported with the program's name once patience is over, and the program starts when it is closed."""
    program = tmp_path / "just-written"
    program.write_bytes(pathlib.Path("/bin/true").read_bytes())
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    with open(program, "ab"):
        exc = await _failure([str(program)])
        assert (exc.errno, exc.step) == (errno.ETXTBSY, "exec")  # type: ignore[attr-defined]
        assert exc.filename == str(program)
    assert await reaped(asyncio.ensure_future(aiovfork.create_subprocess_exec(str(program)))) == [0]


def _sleeps(pid: int) -> bool:
    """Whether a child in the window has met ETXTBSY and waits before its next attempt."""
    try:
        with open(f"/proc/{pid}/wchan") as file:
            return "nanosleep" in file.read()
    except (FileNotFoundError, ProcessLookupError):
        return True


async def test_a_program_whose_writer_closes_it_in_time(tmp_path: pathlib.Path) -> None:
    """P4. A program that is busy for a moment (another thread's child still holds it open for writing) is started."""
    program = tmp_path / "just-written"
    program.write_bytes(pathlib.Path("/bin/true").read_bytes())
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    outcomes: list[object] = []
    for _ in range(5):  # the patience is tens of milliseconds: a stalled machine gets another chance
        with open(program, "ab"):
            spawn = asyncio.ensure_future(aiovfork.create_subprocess_exec(str(program)))
            await until(lambda: spawn.done() or any(map(_sleeps, children_in_window())))  # noqa: B023  # awaited here
        (outcome,) = await asyncio.gather(spawn, return_exceptions=True)
        outcomes.append(outcome)
        if isinstance(outcome, aiovfork.Process):
            assert await outcome.wait() == 0
            return
    pytest.fail(f"never started: {outcomes}")
