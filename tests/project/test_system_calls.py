"""The list of system calls that aiovfork makes and asyncio does not need: complete, and true of a refusal."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from typing import Final

import pytest

import aiovfork
from aiovfork.cli.system_calls import CALLS_OF_THREADS, SYSTEM_CALLS, SystemCall
from tests.support.isolated import isolated
from tests.support.seccomp import SYSCALLS, refuse

PAGE: Final = pathlib.Path(__file__).parents[2] / "docs" / "reference" / "system-calls.md"

# Starts children in the ways that differ in their system calls; its argument is the module that does it.
PROGRAM: Final = """
import asyncio, importlib, os, sys, tempfile
spawner = importlib.import_module(sys.argv[1])

async def one(*argv, **options):
    process = await spawner.create_subprocess_exec(*argv, **options)
    if argv[0] == "sleep":
        process.kill()
    await process.wait()

async def main():
    with tempfile.TemporaryFile() as file:
        await one("true", stdin=file, stdout=-1, pass_fds=[file.fileno()])
        await one("true", stdin=-3, stdout=-1, stderr=-2, cwd="/", umask=0o22, start_new_session=True, pipesize=4096)
    await one("sleep", "60", process_group=0)
    try:
        await one("/no/such/program")
    except FileNotFoundError:
        pass
    await asyncio.gather(*(one("true") for _ in range(40)))
    await one("true", user=os.geteuid(), group=os.getegid())

asyncio.run(main())
"""


def calls_of(module: str, folder: pathlib.Path, **environment: str) -> set[str]:
    """Return the names of the system calls that this module makes to start children."""
    log = folder / module
    command = ("strace", "-f", "-qq", "-o", str(log), sys.executable, "-c", PROGRAM, module)
    subprocess.run(command, check=True, env=environment)
    return set(re.findall(r"^\d+ +(\w+)\(", log.read_text(), re.MULTILINE))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_list_is_complete(tmp_path: pathlib.Path) -> None:
    """Whatever strace sees of aiovfork and not of asyncio is in the list, in either engine and report mode."""
    seen = calls_of("aiovfork", tmp_path) | calls_of(
        "aiovfork", tmp_path, AIOVFORK_ENGINE="clone", AIOVFORK_REPORT="pipe"
    )
    only = seen - calls_of("asyncio", tmp_path)
    # Python itself looks at more files for one more package.
    assert only - {"fstat", "stat", "lseek"} <= {call.name for call in SYSTEM_CALLS} | set(CALLS_OF_THREADS)
    assert {
        "clone3",
        "clone",
        "waitid",
        "kcmp",
        "eventfd2",
        "timerfd_create",
        "execveat",
        "setresgid",
    } <= seen


async def _spawn_without(name: str) -> bool:
    with tempfile.TemporaryFile() as file:
        refuse({name: "ENOSYS" if name == "clone3" else "EPERM"})
        try:
            process = await aiovfork.create_subprocess_exec("true", stdin=file)
        except OSError:
            return False
        return await process.wait() == 0


@pytest.mark.skipif("execve" not in SYSCALLS, reason="knows the system calls of x86-64 and aarch64 only")
@pytest.mark.parametrize(
    "call", [call for call in SYSTEM_CALLS if call.name != "clone"], ids=lambda call: call.name
)
def test_what_a_refusal_means_is_true(call: SystemCall) -> None:
    """Where the list says that no child can be started, a child that is given a file cannot; else it can."""
    says_no = call.refused == "no child can be started"
    assert isolated(_spawn_without, call.name, loop="asyncio", check_leaks=False) is not says_no


def test_the_page_has_the_list() -> None:
    """docs/reference/system-calls.md holds the rows that doctor shows."""
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [SystemCall(*row) for row in rows] == list(SYSTEM_CALLS)
    assert ", ".join(f"`{name}`" for name in CALLS_OF_THREADS) in " ".join(
        PAGE.read_text(encoding="utf-8").split()
    )
