"""Descriptors in odd places: closed standard ones from the start, wrong ones, and those of somebody else."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

import aiovfork
from aiovfork import DEVNULL, PIPE
from tests.support.backends import LOOP_FACTORIES
from tests.support.window import reaped

CLOSED_STANDARD = pathlib.Path(__file__).parents[1] / "children" / "closed_standard.py"
SUBSETS = [closed for count in range(1, 4) for closed in itertools.combinations(range(3), count)]


@pytest.mark.parametrize("closed", SUBSETS, ids=lambda closed: "".join(map(str, closed)))
@pytest.mark.parametrize(
    ("loop", "when"),
    [
        ("asyncio", "before the start"),
        ("asyncio", "later"),
        ("uvloop", "later"),
    ],  # uvloop itself aborts without them
)
def test_a_process_without_standard_descriptors(
    loop: str, when: str, closed: tuple[int, ...], tmp_path: pathlib.Path
) -> None:
    """P8. Where 0, 1 or 2 are closed, the loop's and the core's descriptors take their numbers: no child inherits those."""
    shell = " ".join(f"{number}{'<' if number == 0 else '>'}&-" for number in closed if when != "later")
    numbers = "".join(map(str, closed)) if when == "later" else ""
    for kinds in (["inherit"] * 3, ["pipe"] * 3, ["null", "inherit", "pipe"]):
        result = tmp_path / f"result-{'-'.join(kinds)}"
        command = [sys.executable, str(CLOSED_STANDARD), loop, str(result), numbers, *kinds]
        subprocess.run(["/bin/sh", "-c", f'exec "$@" {shell}', "sh", *command], check=True, timeout=60)
        stdlibs, first, later = json.loads(result.read_text())
        assert first == later == stdlibs


@pytest.mark.parametrize("number", [-5, 987, 2**31 - 1])
@pytest.mark.parametrize("where", ["stdin", "stdout", "stderr", "pass_fds"])
async def test_a_descriptor_that_is_none(where: str, number: int) -> None:
    """P6. A number that is no open descriptor fails at once, and nothing is left of the descriptors beside it."""
    options: dict[str, Any] = {"stdin": PIPE, "stdout": DEVNULL, "stderr": 2, "pass_fds": [0, 1, 2]}
    options[where] = [2, number] if where == "pass_fds" else number
    with pytest.raises((OSError, ValueError)) as info:  # see below
        await aiovfork.create_subprocess_exec("true", **options)
    if number >= 0:
        assert isinstance(info.value, OSError)
        assert (info.value.errno, info.value.step) == (errno.EBADF, "dup fds")  # type: ignore[attr-defined]
    assert await reaped(asyncio.ensure_future(aiovfork.create_subprocess_exec("true"))) == [0]


@pytest.mark.usefixtures("engine_mode")
async def test_read_only_and_write_only_the_wrong_way_round() -> None:
    """A descriptor of the wrong direction is the program's own error, as with subprocess."""
    read_end, write_end = os.pipe()
    process = await aiovfork.create_subprocess_exec("cat", stdin=write_end, stdout=read_end, stderr=DEVNULL)
    os.close(read_end)
    os.close(write_end)
    assert await process.wait() == 1


@pytest.mark.usefixtures("engine_mode")
async def test_what_the_core_opens_is_nobodys() -> None:
    """P8. Every descriptor that the core makes is CLOEXEC: another program that the application executes has none."""

    def inheritable() -> set[int]:
        numbers = map(int, os.listdir("/proc/self/fd"))
        return {fd for fd in numbers if os.path.lexists(f"/proc/self/fd/{fd}") and os.get_inheritable(fd)}

    before = inheritable()
    async with await aiovfork.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE, stderr=PIPE):
        assert inheritable() == before


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_no_descriptor_is_closed_twice(loop: str, tmp_path: pathlib.Path) -> None:
    """P10. No close(2) of this process meets EBADF: what was closed twice would one day be somebody else's."""
    strace = "/usr/bin/strace"
    if not os.path.exists(strace):
        pytest.skip("needs strace")
    log = tmp_path / "log"
    program = (
        "import asyncio, sys; sys.path.append(sys.argv[1]);"
        "from tests.faults.test_descriptors import spawn_in_every_way as f; from tests.support.backends import LOOP_FACTORIES as l;"
        "r = asyncio.Runner(loop_factory=l[sys.argv[2]]); r.run(f()); r.close()"
    )
    command = [sys.executable, "-c", program, str(pathlib.Path(__file__).parents[2]), loop]
    trace = [strace, "-f", "-e", "trace=close,execve", "-o", str(log)]
    subprocess.run([*trace, *command], check=True, timeout=110, cwd="/")
    lines = log.read_text().splitlines()
    parent = lines[0].split()[0]
    children = {line.split()[0] for line in lines if "execve(" in line} - {parent}
    ours = [line for line in lines if line.split()[0] not in children and " close(" in line]
    assert len({line.split()[0] for line in ours}) > 10, "the closes of the workers were not seen"
    assert [line for line in ours if "EBADF" in line] == []


async def spawn_in_every_way() -> None:
    """Spawn, fail, cancel, communicate, kill: for the tracer."""
    pipes: dict[str, Any] = {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE}
    for _ in range(3):
        process = await aiovfork.create_subprocess_exec("cat", **pipes)
        await process.communicate(b"x")
        async with await aiovfork.create_subprocess_exec("cat", **pipes):
            pass
        try:
            await aiovfork.create_subprocess_exec("/no/such/program", **pipes)
        except FileNotFoundError:
            pass
        else:
            raise AssertionError
        for turns in range(0, 30, 3):
            task = asyncio.ensure_future(aiovfork.create_subprocess_exec("cat", **pipes))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(outcome, aiovfork.Process):
                async with outcome:
                    pass
