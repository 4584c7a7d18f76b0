"""P1: what happens to signals while a child shares its parent's memory."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import threading
from typing import Any

import pytest

import aiovfork
from aiovfork import PIPE, _binding
from tests.support.backends import LOOP_FACTORIES
from tests.support.errors import stdlib_type
from tests.support.isolated import isolated
from tests.support.native import compiled
from tests.support.view import STOPPED, look_at
from tests.support.window import until


async def _spawn_in_a_storm(library: str, sent: int, number: int, modes: list[Any]) -> dict[str, Any]:
    handlers: Any = ctypes.CDLL(library)
    for caught in (signal.SIGALRM, sent):
        assert handlers.handlers_install(caught) == 0
    assert handlers.handlers_storm_start(sent) == 0
    ends: dict[str, int] = {}
    for engine, report in modes:
        _binding.force(engine, report)

        async def spawn(program: str) -> str:
            try:
                process = await aiovfork.create_subprocess_exec(program)
            except OSError as exc:
                return stdlib_type(exc).__name__
            return str(await process.wait())

        for _ in range(number):
            for end in await asyncio.gather(*map(spawn, ["true", "true", "/no/such/program"])):
                ends[end] = ends.get(end, 0) + 1
    handlers.handlers_storm_stop()
    return {"ends": ends, "own": handlers.handlers_own(), "foreign": handlers.handlers_foreign()}


MODES = [(engine, report) for engine in ("clone3", "clone") for report in ("memory", "pipe")]


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_no_handler_of_the_parent_runs_in_a_child(loop: str) -> None:
    """P1. Under a 1 kHz timer and signals to the whole process group, handlers run in the parent alone."""
    number = 15
    library = compiled("handlers")
    result = isolated(_spawn_in_a_storm, library, int(signal.SIGWINCH), number, MODES, loop=loop)
    # SIGWINCH does nothing to those that do not catch it: the children live.
    assert result["ends"] == {"0": 2 * number * len(MODES), "FileNotFoundError": number * len(MODES)}
    assert result["own"] > 100
    assert result["foreign"] == 0


def test_a_signal_to_the_group_ends_children_in_the_window_by_its_default() -> None:
    """P1, P4. A child that a group's signal kills before exec is a failed spawn, never a handler's run or an exit code."""
    result = isolated(_spawn_in_a_storm, compiled("handlers"), int(signal.SIGUSR1), 15, MODES, loop="asyncio")
    assert result["foreign"] == 0
    assert result["own"] > 100
    assert result["ends"].keys() <= {"0", f"-{int(signal.SIGUSR1)}", "ChildProcessError", "FileNotFoundError"}


@pytest.mark.usefixtures("engine_mode")
async def test_libcs_own_signals_are_default_in_the_child() -> None:
    """P1. Handlers of 32 and 33, libc's own, are gone in the child, and neither is ignored nor blocked there."""
    process = await aiovfork.create_subprocess_exec(*STOPPED)
    try:
        look_at(process.pid)
        with open(f"/proc/{process.pid}/status") as file:
            status = dict(line.split(":", 1) for line in file)
    finally:
        process.kill()
        await process.wait()
    libcs = 0b11 << 31
    assert [int(status[name], 16) & libcs for name in ("SigIgn", "SigCgt", "SigBlk")] == [0, 0, 0]


@pytest.mark.usefixtures("engine_mode")
async def test_the_parents_signals_are_as_before() -> None:
    """P1. A spawn, successful or not, changes no handler, no mask and no pending signal of its caller."""

    def state() -> list[str]:
        with open("/proc/thread-self/status") as file:
            # Not SigQ: it counts the queued signals of all of the user's processes.
            return [line for line in file if line.startswith(("SigP", "SigB", "SigI", "SigC", "Shd"))]

    before = state()
    process = await aiovfork.create_subprocess_exec("true", restore_signals=True)
    with pytest.raises(FileNotFoundError):
        await aiovfork.create_subprocess_exec("/no/such/program")
    await process.wait()
    await until(lambda: state() == before)  # SIGCHLD, which is ignored, may be on its way yet


def _setgid_beside_spawns(number: int) -> int:
    done = threading.Event()
    calls = 0

    def change() -> None:
        nonlocal calls
        while not done.is_set():
            os.setgid(os.getgid())
            calls += 1

    async def spawn() -> None:
        for _ in range(number):
            spawns = [aiovfork.create_subprocess_exec("true", stdout=PIPE) for _ in range(8)]
            for process in await asyncio.gather(*spawns):
                await process.communicate()

    changer = threading.Thread(target=change)
    changer.start()
    try:
        asyncio.run(spawn())
    finally:
        done.set()
        changer.join()
    return calls


def test_setgid_in_another_thread_never_hangs() -> None:
    """P12. libc's setgid(), which signals every thread, goes on beside spawns: no thread keeps signal 33 blocked."""
    assert isolated(_setgid_beside_spawns, 25) > 0
