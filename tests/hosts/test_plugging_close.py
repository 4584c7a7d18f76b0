"""The end of a plugged loop: children that still run are ended, nothing hangs, nothing speaks from __del__."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
from typing import Any

import psutil
import pytest

import aiovfork
from tests.support.backends import PIPES, WAYS, LoopFactory
from tests.support.finalizers import quiet_finalizers
from tests.support.hold import SIGNAL, Hold, copied, held
from tests.support.window import BOUND

GRACEFUL = pathlib.Path(__file__).parents[1] / "children" / "graceful.py"

every_plugged_loop = pytest.mark.parametrize("factory", WAYS.values(), ids=WAYS)
every_stdio = pytest.mark.parametrize("stdio", [{}, PIPES], ids=["inherited", "pipes"])


@every_plugged_loop
@every_stdio
def test_closing_ends_the_children(factory: LoopFactory, stdio: dict[str, Any]) -> None:
    """P10. loop.close() kills the children that run, and has them reaped, while somebody still holds them."""
    with quiet_finalizers():
        with asyncio.Runner(loop_factory=factory) as runner:
            processes = [
                runner.run(asyncio.create_subprocess_exec("sleep", "1000", **stdio)) for _ in range(10)
            ]
            children = [psutil.Process(process.pid) for process in processes]
            assert aiovfork.stats().alive == 10
        assert aiovfork.stats().alive == 0
        for child in children:
            child.wait(60)
        for process in processes:
            assert process.returncode is None  # nobody was there to hear of it
            with pytest.raises(ProcessLookupError):
                process.kill()
        del process, processes


@every_plugged_loop
def test_other_loops_keep_theirs(factory: LoopFactory) -> None:
    """Closing one loop does nothing to the children of another."""
    with quiet_finalizers(), asyncio.Runner(loop_factory=factory) as kept:
        process = kept.run(asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1))
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(asyncio.create_subprocess_exec("sleep", "1000"))
        assert kept.run(process.communicate(b"still there"))[0] == b"still there"
        assert process.returncode == 0


@every_plugged_loop
def test_close_is_refused_while_the_loop_runs(factory: LoopFactory) -> None:
    """close() of a running loop is the loop's own RuntimeError, and the children live on."""

    async def body() -> None:
        process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
        with pytest.raises(RuntimeError, match=r"[Cc]annot close a running event loop|running"):
            asyncio.get_running_loop().close()
        assert (await process.communicate(b"still there"))[0] == b"still there"
        again = await asyncio.create_subprocess_exec("true")
        assert isinstance(again._transport, aiovfork.SubprocessTransport)  # type: ignore[attr-defined]
        assert await again.wait() == 0

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(body())


def test_a_close_that_fails() -> None:
    """A loop whose own close() fails stays plugged: later spawns do not silently go another way."""

    class Loop(asyncio.SelectorEventLoop):
        fails = True

        def close(self) -> None:
            if self.fails:
                raise OSError
            super().close()

    loop = Loop()
    aiovfork.install(loop)
    with pytest.raises(OSError):  # noqa: PT011  # that one
        loop.close()
    process = loop.run_until_complete(asyncio.create_subprocess_exec("true"))  # the loop is the running one
    assert isinstance(process._transport, aiovfork.SubprocessTransport)  # type: ignore[attr-defined]
    assert loop.run_until_complete(process.wait()) == 0
    loop.fails = False
    loop.close()
    assert loop.is_closed()


@every_plugged_loop
def test_closing_twice_and_without_children(factory: LoopFactory) -> None:
    """close() is idempotent, and is the plain one where no child was ever started."""
    loop = factory()
    loop.close()
    loop.close()
    assert loop.is_closed()
    loop = factory()
    process = loop.run_until_complete(asyncio.create_subprocess_exec("true"))  # the loop is the running one
    assert loop.run_until_complete(process.wait()) == 0
    loop.close()
    loop.close()
    assert loop.is_closed()


@every_plugged_loop
def test_closing_under_spawns_that_hang(factory: LoopFactory, tmp_path: pathlib.Path) -> None:
    """P10. close() with spawns in the window, and others in the queue behind them, ends them all, and returns.

    The loop is closed as it stands, without a cancellation of the tasks.
    """
    children: list[psutil.Process] = []

    async def begin(hold: Hold) -> list[asyncio.Task[Any]]:
        asyncio.get_running_loop().add_signal_handler(SIGNAL, hold.reached.set)
        tasks = [asyncio.ensure_future(asyncio.create_subprocess_exec(hold.path)) for _ in range(BOUND + 4)]
        await hold.reached.wait()
        asyncio.get_running_loop().remove_signal_handler(SIGNAL)
        children.extend(psutil.Process().children())
        return tasks

    hold = Hold(copied(tmp_path))
    with quiet_finalizers():
        loop = factory()
        tasks = loop.run_until_complete(begin(hold))
        for task in tasks:
            # asyncio's own complaint about an unfinished task is not the matter of this test.
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()
        assert children
        for child in children:
            child.wait(60)
        hold.release()
        del tasks, task, loop


@pytest.mark.parametrize("loop", WAYS)
@pytest.mark.parametrize(
    ("signals", "number", "said"),
    [
        ("runner", signal.SIGINT, "KeyboardInterrupt"),
        ("handler", signal.SIGTERM, "CancelledError"),
        ("handler", signal.SIGINT, "CancelledError"),
    ],
    ids=["Runner-SIGINT", "handler-SIGTERM", "handler-SIGINT"],
)
@pytest.mark.parametrize("when", ["running", "in mid-spawn"])
async def test_a_server_that_is_told_to_end(
    loop: str, signals: str, number: int, said: str, when: str, tmp_path: pathlib.Path
) -> None:
    """P10. SIGTERM and SIGINT end a server with a child that runs, or hangs in exec: at once, the child with it.

    Nothing is said on stderr, with every warning shown but the one that the child was left running.
    """
    async with held(tmp_path) as hold:
        command = ["sleep", "1000"] if when == "running" else [hold.path]
        server = await aiovfork.create_subprocess_exec(
            sys.executable, "-W", "default", "-W", "ignore::ResourceWarning", GRACEFUL, loop, signals, *command,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        async with server:
            assert server.stdout is not None
            assert await server.stdout.readline() == b"spawning\n"
            if when == "running":
                line = await server.stdout.readline()
                helper = psutil.Process(int(line.removeprefix(b"running ")))
            else:
                await hold.reached.wait()
                (helper,) = psutil.Process(server.pid).children()
            server.send_signal(number)
            stdout, stderr = await server.communicate()
            assert (stdout, stderr) == (f"{said}\n".encode(), b"")
            assert server.returncode == 0
            await asyncio.to_thread(helper.wait, 10)


@pytest.mark.parametrize("loop", WAYS)
def test_a_program_that_leaves_its_child_running(loop: str) -> None:
    """A child with pipes that outlives its loop ends with it, and nothing but ResourceWarnings is said.

    asyncio's own transport complains from __del__ that the loop is closed, and leaves an orphan.
    """
    program = (
        "import asyncio, sys\n"
        "from tests.support.backends import WAYS\n"
        "async def main():\n"
        "    process = await asyncio.create_subprocess_exec('sleep', '1000', stdin=-1, stdout=-1, stderr=-3)\n"
        "    print(process.pid, flush=True)\n"
        "    return process\n"
        "with asyncio.Runner(loop_factory=WAYS[sys.argv[1]]) as runner:\n"
        "    process = runner.run(main())\n"
        "del process, runner\n"
    )
    env = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    command = [sys.executable, "-W", "default", "-c", program, loop]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert not re.search(r"Exception ignored|Error", done.stderr)
    assert "unclosed transport <SubprocessTransport running" in done.stderr
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(done.stdout)).wait(60)
