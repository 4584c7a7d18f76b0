"""pipeline() is interrupted: cancelled at any moment, destroyed, out of descriptors. Nobody is left."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import pathlib
import resource
import signal
from typing import Any

import pytest

import aiovfork
from tests.support.backends import LOOP_FACTORIES
from tests.support.hold import held
from tests.support.isolated import isolated
from tests.support.seccomp import refuse
from tests.support.window import child_in_window, rounds, until
from tests.support.witness import Witness

STUBBORN = ["sh", "-c", "trap '' TERM; sleep 1000 & cat"]


@pytest.mark.parametrize("on_cancel", ["stop", "kill"])
async def test_cancelled_at_any_moment(on_cancel: Any) -> None:
    """However far it has come, in any of the starts or while all run: nobody of the group is left."""
    for turns in [*range(40), *range(40, 400, 23)]:
        with Witness() as witness:
            task = asyncio.ensure_future(
                aiovfork.pipeline(
                    ["yes"], STUBBORN, ["cat"], patience=0, on_cancel=on_cancel, pass_fds=[witness.fd]
                )
            )
            await rounds(turns)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert witness.nobody_lives()


async def test_cancelled_while_one_is_started(tmp_path: pathlib.Path) -> None:
    """Cancelled while the second is in the window and the first runs."""
    async with held(tmp_path) as hold:
        with Witness() as witness:
            task = asyncio.ensure_future(aiovfork.pipeline(["yes"], [hold.path], pass_fds=[witness.fd]))
            await child_in_window(hold)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert witness.nobody_lives()


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("tree", ["group", None])
async def test_cancelled_before_a_start_is_known(tree: Any, again: bool) -> None:
    """The first has started a child before the loop hears that it runs: that child is ended with it."""
    said, say = os.pipe()
    with Witness() as witness, open(said, "rb", buffering=0) as pipe:
        command = ["sh", "-c", "sleep 1000 & echo $! >&2; wait"]
        task = asyncio.ensure_future(
            aiovfork.pipeline(command, ["cat"], stderr=say, tree=tree, patience=1000, pass_fds=[witness.fd])
        )
        await asyncio.sleep(0)  # it has been submitted
        os.close(say)
        descendant = int(pipe.read(100))  # the loop stands still
        task.cancel()
        if again:
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert witness.nobody_lives() == (tree == "group")
        if tree is None:
            os.kill(descendant, signal.SIGKILL)
            witness.wait_gone()


async def _cancelled_without_permission() -> list[Any]:
    """Cancel a pipeline whose programs may not be signalled; tell what comes of it."""
    read_end, write_end = os.pipe()
    before = aiovfork.stats().spawned
    task = asyncio.ensure_future(aiovfork.pipeline(["cat"], ["cat"], stdin=read_end))
    await until(lambda: aiovfork.stats().spawned >= before + 2)
    await until(lambda: aiovfork.stats().in_flight == 0)
    await rounds(3)
    refuse({"pidfd_send_signal": "EPERM", "kill": "EPERM"})
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as info:
        await task
    os.close(write_end)
    os.close(read_end)
    await until(lambda: aiovfork.stats().alive == 0)
    return info.value.__notes__


def test_cancelled_without_permission() -> None:
    """A cancellation stays one where the programs cannot be ended: a note says so."""
    (note,) = isolated(_cancelled_without_permission, loop="asyncio")
    assert "could not be ended" in note


async def test_a_cancellation_has_the_output(tmp_path: pathlib.Path) -> None:
    """The CancelledError has as `result` what was written until then."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    said = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with Witness() as witness, open(said, "rb", buffering=0) as pipe:
        command = ["sh", "-c", f"echo out; echo err >&2; echo . >{fifo}; sleep 1000 & wait"]
        task = asyncio.ensure_future(aiovfork.pipeline(["true"], command, pass_fds=[witness.fd]))
        await until(pipe.read)
        await until(lambda: aiovfork.stats().in_flight == 0)
        await rounds(3)  # it may run before this process hears of that
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as info:
            await task
        assert witness.nobody_lives()
    result: aiovfork.PipelineResult[bytes] = info.value.result  # type: ignore[attr-defined]
    assert (result.stdout, result.stderr) == (b"out\n", (b"", b"err\n"))


async def test_cancelled_again() -> None:
    """A second cancellation does not wait for programs that ignore the signal."""
    with Witness() as witness:
        task = asyncio.ensure_future(
            aiovfork.pipeline(["yes"], STUBBORN, STUBBORN, patience=1000, pass_fds=[witness.fd])
        )
        before = aiovfork.stats().spawned
        await until(lambda: aiovfork.stats().spawned >= before + 3)
        task.cancel()
        await rounds(10)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert witness.nobody_lives()


@pytest.mark.parametrize("loop", list(LOOP_FACTORIES))
def test_destroyed(loop: str) -> None:
    """A coroutine that is destroyed waits for nothing; all are killed."""

    async def main(witness: Witness) -> None:
        before = aiovfork.stats().spawned
        coroutine = aiovfork.pipeline(["yes"], STUBBORN, ["cat"], pass_fds=[witness.fd])
        while aiovfork.stats().spawned < before + 3:
            waiting: Any = coroutine.send(None)
            waiting._asyncio_future_blocking = False
            await asyncio.wait([waiting])
        coroutine.close()
        witness.wait_gone()
        await until(lambda: aiovfork.stats().alive == 0)

    with Witness() as witness, asyncio.Runner(loop_factory=LOOP_FACTORIES[loop]) as runner:
        runner.run(main(witness))


async def _with_few_descriptors(free: int) -> list[Any]:
    """Run a pipeline with so many free descriptors; tell how that went."""
    taken = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    await aiovfork.pipeline(["true"], ["true"])
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    for _ in range(free):
        os.close(taken.pop())
    try:
        result: list[Any] = list((await aiovfork.pipeline(["true"], ["true"], ["true"])).returncodes)
    except OSError as exc:
        result = [exc.errno]
    await until(lambda: aiovfork.stats().alive == 0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for fd in taken:
        os.close(fd)
    return result


@pytest.mark.parametrize("loop", list(LOOP_FACTORIES))
@pytest.mark.parametrize("free", [0, 1, 2, 4, 6, 8, 10, 12, 14, 50])
def test_few_descriptors(free: int, loop: str) -> None:
    """Where the descriptors end in the middle it is EMFILE, and nobody is left."""
    found = isolated(_with_few_descriptors, free, loop=loop)
    assert found in ([errno.EMFILE], [0, 0, 0])
    assert free > 2 or found == [errno.EMFILE]
    assert free < 50 or found == [0, 0, 0]


async def test_a_stopped_program() -> None:
    """Programs that are stopped are ended, too."""
    with Witness() as witness:
        stopped = ["sh", "-c", "kill -STOP $$; cat"]
        with pytest.raises(aiovfork.ProcessTimeout) as info:
            await aiovfork.pipeline(["yes"], stopped, timeout=0.2, pass_fds=[witness.fd])
        assert witness.nobody_lives()
    assert info.value.result.returncodes[1] == -signal.SIGTERM  # type: ignore[attr-defined]
