"""P9, and a parent that ends or executes something else while a child is in the window."""

from __future__ import annotations

import asyncio
import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys
from typing import Any

import pytest

import aiovfork
from aiovfork import PIPE
from tests.support.hold import Hold
from tests.support.isolated import ROOT, isolated
from tests.support.window import children_in_window, until

#: How a parent may go while its child is in the window.
ENDS = ["_exit", "exit", "exec", "kill"]


def _spawn_then(how: str, program: str) -> None:
    """Spawn a program that is held, and end when its child is in the window."""

    async def spawn() -> None:
        for _ in range(3):
            asyncio.ensure_future(aiovfork.create_subprocess_exec(program))  # noqa: RUF006  # nobody waits
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


@pytest.mark.parametrize("name", ["pdeathsig", "parent_death_signal"])
async def test_there_is_no_option_for_a_parent_death_signal(name: str) -> None:
    """P9. An option that would mean the worker's death instead of the process' is not there: TypeError, not silence."""
    options: Any = {name: signal.SIGKILL}
    with pytest.raises(TypeError, match=name):
        await aiovfork.create_subprocess_exec("true", **options)


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


def _run_and_exit() -> int:
    async def spawn() -> int:
        return await (await aiovfork.create_subprocess_exec("true")).wait()

    return asyncio.run(spawn())


@pytest.mark.parametrize("attempt", range(3))
def test_the_end_of_the_interpreter_after_spawns(attempt: int) -> None:
    """Nothing is left that an interpreter's end would trip over."""
    assert isolated(_run_and_exit) == 0
