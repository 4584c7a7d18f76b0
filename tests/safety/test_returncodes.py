"""P5: a return code is true, or marked as unknown, whoever else waits for children."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import pathlib
import random
import signal
from typing import Any, Final

import pytest

import aiovfork
from aiovfork import PIPE, _binding
from tests.support.backends import LOOP_FACTORIES
from tests.support.isolated import isolated
from tests.support.native import compiled

_WALL: Final = 0x40000000
REAPERS: Final = ["thief", "a thief of all", "SIGCHLD ignored", "SA_NOCLDWAIT"]


async def _end(code: int) -> tuple[int, int | None, bool]:
    """Run a child to its end. Returns the code it ends with, what was reported, and whether that is said to be true."""
    if code >= 0:
        process = await aiovfork.create_subprocess_exec("/bin/sh", "-c", f"exit {code}")
    else:  # bash ignores SIGQUIT, and other shells handle other signals; cat handles none
        process = await aiovfork.create_subprocess_exec("cat", stdin=PIPE)
        process.send_signal(-code)
    await process.wait()
    if not process.returncode_known:
        assert process.returncode == 255
    return code, process.returncode, process.returncode_known


async def _ends(number: int, at_once: int = 40) -> list[tuple[int, int | None, bool]]:
    random.seed(number)
    codes = [*range(256), -9, -15, -10]
    found = []
    for _ in range(0, number, at_once):
        found += await asyncio.gather(*(_end(random.choice(codes)) for _ in range(at_once)))  # noqa: S311  # a test
    return found


async def _ends_with_a_reaper(library: str, reaper: str, threads: int, number: int) -> dict[str, Any]:
    thief: Any = ctypes.CDLL(library)
    if reaper == "SIGCHLD ignored":
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    elif reaper == "SA_NOCLDWAIT":
        assert thief.thief_no_zombies() == 0
    else:
        assert thief.thief_start(threads, _WALL if "all" in reaper else 0) == 0
    found = await _ends(number)
    for _ in range(20):
        try:
            await aiovfork.create_subprocess_exec("/no/such/program", stdout=PIPE)
        except FileNotFoundError:
            continue
        raise AssertionError
    thief.thief_stop()
    if reaper == "SIGCHLD ignored":
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return {
        "wrong": [end for end in found if end[2] and end[0] != end[1]],
        "unknown": sum(not end[2] for end in found),
        "stolen": aiovfork.stats().stolen,
    }


def _check(found: dict[str, Any]) -> None:
    assert found["wrong"] == []
    if _binding.probe().pidfd_info_exit == 0:
        assert found["unknown"] == 0
    else:  # before Linux 6.15 nobody can know
        assert found["unknown"] == found["stolen"]


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
@pytest.mark.parametrize("reaper", REAPERS)
def test_codes_are_true_while_somebody_else_reaps(reaper: str, loop: str) -> None:
    """P5. A thread with waitpid(-1), SIGCHLD ignored or SA_NOCLDWAIT cost no code; a failed spawn stays an error."""
    found = isolated(_ends_with_a_reaper, compiled("thief"), reaper, 1, 120, loop=loop)
    _check(found)
    if "thief" not in reaper:
        assert found["stolen"] == 120


@pytest.mark.slow
@pytest.mark.parametrize("reaper", REAPERS)
def test_thousands_of_codes_are_true_while_somebody_else_reaps(reaper: str) -> None:
    """P5. Of thousands of random exit codes and signals, under four hot thieves, none is wrong."""
    found = isolated(_ends_with_a_reaper, compiled("thief"), reaper, 4, 4000, loop="asyncio", timeout=100)
    _check(found)
    assert found["stolen"] > 100


async def _stolen_code() -> list[Any]:
    read_end, write_end = os.pipe()
    process = await aiovfork.create_subprocess_exec("/bin/sh", "-c", "read line; exit 7", stdin=read_end)
    os.close(read_end)
    os.close(write_end)
    assert os.waitpid(process.pid, 0) == (process.pid, 7 << 8)
    returncode = await process.wait()
    with pytest.raises(ProcessLookupError):
        process.kill()
    return [returncode, process.returncode_known, process.rusage is None, aiovfork.stats().stolen]


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_a_code_that_was_taken_by_pid(loop: str) -> None:
    """P5. waitpid(pid) by the application: the code is recovered, the rusage is None since nobody has it."""
    returncode, known, no_rusage, stolen = isolated(_stolen_code, loop=loop)
    assert (returncode, known) == ((7, True) if _binding.probe().pidfd_info_exit == 0 else (255, False))
    assert no_rusage
    assert stolen == 1


@pytest.mark.usefixtures("engine_mode")
async def test_every_exit_code_and_signal() -> None:
    """P5. Each exit code from 0 to 255 and each deadly signal, as wait() gives them."""
    survived = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}
    survived |= {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
    codes = [*range(256), *(-number for number in signal.valid_signals() - survived)]
    for start in range(0, len(codes), 40):
        for code, found, known in await asyncio.gather(*map(_end, codes[start : start + 40])):
            assert (found, known) == (code, True)


@pytest.mark.usefixtures("engine_mode")
async def test_exit_127_is_the_programs_own() -> None:
    """P4, P5. A program that ends with 127 has run; one that is not there has not: never the one for the other."""
    assert await _end(127) == (127, 127, True)
    with pytest.raises(FileNotFoundError) as info:
        await aiovfork.create_subprocess_exec("/no/such/program")
    assert (info.value.errno, info.value.step) == (errno.ENOENT, "exec")  # type: ignore[attr-defined]


@pytest.mark.usefixtures("engine_mode")
async def test_a_program_that_dies_while_the_kernel_loads_it(tmp_path: pathlib.Path) -> None:
    """P4, P5. Behind exec's point of no return there is no errno to report: the child was killed, and its code says so."""
    source = pathlib.Path(os.path.realpath("/bin/true")).read_bytes()
    broken = bytearray(source)
    headers = int.from_bytes(source[32:40], "little")
    for at in range(headers, headers + 56 * source[56], 56):
        if source[at : at + 4] == b"\1\0\0\0":  # PT_LOAD, to an address that no process has
            broken[at + 16 : at + 24] = (0x7FFF_FFFF_F000_0000).to_bytes(8, "little")
    program = tmp_path / "broken"
    program.write_bytes(bytes(broken))
    program.chmod(0o755)
    process = await aiovfork.create_subprocess_exec(str(program))
    assert await process.wait() in {-signal.SIGSEGV, -signal.SIGKILL}
