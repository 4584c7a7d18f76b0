"""What test_scale_out.py has done on a Dask cluster: first the tasks, then the clients' side of each test.

Importing distributed starts a thread, so the process that runs the tests imports this only by isolated(), and the
workers by its name. What a client's side returns is what the test looks at.
"""
# mypy: disable-error-code="no-untyped-call,unused-coroutine,type-var"
# Much of distributed has no types, and a future's result is not the coroutine.

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import pathlib
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import dask
import psutil
from dask_plugin import Helpers, cancellable  # type: ignore[import-not-found]  # the test names its folder
from distributed import CancelledError, Client, Event, LocalCluster, Variable, get_worker

import aiovfork
from tests.support.errors import stdlib_type
from tests.support.hold import held_program
from tests.support.servers import PATIENCE, until

# ---- tasks ----


async def where(key: str) -> dict[str, Any]:
    """Tell where a task runs, and whose child a helper of it is."""
    loop = asyncio.get_running_loop()
    worker: Any = get_worker()
    async with cancellable(key), await aiovfork.create_subprocess_exec("cat", stdin=aiovfork.PIPE) as process:
        return {
            "pid": os.getpid(),
            "main thread": threading.current_thread() is threading.main_thread(),
            "the worker's loop": worker.loop.asyncio_loop is loop,
            "loop": type(loop).__module__.split(".")[0],
            "helper's parent": psutil.Process(process.pid).ppid(),
        }


async def started_by_asyncio() -> int:
    """Start two children with asyncio's functions; return how many of them were aiovfork's."""
    before = aiovfork.stats().spawned
    await (await asyncio.create_subprocess_exec("true")).wait()
    await (await asyncio.create_subprocess_shell("true")).wait()
    return aiovfork.stats().spawned - before


async def fail(program: str, options: dict[str, Any]) -> None:
    """Fail to start a helper."""
    await aiovfork.create_subprocess_exec(program, **options)


async def fail_later() -> None:
    """Have a helper that starts, and fails."""
    command = ["sh", "-c", "echo half; echo why >&2; exit 3"]
    async with await aiovfork.create_subprocess_exec(
        *command, stdout=aiovfork.PIPE, stderr=aiovfork.PIPE
    ) as process:
        output, complaint = await process.communicate()
    raise subprocess.CalledProcessError(process.returncode or 0, command, output, complaint)


async def sleep(key: str, *before: str) -> None:
    """Have a helper that does not end by itself; its pid goes to Variable(key)."""
    async with cancellable(key):
        await sleep_on(key, *before)


async def sleep_on(key: str, *before: str) -> None:
    """Have such a helper, whatever the plugin does."""
    async with await aiovfork.create_subprocess_exec(*before, "sleep", "1000") as process:
        await Variable(key).set(process.pid)
        await Variable(f"{key} ended").set(await process.wait())


async def linger(key: str, flag: str) -> str:
    """Take long to be cancelled: until Event("go on"). When there is a file flag already, end at once."""
    async with cancellable(key):
        if pathlib.Path(flag).exists():
            return "ran again"
        pathlib.Path(flag).touch()
        await Event("runs").set()
        try:
            await asyncio.Event().wait()
        finally:
            await Event("lingers").set()
            await Event("go on").wait()
    return "ended"


async def quick(key: str) -> int:
    """Have a helper that ends at once."""
    async with cancellable(key), await aiovfork.create_subprocess_exec("true") as process:
        return await process.wait()


async def several(key: str, number: int) -> int:
    """Have several helpers at once in one task; return how many were alive."""

    async def one() -> None:
        async with await aiovfork.create_subprocess_exec("sleep", "1000"):
            await barrier.wait()

    barrier = asyncio.Barrier(number)
    async with cancellable(key):
        await asyncio.gather(*[one() for _ in range(number)])
    return aiovfork.stats().alive_peak


async def execute(key: str, program: str) -> int:
    """Have a helper of this name."""
    async with cancellable(key), await aiovfork.create_subprocess_exec(program) as process:
        return await process.wait()


def alive() -> int:
    """Return how many helpers a worker has."""
    return aiovfork.stats().alive


def state_of(key: str, dask_worker: Any) -> str:
    """Return what a worker thinks of a task."""
    state: str = dask_worker.state.tasks[key].state
    return state


def left_in_plugin(dask_worker: Any) -> int:
    """Return how many tasks the plugin believes to be running."""
    return len(dask_worker.plugins[Helpers.name].running)


# ---- the clients' side ----


@contextlib.contextmanager
def cluster(workers: int = 2, threads: int = 2, *, plugin: bool = True) -> Iterator[Client]:
    """A cluster of processes, and its client."""
    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=threads, host="127.0.0.1", dashboard_address=None
        ) as processes,
        Client(processes) as client,
    ):
        if plugin:
            client.register_plugin(Helpers())
        yield client


def submit(client: Client, function: Any, key: str, *args: Any, **options: Any) -> Any:
    """Submit a task that wants its key."""
    return client.submit(function, key, *args, key=key, **options)


def pid_from(key: str, before: int = 0) -> int:
    """Wait until the helper of a task runs, another than the one before, and return its pid."""
    found = Variable(key)
    pid: int = until(lambda: (pid := found.get(timeout=PATIENCE)) != before and pid, f"a helper of {key}")
    return pid


def wait_gone(pid: int) -> None:
    """Wait until a helper has been killed and reaped."""
    until(lambda: not psutil.pid_exists(pid), f"the end of helper {pid}")


def places(loop: str) -> list[dict[str, Any]]:
    """Have more tasks than there are workers, on this loop."""
    dask.config.set({"distributed.admin.event-loop": loop})
    with cluster() as client:
        keys = [f"where-{number}" for number in range(16)]
        answers: list[dict[str, Any]] = client.gather(client.map(where, keys, key=keys))
    return answers


def libraries(loop: str) -> dict[str, Any]:
    """Have a task that knows asyncio only: without the plugin, with it, on a worker that came later, after it."""
    dask.config.set({"distributed.admin.event-loop": loop})
    found = {}
    with cluster(workers=1, plugin=False) as client:

        def ask() -> list[int]:
            tasks = [
                client.submit(started_by_asyncio, pure=False, workers=[worker])
                for worker in client.scheduler_info()["workers"]
            ]
            answers: list[int] = client.gather(tasks)
            return answers

        found["without"] = ask()
        client.register_plugin(Helpers())
        found["with"] = ask()
        processes: Any = client.cluster
        processes.scale(2)
        client.wait_for_workers(2, timeout=PATIENCE)
        found["with a new worker"] = ask()
        client.unregister_worker_plugin(Helpers.name)
        found["after"] = ask()
    return found


def failures(cases: list[tuple[str, dict[str, Any]]]) -> list[Any]:
    """Fail to start helpers, and have one that fails; return what the client has of the exceptions."""
    found: list[Any] = []
    with cluster(workers=1) as client:
        for program, options in cases:
            error: Any = client.submit(fail, program, options).exception()
            found.append(
                {
                    "type": stdlib_type(error).__name__,
                    "errno": error.errno,
                    "filename": error.filename,
                    "step": error.step,
                    "notes": error.__notes__,
                }
            )
        failed: Any = client.submit(fail_later).exception()
    found.append([type(failed).__name__, failed.returncode, failed.stdout.decode(), failed.stderr.decode()])
    return found


def cancelled() -> dict[str, Any]:
    """Cancel a future whose helper runs; the worker has one place only."""
    with cluster(workers=1, threads=1) as client:
        future = submit(client, sleep, "sleep")
        pid = pid_from("sleep")
        future.cancel()
        with contextlib.suppress(CancelledError):
            return {"result": future.result(PATIENCE)}
        wait_gone(pid)
        return {"status": future.status, "next": submit(client, quick, "quick").result(PATIENCE)}


def forgotten() -> list[bool]:
    """Let go of a future whose helper runs; then close a client that has one."""
    with cluster(workers=1) as client:
        future = submit(client, sleep, "dropped")
        pids = [pid_from("dropped")]
        del future
        gc.collect()
        wait_gone(pids[0])
        with Client(client.scheduler_info()["address"], set_as_default=False) as other:
            future = submit(other, sleep, "closed")
            pids.append(pid_from("closed"))
            assert future.status == "pending"
        wait_gone(pids[1])
        return [psutil.pid_exists(pid) for pid in pids]


def cancelled_early(rounds: int) -> dict[str, Any]:
    """Cancel tasks at every stage of their beginning; their helpers would not end."""
    with cluster() as client:
        for number in range(rounds):
            keys = [f"{number}-{place}" for place in range(8)]
            futures = client.map(sleep, keys, key=keys)
            if number % 2:  # some have begun then
                pid_from(keys[number % 4])
            client.cancel(futures)
        keys = [f"last-{place}" for place in range(16)]
        last = client.gather(client.map(quick, keys, key=keys))
        left = client.run(left_in_plugin)
        return {"last": last, "alive": list(client.run(alive).values()), "left": list(left.values())}


def asked_again() -> str:
    """Ask for a key again while the task that had it is still being cancelled."""
    with cluster(workers=1) as client, tempfile.TemporaryDirectory() as folder:
        future = submit(client, linger, "linger", f"{folder}/flag")
        Event("runs").wait(PATIENCE)
        future.cancel()
        Event("lingers").wait(PATIENCE)
        del future
        again = submit(client, linger, "linger", f"{folder}/flag")
        until(lambda: set(client.run(state_of, "linger").values()) == {"executing"}, "the second wish")
        Event("go on").set()
        result: str = again.result(PATIENCE)
        return result


def dask_alone() -> int:
    """Cancel a future whose task does not use the plugin; end its helper, and return what the task says of it."""
    with cluster(workers=1, threads=1, plugin=False) as client:
        future = submit(client, sleep_on, "sleep")
        pid = pid_from("sleep")
        future.cancel()
        until(lambda: set(client.run(state_of, "sleep").values()) == {"cancelled"}, "the worker to know")
        os.kill(pid, signal.SIGTERM)
        status: int = Variable("sleep ended").get(timeout=PATIENCE)
        return status


def retired() -> dict[str, bool]:
    """Retire a worker whose helper runs."""
    with cluster() as client:
        future = submit(client, sleep, "sleep")
        pid = pid_from("sleep")
        parent = psutil.Process(pid).ppid()
        (worker,) = [address for address, worker in client.run(os.getpid).items() if worker == parent]
        client.retire_workers([worker])
        wait_gone(pid)
        another = pid_from("sleep", pid)
        found = {"another worker": psutil.Process(another).ppid() not in {parent, 1}}
        future.cancel()
        wait_gone(another)
        return found


def closed() -> list[bool]:
    """Close a cluster whose helpers run."""
    with cluster(threads=4) as client:
        futures = [submit(client, sleep, f"sleep-{number}") for number in range(4)]
        pids = [pid_from(f"sleep-{number}") for number in range(4)]
        del futures[2:]
    return [psutil.pid_exists(pid) for pid in pids]


def worker_ended(number: int, before: list[str]) -> dict[str, bool]:
    """Send a worker a signal while its helper runs, with nothing or a program in front of it."""
    with cluster() as client:
        future = submit(client, sleep, "sleep", *before)
        helper = psutil.Process(pid_from("sleep"))
        os.kill(helper.ppid(), number)
        another = pid_from("sleep", helper.pid)
        if before:
            until(lambda: ended(helper), "the kernel to end the helper")
        found = {"survives": not ended(helper), "runs again": psutil.pid_exists(another)}
        if found["survives"]:
            helper.kill()
        future.cancel()
        wait_gone(another)
        return found


def ended(process: psutil.Process) -> bool:
    """Tell whether a process has ended, reaped or not: orphans are reaped by somebody else."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def program(answer: int, *before: str) -> None:
    """Have a helper, write its pid and its worker's, and wait: what is to be killed."""
    with cluster(workers=1) as client:
        future = submit(client, sleep, "sleep", *before)
        pid = pid_from("sleep")
        os.write(answer, b"%d %d\n" % (pid, psutil.Process(pid).ppid()))
        future.result()


def at_once() -> dict[str, Any]:
    """Have more tasks than the worker has threads; and one task with more helpers than that."""
    with cluster(workers=1, threads=2) as client:
        peak = submit(client, several, "several", 6).result(PATIENCE)
    with cluster(workers=1, threads=2) as client:
        keys = [f"quick-{number}" for number in range(24)]
        client.gather(client.map(quick, keys, key=keys))
        (tasks,) = client.run(lambda: aiovfork.stats().alive_peak).values()
    return {"one task": peak, "many tasks": tasks}


def held() -> dict[str, Any]:
    """Have a helper whose exec does not return, and look at what else its worker does meanwhile."""
    with cluster(workers=1) as client, tempfile.TemporaryDirectory() as folder:
        with held_program(pathlib.Path(folder)) as (path, wait_reached):
            future = submit(client, execute, "held", path)
            wait_reached()
            found = {
                "task": submit(client, quick, "quick").result(PATIENCE),
                "call": list(client.run(alive).values()),
                "held": future.status,
            }
        return {**found, "result": future.result(PATIENCE)}
