"""Helpers on several processes, or machines: Dask's workers run them; results and failures come back."""
# mypy: disable-error-code="no-untyped-call,unused-coroutine,attr-defined"
# Much of distributed has no types, and a future's result is not the coroutine; exc.step is aiovfork's.

import hashlib
import logging
import os
import subprocess
from asyncio.subprocess import PIPE

from dask_plugin import Helpers, cancellable  # type: ignore[import-not-found]  # it lies beside this file
from distributed import Client, Event, LocalCluster

import aiovfork

INPUTS = [b"%d" % number for number in range(32)]


async def digest(key: str, data: bytes, program: str = "sha256sum") -> tuple[str, int]:
    """Return the digest of the data, and which worker ran it. key is the key of this task's future."""
    async with (
        cancellable(key),
        await aiovfork.create_subprocess_exec(program, stdin=PIPE, stdout=PIPE, stderr=PIPE) as process,
    ):
        output, complaint = await process.communicate(data)
    if process.returncode or not output:
        raise subprocess.CalledProcessError(process.returncode or 0, program, output, complaint)
    return output.decode().split()[0], os.getpid()


async def sleep(key: str) -> None:
    """Run a helper that does not end by itself. Tell when it has begun, and when it has been reaped."""
    try:
        async with cancellable(key), await aiovfork.create_subprocess_exec("sleep", "1000") as process:
            await Event("begun").set()
            await process.wait()
    finally:
        await Event("over").set()


def show(client: Client) -> None:
    """Show results, a failure and a cancellation."""
    keys = [f"digest-{number}" for number in range(len(INPUTS))]
    answers = client.gather(client.map(digest, keys, INPUTS, key=keys))
    right = [hashlib.sha256(data).hexdigest() for data in INPUTS] == [text for text, _ in answers]
    print(f"{len(answers)} digests of {len({pid for _, pid in answers})} workers, all right: {right}")

    try:
        client.submit(digest, "absent", b"", "no-such-program", key="absent").result()
    except FileNotFoundError as error:
        print(f"failed at step {error.step}: {error}")

    future = client.submit(sleep, "sleep", key="sleep")
    Event("begun").wait()
    future.cancel()
    Event("over").wait()
    alive = client.run(lambda: aiovfork.stats().alive)
    print(f"{future.status}, helpers alive: {sum(alive.values())}")


if __name__ == "__main__":
    # Processes of this machine, with room for four tasks each. show() prints failures, so Dask logs none.
    options = {"host": "127.0.0.1", "dashboard_address": None, "silence_logs": logging.CRITICAL}
    with LocalCluster(n_workers=2, threads_per_worker=4, **options) as cluster, Client(cluster) as client:
        client.register_plugin(Helpers())
        show(client)
