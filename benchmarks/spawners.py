"""Who starts the child and on which loop; one way to call them all."""

import asyncio
import dataclasses
import importlib
import shlex
import subprocess
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, cast

from benchmarks.settings import RUN, Settings

# About the time from a spawn to exec, and from exec to the end of /bin/true.
_MOMENT = 0.0003


class Child(Protocol):
    """What the scenarios need of a process."""

    @property
    def pid(self) -> int:
        """Its process id."""

    async def wait(self) -> int:
        """Its return code, once it has ended."""

    async def communicate(self, data: bytes | None = None, /) -> tuple[bytes | None, bytes | None]:
        """Its output, once it has read the data and ended."""


Create = Callable[..., Coroutine[Any, Any, Child]]


class ThreadChild:
    """A Popen whose waits run in asyncio's default thread pool."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    async def wait(self) -> int:
        """Wait in a thread."""
        return await asyncio.to_thread(self._popen.wait)

    async def communicate(self, data: bytes | None = None, /) -> tuple[bytes | None, bytes | None]:
        """Communicate in a thread."""
        return await asyncio.to_thread(self._popen.communicate, data)


async def create_in_thread(program: str, *arguments: str, **options: Any) -> Child:
    """The usual advice: subprocess.Popen in asyncio.to_thread."""

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([program, *arguments], **options)

    return ThreadChild(await asyncio.to_thread(start))


class NoChild:
    """Nothing at all, which ends when a thread says so."""

    pid = 0

    async def wait(self) -> int:
        """Be woken once from a thread, as by an exit."""
        await asyncio.to_thread(time.sleep, _MOMENT)
        return 0

    async def communicate(self, _: bytes | None = None, /) -> tuple[bytes | None, bytes | None]:
        """Return nothing."""
        return None, None


async def create_nothing(*_command: str, **_options: Any) -> Child:
    """No child, but as many wake-ups of the loop: the floor of what spawns can do to it."""
    await asyncio.to_thread(time.sleep, _MOMENT)
    return NoChild()


def spawner(name: str) -> Create:
    """The function that starts a child. Imports only the module that is measured."""
    own: dict[str, Create] = {"to_thread": create_in_thread, "nothing": create_nothing}
    if name in own:
        return own[name]
    return cast("Create", importlib.import_module(name.removesuffix(RUN)).create_subprocess_exec)


def run_function(name: str) -> Callable[..., Awaitable[Any]] | None:
    """The function that runs a child to its end and captures its output, if that is what is measured."""
    if not name.endswith(RUN):
        return None
    return cast("Callable[..., Awaitable[Any]]", importlib.import_module(name.removesuffix(RUN)).run)


def loop_class(name: str) -> type[asyncio.AbstractEventLoop]:
    """The class of the loop."""
    if name == "asyncio":
        return asyncio.SelectorEventLoop
    return cast("type[asyncio.AbstractEventLoop]", importlib.import_module("uvloop").Loop)


@dataclasses.dataclass(frozen=True)
class Subject:
    """The spawn that a scenario repeats."""

    create: Create
    command: tuple[str, ...]
    options: dict[str, Any]
    run: Callable[..., Awaitable[Any]] | None = None

    @classmethod
    def of(cls, settings: Settings, options: dict[str, Any]) -> "Subject":
        """The spawn that settings describe."""
        command = tuple(shlex.split(settings.command))
        return cls(spawner(settings.spawner), command, options, run_function(settings.spawner))

    def start(self) -> Coroutine[Any, Any, Child]:
        """Start one child."""
        return self.create(*self.command, **self.options)

    async def spawn_and_wait(self) -> None:
        """Start one child and wait for its end."""
        child = await self.start()
        await finish(child, piped=self.options.get("stdout") == subprocess.PIPE)

    async def output(self, *command: str, data: bytes | None = None, stdin: int | None = None) -> bytes:
        """Run a child, by default the command, and return its stdout; stderr is captured too."""
        command = command or self.command
        if self.run is not None:
            given: dict[str, Any] = {"input": data} if stdin is None else {"stdin": stdin}
            return cast("bytes", (await self.run(*command, **given)).stdout)
        if stdin is None:
            stdin = subprocess.DEVNULL if data is None else subprocess.PIPE
        child = await self.create(*command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        stdout, _ = await child.communicate(data)
        await finish(child)
        return stdout or b""


async def finish(child: Child, *, piped: bool = False) -> None:
    """Wait for the child's end (and its output's), and insist that it went well."""
    if piped:
        await child.communicate()
    code = await child.wait()
    if code != 0:
        raise RuntimeError(f"the child {child.pid} ended with {code}")


async def repeat(subject: Subject, count: int, at_a_time: int) -> None:
    """Spawn and wait count times, at_a_time at once."""
    await take_turns(subject.spawn_and_wait, count, at_a_time)


async def take_turns(one: Callable[[], Awaitable[None]], count: int, at_a_time: int) -> None:
    """Do it count times, at_a_time at once."""
    left = count

    async def turns() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await one()

    await asyncio.gather(*[turns() for _ in range(at_a_time)])
