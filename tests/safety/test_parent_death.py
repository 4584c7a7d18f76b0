"""P9, and a parent that ends or executes something else while a child is in the window."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys
from typing import Any, Final

import pytest

import aiovfork
from aiovfork import PIPE, park_workers
from tests.support.backends import LOOP_FACTORIES, LoopFactory
from tests.support.hold import Hold
from tests.support.isolated import ROOT, isolated
from tests.support.window import children_in_window, until

#: How a parent may go while its child is in the window.
ENDS = ["_exit", "exit", "exec", "kill"]


def _spawn_then(how: str, program: str, pdeathsig: str = "") -> None:
    """Spawn a program that is held, and end when its child is in the window."""
    options: Any = {"pdeathsig": int(pdeathsig)} if pdeathsig else {}

    async def spawn() -> None:
        for _ in range(3):
            asyncio.ensure_future(  # noqa: RUF006  # nobody waits
                aiovfork.create_subprocess_exec(program, **options)
            )
        await until(lambda: len(children_in_window()) == 3)
        sys.stdout.flush()
        if how == "_exit":
            os._exit(0)
        elif how == "exec":
            os.execv("/bin/true", ["true"])
        elif how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(spawn())
    sys.exit(0)


_PROGRAM = "import sys; sys.path.append({root!r}); from tests.safety.test_parent_death import _spawn_then as f; f(*sys.argv[1:])"


@pytest.mark.parametrize("how", ENDS)
def test_a_parent_that_ends_in_the_window(how: str, tmp_path: pathlib.Path) -> None:
    """P12. exit(), exec() and death of the parent find nothing unmapped: it ends cleanly, and its children still exec."""
    program = tmp_path / "program"
    shutil.copy(shutil.which("cat") or "", program)
    hold = Hold(str(program))
    read_end, write_end = os.pipe()
    parent = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", _PROGRAM.format(root=str(ROOT)), how, str(program)],
        stdin=subprocess.DEVNULL,
        stdout=write_end,
        stderr=subprocess.PIPE,
        cwd="/",
        text=True,
    )
    os.close(write_end)
    assert parent.stderr is not None
    code = parent.wait(30)
    assert code == (-signal.SIGKILL if how == "kill" else 0)
    hold.release()
    # The children, whose parent is gone, hold the other end until cat has run.
    readable, _, _ = select.select([read_end], [], [], 30)
    assert readable
    assert os.read(read_end, 1) == b""
    os.close(read_end)
    said = parent.stderr.read()
    parent.stderr.close()
    assert "Fatal" not in said
    assert "SIGSEGV" not in said


needs_setpriv = pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (util-linux)")
SETPRIV = ["setpriv", "--pdeathsig", "TERM", "sh", "-c"]


@needs_setpriv
@pytest.mark.usefixtures("engine_mode")
async def test_a_death_signal_does_not_mean_the_worker() -> None:
    """P9. Programs that ask for a death signal by themselves (bwrap --die-with-parent) do not get it from a worker's end."""
    script = "echo asked; read line; exit 3"

    async def spawn() -> int | None:
        process = await aiovfork.create_subprocess_exec(*SETPRIV, script, stdin=PIPE, stdout=PIPE)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"asked\n"
        others = [await aiovfork.create_subprocess_exec("true") for _ in range(2)]
        await asyncio.gather(*(other.wait() for other in others))
        await process.communicate(b"line\n")
        return process.returncode

    assert await asyncio.gather(*(spawn() for _ in range(30))) == [3] * 30


async def _spawn_with_setpriv(write_end: int) -> None:
    await aiovfork.create_subprocess_exec(*SETPRIV, "echo $$; exec sleep 1000", stdout=write_end)
    os.close(write_end)
    await asyncio.Event().wait()


@needs_setpriv
def test_a_death_signal_means_the_process() -> None:
    """P9. kill -9 of the process: a child that has asked for a death signal gets it."""
    read_end, write_end = os.pipe()
    code = (
        f"import asyncio, sys; sys.path.append({str(ROOT)!r});"
        "from tests.safety.test_parent_death import _spawn_with_setpriv as f;"
        f"asyncio.run(f({write_end}))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], pass_fds=[write_end])
    os.close(write_end)
    with open(read_end, "rb") as lives:
        assert int(lives.readline()) > 0
        parent.kill()
        assert parent.wait() == -signal.SIGKILL
        assert lives.read() == b""  # at the death of the last process that has the other end


#: More than workers that park for children that have not asked for it.
MANY: Final = 100
AS_MYSELF: Final[dict[str, Any]] = {"user": os.geteuid()}
AS_NOBODY: Final[dict[str, Any]] = {"user": 65534, "group": 65534, "extra_groups": []}
OTHERS: Final = [{}, AS_MYSELF, *([AS_NOBODY] if os.geteuid() == 0 else [])]


@pytest.mark.parametrize("options", OTHERS, ids=["direct", "launcher", "another user"][: len(OTHERS)])
async def test_a_declared_death_signal_does_not_mean_the_worker(options: dict[str, Any]) -> None:
    """P9. However many children have one, and whoever they are: none gets its signal while the process lives."""
    read_end, write_end = os.pipe()
    park_workers(enabled=False)  # says nothing about children whose signal was declared
    try:
        children = [
            await aiovfork.create_subprocess_exec("cat", stdin=read_end, pdeathsig=signal.SIGTERM, **options)
            for _ in range(MANY)
        ]
    finally:
        park_workers(enabled=True)
        os.close(read_end)
        os.close(write_end)
    assert await asyncio.gather(*(child.wait() for child in children)) == [0] * MANY


async def _with_declared(write_end: int, how: str, options: dict[str, Any]) -> None:
    for _ in range(3):
        await aiovfork.create_subprocess_exec(
            "sh", "-c", "echo $$; exec sleep 1000", stdout=write_end, pdeathsig=signal.SIGKILL, **options
        )
    os.close(write_end)
    if how == "idle":
        await asyncio.Event().wait()


def _parent(write_end: str, how: str, loop: str, options: str) -> None:
    """Start children, and then wait: in a loop that runs, or without one."""
    factory = LOOP_FACTORIES[loop]
    running = factory()
    running.run_until_complete(_with_declared(int(write_end), how, json.loads(options)))
    signal.pause()


@pytest.mark.parametrize("options", OTHERS, ids=["direct", "launcher", "another user"][: len(OTHERS)])
@pytest.mark.parametrize("how", ["idle", "stopped"])
@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_a_declared_death_signal_means_the_process(loop: str, how: str, options: dict[str, Any]) -> None:
    """P9. kill -9 of the process ends its children, whether its loop is idle or has stopped, and whoever they are."""
    read_end, write_end = os.pipe()
    code = (
        f"import sys; sys.path.append({str(ROOT)!r});"
        "from tests.safety.test_parent_death import _parent as f; f(*sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, str(write_end), how, loop, json.dumps(options)]
    parent = subprocess.Popen(command, pass_fds=[write_end])
    os.close(write_end)
    with open(read_end, "rb") as lives:
        assert all(int(lives.readline()) > 0 for _ in range(3))
        parent.kill()
        assert parent.wait() == -signal.SIGKILL
        assert lives.read() == b""  # at the death of the last process that has the other end


@pytest.mark.parametrize("factory", LOOP_FACTORIES.values(), ids=LOOP_FACTORIES)
def test_a_declared_death_signal_and_a_closed_loop(factory: LoopFactory) -> None:
    """P9. The end of the loop that has started a child is not the death of the process."""
    read_end, write_end = os.pipe()
    lives, living = os.pipe()

    async def start() -> None:
        script = "echo ready; cat; echo not killed"
        call = aiovfork.run(
            "sh", "-c", script, stdin=read_end, stdout=living, pdeathsig=signal.SIGKILL, on_cancel="detach"
        )
        task = asyncio.ensure_future(call)
        await asyncio.get_running_loop().run_in_executor(None, output.readline)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    with open(lives, "rb") as output:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(start())
        for fd in (read_end, living, write_end):
            os.close(fd)
        assert output.read() == b"not killed\n"


@pytest.mark.parametrize("how", ["_exit", "kill"])
def test_a_parent_that_dies_before_its_child_has_begun(how: str, tmp_path: pathlib.Path) -> None:
    """P9. A child that the death of its parent meets in the window gets its signal there: the program never runs."""
    program = tmp_path / "program"
    shutil.copy(shutil.which("sh") or "", program)
    hold = Hold(str(program))
    read_end, write_end = os.pipe()
    parent = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM.format(root=str(ROOT)), how, str(program), str(int(signal.SIGKILL))],
        stdin=subprocess.DEVNULL,
        stdout=write_end,
        cwd="/",
    )
    os.close(write_end)
    parent.wait(30)
    # The children have the other end. They are held for good, so only the signal can end them.
    assert os.read(read_end, 1) == b""
    os.close(read_end)
    hold.release()


def _run_and_exit() -> int:
    async def spawn() -> int:
        return await (await aiovfork.create_subprocess_exec("true")).wait()

    return asyncio.run(spawn())


@pytest.mark.parametrize("attempt", range(3))
def test_the_end_of_the_interpreter_after_spawns(attempt: int) -> None:
    """Nothing is left that an interpreter's end would trip over."""
    assert isolated(_run_and_exit) == 0
