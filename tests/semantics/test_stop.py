"""Process.stop(), and what is said of a child's end where it is created: teardown=, on_cancel=."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

import aiovfork
from aiovfork import Teardown
from tests.support.trees import Tree, Trees, trees
from tests.support.window import until

#: A child that ends by itself when it is asked to, and its descendant: that one may miss the signal, as long as it is
#: a copy of the shell.
POLITE = "trap 'say asked; kill -9 $!; exit 7' TERM; sleep 60 & say ready; wait"
#: A child and a descendant that ignore SIGTERM.
IGNORES = "trap '' TERM; sleep 60 & say ready; wait"


@pytest.fixture
def started() -> Iterator[Trees]:
    """Trees of the test's own."""
    with trees() as found:
        yield found


async def test_the_exit_status(started: Trees) -> None:
    """stop() returns the status, as wait() does: the child's own answer to the signal, or the signal."""
    tree = await started.start(POLITE, process_group=0)
    assert await tree.process.stop(patience=60) == 7
    assert tree.process.returncode == 7


async def test_each_signal_in_turn(started: Trees) -> None:
    """The signals come in the order given, each with its patience."""
    script = "trap '' TERM; trap 'say two; exit 8' USR1; trap 'say one' INT; sleep 60 & say ready; wait; wait; wait"
    tree = await started.start(script, process_group=0)
    stopped = await tree.process.stop(signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, patience=0.2)
    assert stopped == 8
    await tree.heard("one")
    await tree.heard("two")


async def test_again(started: Trees) -> None:
    """stop() can be repeated, at the same time and afterwards, and nothing is raised for what is over."""
    tree = await started.start(POLITE, process_group=0)
    assert list(await asyncio.gather(tree.process.stop(), tree.process.stop())) == [7, 7]
    assert await tree.process.stop(signal.SIGKILL) == 7
    assert await tree.process.stop(tree=None) == 7


async def test_after_the_exit() -> None:
    """A child that has ended by itself has its own status."""
    process = await aiovfork.create_subprocess_exec("true")
    await process.wait()
    assert await process.stop() == 0


async def test_at_once(started: Trees) -> None:
    """SIGKILL alone is the end without patience."""
    tree = await started.start(IGNORES, process_group=0)
    assert await tree.process.stop(signal.SIGKILL, patience=600) == -signal.SIGKILL
    assert not tree.alive


async def test_teardown_at_the_end_of_a_block(started: Trees) -> None:
    """`async with` ends the child as it was said, and its descendants."""
    tree = await started.start(POLITE, teardown=Teardown(patience=60))
    async with tree.process:
        pass
    assert tree.process.returncode == 7
    assert not tree.alive


async def test_without_a_teardown(started: Trees) -> None:
    """`async with` kills at once, the child alone, as ever."""
    tree = await started.start(POLITE, process_group=0)
    async with tree.process:
        descendant = os.getpgid(tree.process.pid)
    assert tree.process.returncode == -signal.SIGKILL
    assert tree.alive
    os.killpg(descendant, signal.SIGKILL)


async def test_a_block_that_raises(started: Trees) -> None:
    """The exception propagates when the tree has ended."""
    tree = await started.start(POLITE, teardown=Teardown(patience=60))
    with pytest.raises(ZeroDivisionError):
        async with tree.process:
            raise ZeroDivisionError
    assert tree.process.returncode == 7
    assert not tree.alive


@pytest.mark.parametrize("call", ["communicate", "async with"])
@pytest.mark.parametrize(
    ("on_cancel", "expected"), [("kill", -signal.SIGKILL), ("stop", 7), ("detach", None)]
)
async def test_cancelled(started: Trees, call: str, on_cancel: Any, expected: int | None) -> None:
    """on_cancel says what a cancelled communicate() or block does; CancelledError propagates when it is done."""
    tree = await started.start(
        POLITE, stdout=aiovfork.PIPE, on_cancel=on_cancel, teardown=Teardown(patience=60)
    )
    assert await cancelled(tree, call)
    assert tree.process.returncode == expected
    assert tree.alive == (on_cancel == "detach")
    if on_cancel == "detach":
        await tree.process.stop()
    async with tree.process:
        pass


async def test_cancelled_without_a_word(started: Trees) -> None:
    """A cancelled communicate() leaves the child as it is, and can be repeated, as in asyncio."""
    tree = await started.start(POLITE, stdout=aiovfork.PIPE, process_group=0)
    assert await cancelled(tree, "communicate")
    assert tree.process.returncode is None
    await tree.process.stop()
    assert (await tree.process.communicate())[0] == b""


async def test_a_second_cancellation(started: Trees) -> None:
    """While the child is asked to stop, another cancellation kills it at once."""
    tree = await started.start(IGNORES, on_cancel="stop", teardown=Teardown(patience=600))
    assert await cancelled(tree, "async with", times=2)
    assert tree.process.returncode == -signal.SIGKILL
    await until(lambda: not tree.alive)


async def cancelled(tree: Tree, call: str, times: int = 1) -> bool:
    """Cancel a call or a block that waits for the tree, and return whether that was told."""

    async def wait() -> None:
        if call == "communicate":
            await tree.process.communicate()
        else:
            async with tree.process:
                await tree.process.wait()

    task = asyncio.ensure_future(wait())
    for _ in range(times):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.wait([task])
    return task.cancelled()


@pytest.mark.parametrize("of", [Teardown(), None])
async def test_a_group_of_its_own(of: Teardown | None) -> None:
    """A child whose group ends with it leads one, without another word."""
    process = await aiovfork.create_subprocess_exec("sleep", "60", teardown=of)
    async with process:
        assert (os.getpgid(process.pid) == process.pid) == (of is not None)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"signals": (1000,)}, ValueError),
        ({"signals": ("TERM",)}, TypeError),
        ({"signals": 15}, TypeError),
        ({"patience": -1}, ValueError),
        ({"patience": float("nan")}, ValueError),
        ({"patience": float("inf")}, ValueError),
        ({"patience": "5"}, TypeError),
        ({"tree": "family"}, ValueError),
    ],
)
def test_wrong_values(values: dict[str, Any], error: type[Exception]) -> None:
    """A wrong Teardown is refused where it is written."""
    with pytest.raises(error):
        Teardown(**values)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"teardown": 5}, TypeError),
        ({"on_cancel": "ignore"}, ValueError),
        ({"teardown": Teardown(tree="session")}, ValueError),
        ({"teardown": Teardown(tree="cgroup")}, ValueError),
    ],
)
async def test_wrong_options(options: dict[str, Any], error: type[Exception]) -> None:
    """What cannot be had is refused before anything is started."""
    with pytest.raises(error):
        await aiovfork.create_subprocess_exec("true", **options)
    with pytest.raises(error):
        await aiovfork.create_subprocess_shell("true", **options)


async def test_stop_without_a_cgroup() -> None:
    """A tree that the child does not have is refused, and the child is left as it was."""
    process = await aiovfork.create_subprocess_exec("sleep", "60")
    async with process:
        with pytest.raises(ValueError, match="own_cgroup"):
            await process.stop(tree="cgroup")
        with pytest.raises(ValueError, match="no signal"):
            await process.stop(1000)
        assert process.returncode is None
