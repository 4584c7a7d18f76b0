"""The spawners that tests compare: asyncio's own as the reference, aiovfork on each loop.

A test of semantics is a body `async def body(spawn)` that uses only what asyncio offers. compare() runs it
once per backend, each time on a fresh loop, and holds the outcomes, values or exceptions, against asyncio's.

With AIOVFORK_TEST_PLUGGED in the environment the loops are aiovfork's own, and bodies call asyncio's functions
on them: every test of semantics then is one of plugging in. "install" does it with install() on plain loops.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, TypeAlias, TypeVar

import uvloop

import aiovfork
from tests.support.errors import stdlib_type

T = TypeVar("T")
LoopFactory: TypeAlias = Callable[[], asyncio.AbstractEventLoop]

#: Options of a spawn.
PIPES: Final[dict[str, Any]] = dict.fromkeys(("stdin", "stdout", "stderr"), asyncio.subprocess.PIPE)

_loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


def _tracked(factory: LoopFactory) -> LoopFactory:
    def new_loop() -> asyncio.AbstractEventLoop:
        loop = factory()
        _loops.add(loop)
        return loop

    return new_loop


def installed(factory: LoopFactory) -> LoopFactory:
    """Have install() plug aiovfork into each loop of a factory."""

    def new_loop() -> asyncio.AbstractEventLoop:
        loop = factory()
        aiovfork.install(loop)
        return loop

    return new_loop


#: Loops that know nothing of aiovfork, by name.
PLAIN: Final[dict[str, LoopFactory]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}
#: Loops into which aiovfork is plugged, by the way, then by the name of the plain one.
PLUGGED: Final[dict[str, dict[str, LoopFactory]]] = {
    "loop": {"asyncio": aiovfork.new_event_loop, "uvloop": aiovfork.new_uvloop_event_loop},
    "install": {name: installed(factory) for name, factory in PLAIN.items()},
}
#: The same, by one name.
WAYS: Final[dict[str, LoopFactory]] = {
    f"{way}-{name}": factory for way, loops in PLUGGED.items() for name, factory in loops.items()
}
_way: Final = os.environ.get("AIOVFORK_TEST_PLUGGED")

#: The loops that every test of aiovfork runs on, by name.
LOOP_FACTORIES: Final[dict[str, LoopFactory]] = {
    name: _tracked(factory) for name, factory in (PLUGGED[_way] if _way else PLAIN).items()
}


def left_over_tasks() -> list[asyncio.Task[Any]]:
    """Return the unfinished tasks of every open loop that LOOP_FACTORIES made and nobody runs now."""
    idle = [loop for loop in list(_loops) if not loop.is_closed() and not loop.is_running()]
    return [task for loop in idle for task in asyncio.all_tasks(loop)]


@dataclasses.dataclass(frozen=True)
class Backend:
    """A way to spawn: asyncio's functions or aiovfork's, on some loop."""

    name: str
    new_loop: LoopFactory
    is_reference: bool
    calls_asyncio: bool


REFERENCE: Final = Backend("asyncio", _tracked(PLAIN["asyncio"]), is_reference=True, calls_asyncio=True)
OURS: Final = tuple(
    Backend(f"aiovfork on {name}", factory, is_reference=False, calls_asyncio=bool(_way))
    for name, factory in LOOP_FACTORIES.items()
)
BACKENDS: Final = (REFERENCE, *OURS)


class Spawner:
    """What a body spawns with. What it leaves running is killed, reaped and closed when it ends."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.loop = asyncio.get_running_loop()
        self._transports: list[Any] = []

    async def exec(self, *args: Any, **options: Any) -> asyncio.subprocess.Process:
        """As create_subprocess_exec."""
        create: Any = (asyncio if self.backend.calls_asyncio else aiovfork).create_subprocess_exec
        return self._noted(await create(*args, **options))

    async def shell(self, *args: Any, **options: Any) -> asyncio.subprocess.Process:
        """As create_subprocess_shell."""
        create: Any = (asyncio if self.backend.calls_asyncio else aiovfork).create_subprocess_shell
        return self._noted(await create(*args, **options))

    async def protocol_exec(self, factory: Callable[[], Any], *args: Any, **options: Any) -> tuple[Any, Any]:
        """As loop.subprocess_exec."""
        spawn: Any = self.loop.subprocess_exec if self.backend.calls_asyncio else aiovfork.subprocess_exec
        transport, protocol = await spawn(factory, *args, **options)
        self._transports.append(transport)
        return transport, protocol

    async def protocol_shell(self, factory: Callable[[], Any], *args: Any, **options: Any) -> tuple[Any, Any]:
        """As loop.subprocess_shell."""
        spawn: Any = self.loop.subprocess_shell if self.backend.calls_asyncio else aiovfork.subprocess_shell
        transport, protocol = await spawn(factory, *args, **options)
        self._transports.append(transport)
        return transport, protocol

    async def output(self, *args: Any, **options: Any) -> bytes:
        """Run a program to its end and return what it wrote to stdout."""
        process = await self.exec(*args, stdout=asyncio.subprocess.PIPE, **options)
        stdout, _ = await process.communicate()
        return stdout

    def forget(self) -> None:
        """Keep nothing of what was spawned so far."""
        self._transports.clear()

    def _noted(self, process: asyncio.subprocess.Process) -> asyncio.subprocess.Process:
        self._transports.append(process._transport)  # type: ignore[attr-defined]
        return process

    async def clean_up(self) -> None:
        """End what the body has left."""
        for transport in self._transports:
            if transport.get_returncode() is None:
                with contextlib.suppress(ProcessLookupError):
                    transport.kill()
            # Not close() yet: asyncio's polls the child, and takes the status from under its own watcher.
            for pipe in filter(None, map(transport.get_pipe_transport, range(3))):
                pipe.close()
        for transport in self._transports:
            await transport._wait()
            transport.close()
        # asyncio wakes waiters from connection_lost; the pipes' own callbacks follow in the next round.
        await asyncio.sleep(0)


Body: TypeAlias = Callable[[Spawner], Awaitable[T]]


@dataclasses.dataclass(frozen=True)
class Raised:
    """An exception, as far as callers can tell it from another."""

    type: type[BaseException]
    errno: int | None
    filename: Any
    message: str

    @classmethod
    def of(cls, exc: BaseException) -> Raised:
        """Describe exc."""
        return cls(stdlib_type(exc), getattr(exc, "errno", None), getattr(exc, "filename", None), str(exc))


async def _supervised(backend: Backend, body: Body[T]) -> T:
    spawn = Spawner(backend)
    try:
        return await body(spawn)
    finally:
        await spawn.clean_up()
        if not backend.is_reference:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, f"tasks left by {backend.name}"


def run(backend: Backend, body: Body[T]) -> T:
    """Run a body on a fresh loop of a backend, in this thread."""
    with asyncio.Runner(loop_factory=backend.new_loop) as runner:
        return runner.run(_supervised(backend, body))


def outcome(backend: Backend, body: Body[T]) -> T | Raised:
    """Run a body; an exception, other than a failed assertion, is an outcome too."""
    try:
        return run(backend, body)
    except AssertionError:
        raise
    except Exception as exc:  # noqa: BLE001  # it is compared, not swallowed
        return Raised.of(exc)


def _compare(body: Body[T], backends: Iterable[Backend]) -> T | Raised:
    expected = outcome(REFERENCE, body)
    for backend in backends:
        got = outcome(backend, body)
        assert got == expected, f"{backend.name} differs from asyncio: {got!r} != {expected!r}"
    return expected


def compare(body: Body[T], backends: Iterable[Backend] = OURS) -> T:
    """Assert that a body has asyncio's result on each backend, and return it."""
    expected = _compare(body, backends)
    assert not isinstance(expected, Raised), f"asyncio itself raised {expected}"
    return expected


def compare_error(body: Body[Any], backends: Iterable[Backend] = OURS) -> Raised:
    """Assert that a body raises on each backend what it raises with asyncio, and return that."""
    expected = _compare(body, backends)
    assert isinstance(expected, Raised), f"asyncio itself raised nothing but returned {expected!r}"
    return expected


def in_thread(function: Callable[[], T]) -> T:
    """Run a function in a thread of its own, and return its result or raise what it raised."""
    results: list[T] = []
    errors: list[BaseException] = []

    def target() -> None:
        try:
            results.append(function())
        except BaseException as exc:  # noqa: BLE001  # raised again in the caller's thread
            errors.append(exc)

    thread = threading.Thread(target=target, name="test")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def run_on_each(body: Callable[[Spawner], Coroutine[Any, Any, None]]) -> None:
    """Run a body that holds for aiovfork alone on each loop."""
    for backend in OURS:
        run(backend, body)
