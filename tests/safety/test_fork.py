"""P11: fork() in the parent, at any moment, leaves both sides usable."""

from __future__ import annotations

import asyncio
import ctypes
import json
import multiprocessing
import os
import pathlib
import signal
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest

import aiovfork
from aiovfork import PIPE
from tests.support.backends import LOOP_FACTORIES
from tests.support.hold import held
from tests.support.isolated import isolated
from tests.support.native import compiled
from tests.support.window import BOUND, in_queue, reaped


def _fork(work: Callable[[], Any]) -> tuple[int, int]:
    """Fork; the child works and writes its result as JSON. Returns its pid and the pipe to read."""
    read_end, write_end = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # 3.12: a process with threads forks; that is the case
        pid = os.fork()
    if pid:
        os.close(write_end)
        return pid, read_end
    code = 1
    try:
        os.close(read_end)
        asyncio.events._set_running_loop(None)
        result = work()
        os.write(write_end, json.dumps(result).encode())
        code = 0
    finally:
        os._exit(code)


def _result(pid: int, read_end: int) -> Any:
    with open(read_end) as results:
        said = results.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the forked child ended with {status}"
    return json.loads(said)


async def _output() -> str:
    process = await aiovfork.create_subprocess_exec("echo", "here", stdout=PIPE)
    output, _ = await process.communicate()
    return (output or b"").decode()


def _descriptors() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue
    return found


def _look_and_spawn() -> dict[str, Any]:
    """What the child of a fork has of its parent's spawns, and whether it can spawn by itself."""
    descriptors = _descriptors()
    stats = aiovfork.stats()
    threads = len(os.listdir("/proc/self/task"))
    with pytest.raises(ProcessLookupError):
        aiovfork._port.CompletionPort.kill(1 << 32 | 1, 9)
    outputs = [asyncio.run(_output()), asyncio.run(_output())]
    return {
        "timers": sum("timerfd" in target for target in descriptors),
        "pipes": sum(target.startswith("pipe:") for target in descriptors),
        "threads": threads,
        "counters": [stats.in_flight, stats.queued, stats.alive, stats.spawned],
        "outputs": outputs,
    }


async def _fork_with_everything(directory: str) -> dict[str, Any]:
    """Fork while a child lives, others are in the window, and some are queued."""
    pipes_before = sum(target.startswith("pipe:") for target in _descriptors())
    living = await aiovfork.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
    mine = sum(target.startswith("pipe:") for target in _descriptors()) - pipes_before
    async with held(pathlib.Path(directory)) as hold:
        queued, in_window = await in_queue(hold, _output)
        await child_in_window_of(hold)
        pid, read_end = _fork(_look_and_spawn)
        found = await asyncio.to_thread(_result, pid, read_end)
        hold.release()
        codes = await reaped(*in_window)
        said = await queued
    output, _ = await living.communicate(b"still there")
    found["pipes"] -= pipes_before + mine + 1  # the living child's are Python's; one is the result's
    return {**found, "parent": [set(codes) == {0}, said, (output or b"").decode(), living.returncode]}


async def child_in_window_of(hold: Any) -> None:
    """Wait until a child is held in the window."""
    await hold.reached.wait()


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_fork_while_spawns_are_under_way(loop: str, tmp_path: pathlib.Path) -> None:
    """P11. The child of a fork has no port, pipe or worker of its parent's spawns, and spawns; the parent goes on."""
    found = isolated(_fork_with_everything, str(tmp_path), loop=loop)
    assert found == {
        "timers": 0,
        "pipes": 0,
        "threads": 1,
        "counters": [0, 0, 0, 0],
        "outputs": ["here\n", "here\n"],
        "parent": [True, "here\n", "still there", 0],
    }


async def _end_of_file_after_fork() -> str:
    """A forked child that lives on must not keep the stdin of the parent's child open."""
    release, hold = os.pipe()
    process = await aiovfork.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None

    def wait() -> None:
        os.close(hold)
        os.read(release, 1)

    process._transport.close()
    await process.wait()
    spawn = asyncio.ensure_future(aiovfork.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE))
    before = aiovfork.stats().in_flight
    await asyncio.sleep(0)
    while aiovfork.stats().in_flight > before:  # posted, not drained: the ends are the core's
        pass
    pid, read_end = _fork(wait)
    process = await spawn
    output, _ = await asyncio.wait_for(process.communicate(b"ends"), 60)
    os.close(hold)
    os.close(release)
    assert _result(pid, read_end) is None
    return (output or b"").decode()


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_a_forked_child_keeps_no_pipe_open(loop: str) -> None:
    """P11. Pipes that the core still has are closed in a forked child: the end of a child's stdin is seen there."""
    assert isolated(_end_of_file_after_fork, loop=loop) == "ends"


def _fork_in_a_storm(loop_name: str, forks: int) -> dict[str, Any]:
    """Fork again and again from one thread while another spawns; each side then spawns."""
    ended = threading.Event()
    codes: list[int] = []

    def spawn_all_the_time() -> None:
        async def spawn() -> None:
            while not ended.is_set():
                spawns = [
                    aiovfork.create_subprocess_exec("true", stdin=PIPE, stdout=PIPE) for _ in range(2 * BOUND)
                ]
                processes = await asyncio.gather(*spawns)
                for process in processes:
                    await process.communicate()
                    codes.append(process.returncode or 0)

        with asyncio.Runner(loop_factory=LOOP_FACTORIES[loop_name]) as runner:
            runner.run(spawn())

    spawner = threading.Thread(target=spawn_all_the_time)
    spawner.start()
    outputs = []
    try:
        outputs += [_result(*_fork(lambda: asyncio.run(_output()))) for _ in range(forks)]
    finally:
        ended.set()
        spawner.join()
    return {
        "outputs": sorted(set(outputs)),
        "forks": len(outputs),
        "codes": sorted(set(codes)),
        "spawned": len(codes),
    }


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_forks_beside_spawns(loop: str) -> None:
    """P11. Dozens of forks beside a thread that spawns without a pause: no lock is lost, and both sides spawn."""
    found = isolated(_fork_in_a_storm, loop, 40, timeout=60)
    spawned = found.pop("spawned")
    assert found == {"outputs": ["here\n"], "forks": 40, "codes": [0]}
    assert spawned > 0


def _fork_beside_the_first_use(library: str, attempts: int) -> list[int]:
    """In fresh processes again and again: fork in one thread while another makes the first use of the core."""
    ffi, lib = aiovfork._binding.ffi, aiovfork._binding.lib
    first, again = (
        int(ffi.cast("intptr_t", ffi.addressof(lib, name))) for name in ("avf_port_open", "avf_stats")
    )
    race: Any = ctypes.CDLL(library).fork_race
    race.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
    statuses = set()
    for attempt in range(attempts):
        statuses.add(race(first, again, 100 * attempt))
        if statuses != {0}:
            break
    return sorted(statuses)


def test_a_fork_beside_the_first_use() -> None:
    """P11. A fork in the moment in which another thread uses aiovfork for the first time: the child is not locked out."""
    assert isolated(_fork_beside_the_first_use, compiled("fork_race"), 150) == [0]


async def _fork_in_the_forked() -> list[str]:
    first = await _output()

    def grandchild() -> Any:
        return [asyncio.run(_output()), _result(*_fork(lambda: asyncio.run(_output())))]

    pid, read_end = _fork(grandchild)
    found = await asyncio.to_thread(_result, pid, read_end)
    return [first, *found, await _output()]


def test_fork_in_the_child_of_a_fork() -> None:
    """P11. Each generation spawns."""
    assert isolated(_fork_in_the_forked, loop="asyncio") == ["here\n"] * 4


def _spawn_in_worker(_: int) -> str:
    return asyncio.run(_output())


def _with_multiprocessing() -> list[str]:
    found = [asyncio.run(_output())]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found += pool.map(_spawn_in_worker, range(4))
    return found


def test_spawns_in_a_multiprocessing_pool() -> None:
    """P11. The processes of a forking pool, made after the first spawn, spawn by themselves."""
    assert isolated(_with_multiprocessing, check_leaks=False) == ["here\n"] * 5


async def _use_the_parents_process() -> list[str]:
    process = await aiovfork.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)

    def misuse() -> list[str]:
        found = []
        for method in (process.kill, process.terminate):
            try:
                method()
            except ProcessLookupError as exc:
                found.append(type(exc).__name__)
        # What a garbage collection there would do. (close() would, as asyncio's, take the pipes from the loop's
        # epoll, which both sides share.)
        process._transport.__del__()
        return found

    pid, read_end = _fork(misuse)
    found = _result(pid, read_end)
    output, _ = await process.communicate(b"unharmed")
    return [*found, (output or b"").decode(), str(process.returncode)]


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_a_forked_child_cannot_signal_its_parents_children(loop: str) -> None:
    """P11. A Process that came over with the fork reaches nobody there: the parent's child is unharmed."""
    found = isolated(_use_the_parents_process, loop=loop)
    assert found[-2:] == ["unharmed", "0"]
    assert found[:2] == ["ProcessLookupError"] * 2


async def _end_the_parents_cgroup() -> list[Any]:
    try:
        process = await aiovfork.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE, own_cgroup=True)
    except aiovfork.SpawnError as exc:
        return [f"cgroup v2 is not delegated here: {exc}"]
    cgroup: Any = process._transport.cgroup

    def misuse() -> list[bool]:
        found = [cgroup.signal(signal.SIGKILL)]
        cgroup.end_soon()  # as at the end of the interpreter
        cgroup.leave_soon()
        for thread in threading.enumerate():
            if thread.name == "aiovfork-cgroup":
                thread.join()
        return [*found, cgroup.is_populated()]

    pid, read_end = _fork(misuse)
    found = await asyncio.to_thread(_result, pid, read_end)
    output, _ = await process.communicate(b"unharmed")
    return [*found, (output or b"").decode(), process.returncode]


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_a_forked_child_does_not_end_its_parents_cgroups(loop: str) -> None:
    """P11. A child of fork() that ends, as programs do, leaves alone what lives in its parent's cgroups."""
    found = isolated(_end_the_parents_cgroup, loop=loop)
    if len(found) == 1:
        pytest.skip(found[0])
    assert found == [False, True, "unharmed", 0]


def _spawn_beside_forks(
    library: Any, loop_name: str, directory: str, forks: int, fork: Callable[[], int], found: list[Any]
) -> None:
    """Spawn without a pause in a thread, with given files of each kind and with pipes, while this one forks."""
    ended = threading.Event()
    file = os.open(f"{directory}/file", os.O_RDWR | os.O_CREAT)

    async def spawn() -> None:
        library.foreign_note()  # what the loop and this test have; the port is not open yet
        noted.set()
        while not ended.is_set():
            spawns = [
                aiovfork.create_subprocess_exec(
                    "echo", "x", stdin=file if number % 2 else null, stdout=PIPE, pass_fds=[null]
                )
                for number in range(3 * BOUND)
            ]
            queued = asyncio.ensure_future(aiovfork.create_subprocess_exec("true", stdin=file))
            await asyncio.sleep(0)
            queued.cancel()
            for process in await asyncio.gather(*spawns):
                output, _ = await process.communicate()
                found.append(output)
            await asyncio.wait([queued])
            if not queued.cancelled():
                await queued.result().wait()

    def run() -> None:
        with asyncio.Runner(loop_factory=LOOP_FACTORIES[loop_name]) as runner:
            runner.run(spawn())

    null = os.open(os.devnull, os.O_RDWR)
    noted = threading.Event()
    spawner = threading.Thread(target=run)
    spawner.start()
    noted.wait()
    try:
        found += [fork() for _ in range(forks)]
    finally:
        ended.set()
        spawner.join()
        os.close(null)
        os.close(file)


def _descriptors_of_forks(loop_name: str, directory: str, helper: str, how: str) -> list[Any]:
    library = ctypes.CDLL(helper)

    def os_fork() -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            os._exit(library.foreign_found())
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    found: list[Any] = []
    if how == "os.fork":
        _spawn_beside_forks(library, loop_name, directory, 300, os_fork, found)
    else:
        _spawn_beside_forks(library, loop_name, directory, 6, lambda: library.foreign_storm(100), found)
    outputs = [output for output in found if isinstance(output, bytes)]
    return [
        len(outputs) > 0,
        set(outputs) == {b"x\n"},
        sorted({code for code in found if isinstance(code, int)}),
    ]


@pytest.mark.parametrize("how", ["os.fork", "fork in a C thread"])
@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_a_forked_child_has_no_descriptor_of_ours(loop: str, how: str, tmp_path: pathlib.Path) -> None:
    """P11. Hundreds of forks beside starting and cancelled spawns: no pidfd, duplicate, pipe end or message comes along.

    What is between two owners would stay open there: the write end of a stdout pipe makes communicate() wait.
    """
    found = isolated(_descriptors_of_forks, loop, str(tmp_path), compiled("foreign"), how, timeout=80)
    assert found == [True, True, [0]]
