"""A plugin for Dask's workers: aiovfork starts their children, and a cancelled future ends its helper."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from distributed import Reschedule, Worker, WorkerPlugin, get_worker

import aiovfork


class Helpers(WorkerPlugin):
    """`client.register_plugin(Helpers())` gives one to each worker, those that come later included."""

    name = "aiovfork-helpers"

    def setup(self, worker: Worker) -> None:  # noqa: ARG002  # the signature is Dask's
        """Have the worker's loop start its children with aiovfork, whoever asks for them."""
        self.running: dict[Any, asyncio.Task[Any] | None] = {}
        self.installation = aiovfork.install()

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002  # likewise
        """Give the loop its own methods back."""
        self.installation.undo()

    def transition(self, key: Any, start: str, finish: str, **_: Any) -> None:
        """Note each task that begins. When Dask stops executing one whose block still runs, cancel that."""
        if finish == "executing":
            self.running[key] = None
        elif start == "executing" and (task := self.running.pop(key, None)) is not None:
            task.cancel()


@contextlib.asynccontextmanager
async def cancellable(key: Any) -> AsyncIterator[None]:
    """Cancel the block when the future of this key is cancelled, or nobody holds it any more."""
    plugin: Any = get_worker().plugins[Helpers.name]
    if key not in plugin.running:  # it was cancelled before it came here
        raise Reschedule
    plugin.running[key] = asyncio.current_task()
    try:
        yield
    finally:
        plugin.running.pop(key, None)
