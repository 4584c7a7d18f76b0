"""The environment is the process' own, whoever has changed it and how."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import cffi

import aiovfork
from tests.support.isolated import isolated

PIPE = asyncio.subprocess.PIPE


async def _child_sees(name: str) -> str:
    process = await aiovfork.create_subprocess_exec("printenv", name, stdout=PIPE)
    output: Any = (await process.communicate())[0]
    return bytes(output).decode().strip()


def _change_in_place() -> list[str]:
    ffi = cffi.FFI()
    ffi.cdef("char *getenv(const char *name);")
    libc: Any = ffi.dlopen(None)
    os.environ["LATER"] = "one"
    found = []
    for name in ("FROM_START", "LATER"):
        found.append(asyncio.run(_child_sees(name)))
        ffi.memmove(libc.getenv(name.encode()), b"two", 3)
        found.append(asyncio.run(_child_sees(name)))
    del os.environ["LATER"]
    ffi.memmove(libc.getenv(b"FROM_START"), b"one", 3)
    return found


def test_a_string_that_is_changed_in_place() -> None:
    """C code that writes into a string of the environment, without a call of libc: the next child sees it."""
    found = isolated(_change_in_place, env={"FROM_START": "one"})
    assert found == ["one", "two", "one", "two"]
