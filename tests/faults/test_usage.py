"""Wrong use of loops and threads: the stdlib's error at once, and nothing is left of it."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
from typing import Any, Final

import pytest

import aiovfork
from aiovfork import PIPE, _binding
from aiovfork._port import CompletionPort
from aiovfork._ports import port_of
from tests.support.backends import LOOP_FACTORIES, LoopFactory
from tests.support.errors import stdlib_type
from tests.support.isolated import isolated
from tests.support.window import BOUND

loops = pytest.mark.parametrize("new_loop", LOOP_FACTORIES.values(), ids=LOOP_FACTORIES)


def _step(coroutine: Any) -> Any:
    """Run a coroutine as far as it goes without a loop."""
    try:
        coroutine.send(None)
    finally:
        coroutine.close()


@pytest.mark.parametrize(
    "spawn",
    [
        lambda: aiovfork.create_subprocess_exec("true"),
        lambda: aiovfork.create_subprocess_shell("true"),
        lambda: aiovfork.subprocess_exec(asyncio.SubprocessProtocol, "true"),
        lambda: aiovfork.subprocess_shell(asyncio.SubprocessProtocol, "true"),
    ],
    ids=["exec", "shell", "protocol exec", "protocol shell"],
)
def test_no_running_loop(spawn: Any) -> None:
    """Without a running loop: RuntimeError, and nothing is started."""
    before = aiovfork.stats()
    with pytest.raises(RuntimeError, match="no running event loop"):
        _step(spawn())
    assert aiovfork.stats() == before


@loops
def test_a_closed_loop(new_loop: LoopFactory) -> None:
    """A coroutine for a loop that is closed is refused by the loop; a later loop works."""
    loop = new_loop()
    loop.close()
    spawn = aiovfork.create_subprocess_exec("true")
    with pytest.raises(RuntimeError, match="closed"):
        loop.run_until_complete(spawn)
    spawn.close()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(_code("true")) == 0


async def _code(*argv: str) -> int:
    return await (await aiovfork.create_subprocess_exec(*argv)).wait()


@loops
def test_a_process_whose_loop_is_closed(new_loop: LoopFactory) -> None:
    """Signals still reach the child, and reaching for its end tells that the loop is closed; close() ends it."""
    loop = new_loop()
    process = loop.run_until_complete(aiovfork.create_subprocess_exec("sleep", "1000"))
    loop.close()
    process.send_signal(0)
    wait = process.wait()
    with pytest.raises(RuntimeError):
        loop.run_until_complete(wait)
    wait.close()
    process._transport.close()
    del process, loop
    gc.collect()


@loops
def test_many_loops_one_after_the_other(new_loop: LoopFactory) -> None:
    """A hundred loops, each with its spawn: none leaves a port behind."""
    for _ in range(100):
        with asyncio.Runner(loop_factory=new_loop) as runner:
            assert runner.run(_code("true")) == 0


@loops
def test_loops_in_foreign_threads(new_loop: LoopFactory) -> None:
    """Eight threads, each with a loop of its own that was never announced to anybody, spawn at the same time."""

    def run(number: int) -> list[int]:
        async def spawn() -> list[int]:
            return await asyncio.gather(*(_code("/bin/sh", "-c", f"exit {number}") for _ in range(20)))

        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(spawn())

    async def all_at_once() -> list[list[int]]:
        return await asyncio.gather(*(asyncio.to_thread(run, number) for number in range(8)))

    assert asyncio.run(all_at_once()) == [[number] * 20 for number in range(8)]


async def test_a_process_is_signalled_from_another_thread() -> None:
    """kill() needs no loop: the pidfd is known to the core, and the lock is the core's."""
    process = await aiovfork.create_subprocess_exec("sleep", "1000")
    await asyncio.to_thread(process.kill)
    assert await process.wait() == -signal.SIGKILL


async def test_a_ticket_that_is_over() -> None:
    """A stale ticket reaches nobody: neither cancel nor kill nor dispose, however often it is used."""
    process = await aiovfork.create_subprocess_exec("true")
    ticket = process._transport._ticket
    await process.wait()
    others = [await aiovfork.create_subprocess_exec("sleep", "1000") for _ in range(2 * BOUND)]
    for stale in (ticket, 0, 1, 2**32, 2**64 - 1, *(other._transport._ticket + 2**32 for other in others)):
        assert not CompletionPort.cancel(stale)
        with pytest.raises(ProcessLookupError):
            CompletionPort.kill(stale, signal.SIGKILL)
        CompletionPort.dispose(stale)
    for other in others:
        other.send_signal(0)
        other.kill()
    assert {await other.wait() for other in others} == {-signal.SIGKILL}


async def test_a_signal_that_does_not_exist() -> None:
    """send_signal() with a wrong number is EINVAL, and the child goes on."""
    async with await aiovfork.create_subprocess_exec("sleep", "1000") as process:
        for number in (-1, 65, 1000):
            with pytest.raises(OSError, match="Invalid argument"):
                process.send_signal(number)
        assert process.returncode is None


@pytest.mark.parametrize(
    "damage", [b"", b"\0", b"\0" * 60, b"\xff" * 72, b"\0" * 72, b"\xff" * 4096], ids=len
)
async def test_a_damaged_plan(damage: bytes) -> None:
    """A block that is no plan is refused before anything is started: EINVAL at step plan."""
    lib, ffi = _binding.lib, _binding.ffi
    port = port_of(asyncio.get_running_loop())
    step = ffi.new("int32_t *")
    assert lib.avf_spawn(port._port, damage, len(damage), _binding.ffi.NULL, step) == -22
    assert _binding.step_name(step[0]) == "plan"


async def test_a_plan_with_any_byte_changed() -> None:
    """A plan with one field changed is refused, fails, or runs: it never makes the core read beyond it."""
    from aiovfork import _plan  # noqa: PLC0415  # private, for this test
    from aiovfork._options import Command, Options  # noqa: PLC0415  # likewise

    lib, ffi = _binding.lib, _binding.ffi
    plan = _plan.build(Command(("true", "argument"), PIPE, None, None, Options(cwd="/", umask=0o22)))
    port = port_of(asyncio.get_running_loop())
    step = ffi.new("int32_t *")
    header = _binding.PLAN.size
    refused = 0
    for at in range(0, header + 2 * _binding.PLAN_STEP.size, 4):
        for value in (2**31, 2**32 - 1, len(plan.block), len(plan.block) - 1, header + 1):
            changed = bytearray(plan.block)
            changed[at : at + 4] = value.to_bytes(4, "little")
            ticket = lib.avf_spawn(port._port, bytes(changed), len(changed), _binding.ffi.NULL, step)
            if ticket > 0:
                CompletionPort.dispose(ticket)
                port._sinks[ticket] = _Ignored(ticket)
            refused += ticket < 0
    assert refused > 50
    while any(isinstance(sink, _Ignored) for sink in port._sinks.values()):
        await asyncio.sleep(0)


class _Ignored:
    """A sink for children that nobody wants."""

    def __init__(self, ticket: int) -> None:
        self.ticket = ticket

    def spawned(self, event: Any) -> None:
        for fd in event.parent_end:
            if fd >= 0:
                os.close(fd)
        CompletionPort.dispose(self.ticket)

    def failed(self, error: int, step: int, status: int) -> None:
        """It has failed."""

    def exited(self, event: Any) -> None:
        """It was killed."""


def _under_valgrind() -> list[Any]:
    async def spawn() -> list[Any]:
        found: list[Any] = [_binding.probe().memory_shared]
        for argv, options in [(["/no/such/program"], {}), (["true"], {"cwd": "/no/such"}), (["/etc"], {})]:
            try:
                await aiovfork.create_subprocess_exec(*argv, **options)  # type: ignore[arg-type]
            except OSError as exc:
                found.append([stdlib_type(exc).__name__, exc.step])  # type: ignore[attr-defined]
        process = await aiovfork.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        output, _ = await process.communicate(b"works")
        return [*found, (output or b"").decode(), process.returncode, process.spawn_info.report]

    return asyncio.run(spawn())


# Without its memory checker: tools/under_valgrind.py has that, without pytest and uvloop, which are not clean.
VALGRIND: Final = ["valgrind", "--tool=none", "--quiet", "--trace-children=no"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="needs valgrind")
@pytest.mark.skipif(
    "libasan" in os.environ.get("LD_PRELOAD", ""), reason="valgrind and ASan exclude each other"
)
def test_where_vfork_does_not_share_memory() -> None:
    """P4. Under valgrind, where vfork copies memory, a failed exec is FileNotFoundError, not exit 127."""
    found = isolated(_under_valgrind, prefix=VALGRIND, check_leaks=False, timeout=110)
    assert found == [
        0,
        ["FileNotFoundError", "exec"],
        ["FileNotFoundError", "chdir"],
        ["PermissionError", "exec"],
        *["works", 0, "pipe"],
    ]
