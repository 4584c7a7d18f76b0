"""Context variables: a protocol is called in the context of the task that asked for its child."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref

from tests.support.backends import Spawner, run_on_each
from tests.support.protocols import Recorder
from tests.support.window import rounds

REQUEST: contextvars.ContextVar[object] = contextvars.ContextVar("REQUEST")


class Request:
    """Something that a server keeps in a context variable."""


class InContext(Recorder):
    """Notes with each call which request it came for."""

    def _note(self, call: str) -> None:
        super()._note(call)
        self.requests.append(REQUEST.get(None))

    @property
    def requests(self) -> list[object]:
        """The request of each call."""
        found: list[object] = self.__dict__.setdefault("_requests", [])
        return found


def test_each_child_has_its_own_callers_context() -> None:
    """Each callback of a child, the exit included, runs in the context of the task that started it.

    asyncio up to 3.11 calls process_exited and connection_lost in none.
    """

    async def one(spawn: Spawner, request: object) -> list[object]:
        REQUEST.set(request)
        transport, protocol = await spawn.protocol_exec(InContext, "sh", "-c", "echo out; read line")
        await protocol.wait_for("data 1")
        transport.get_pipe_transport(0).close()  # so that it does not exit before it is connected
        await protocol.wait_for("lost")
        return list(protocol.requests)

    async def body(spawn: Spawner) -> None:
        for request in ("first", "second"):
            assert set(await asyncio.create_task(one(spawn, request))) == {request}

    run_on_each(body)


def test_the_first_callers_context_is_not_kept() -> None:
    """What the first task that spawns on a loop had in its context is freed with it, not with the loop."""

    async def one(spawn: Spawner) -> weakref.ref[Request]:
        request = Request()
        REQUEST.set(request)
        await (await spawn.exec("true")).wait()
        spawn.forget()
        return weakref.ref(request)

    async def body(spawn: Spawner) -> None:
        request = await asyncio.create_task(one(spawn))
        await rounds()
        gc.collect()
        assert request() is None

    run_on_each(body)
