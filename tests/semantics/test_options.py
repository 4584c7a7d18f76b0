"""Signatures and options: asyncio's parameters, and the options that aiovfork has or refuses by itself."""

from __future__ import annotations

import asyncio
import inspect
import re
import subprocess
from typing import Any

import pytest

import aiovfork
from aiovfork import _options
from tests.support.backends import Spawner, compare, run_on_each


@pytest.mark.parametrize("name", ["create_subprocess_exec", "create_subprocess_shell"])
def test_the_signatures_are_asyncios(name: str) -> None:
    """Names, kinds, order and defaults of asyncio's parameters are ours too; the options follow, by keyword."""

    def shape(module: Any) -> list[tuple[str, Any, Any]]:
        parameters = inspect.signature(getattr(module, name)).parameters.values()
        named = [one for one in parameters if one.kind is not inspect.Parameter.VAR_KEYWORD]
        return [(one.name, one.kind, one.default) for one in named]

    ours, asyncios = shape(aiovfork), shape(asyncio.subprocess)
    assert ours[: len(asyncios)] == asyncios
    assert {kind for _, kind, _ in ours[len(asyncios) :]} == {inspect.Parameter.KEYWORD_ONLY}


def test_limit_bounds_the_buffers_of_the_streams() -> None:
    """limit= is the StreamReaders': a longer line raises, as there."""

    async def body(spawn: Spawner) -> tuple[str, bytes]:
        process = await spawn.exec("printf", "%s", "x" * 1000 + "\n", stdout=subprocess.PIPE, limit=100)
        assert process.stdout is not None
        with pytest.raises(asyncio.LimitOverrunError) as info:
            await process.stdout.readuntil(b"\n")
        return info.type.__name__, await process.stdout.read()

    assert compare(body) == ("LimitOverrunError", b"x" * 1000 + b"\n")


def test_preexec_fn_is_refused_with_its_replacements() -> None:
    """preexec_fn raises a ValueError that names what to use instead: every option that sets something."""
    others = {"executable", "env", "close_fds", "pipesize", "spawn_timeout", "best_effort"}

    async def body(spawn: Spawner) -> None:
        with pytest.raises(ValueError, match="preexec_fn") as info:
            await spawn.exec("true", preexec_fn=lambda: None)
        named = set(re.findall(r"(\w+)=", str(info.value)))
        assert set(_options.CHILD_OPTIONS) - others - named == set()
        assert "new_event_loop(unsupported='native')" in str(info.value)

    run_on_each(body)


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_spawn_timeout_must_be_positive(seconds: float) -> None:
    """A spawn_timeout that cannot be met is a ValueError, not a spawn that always fails."""

    async def body(spawn: Spawner) -> None:
        with pytest.raises(ValueError, match="spawn_timeout"):
            await spawn.exec("true", spawn_timeout=seconds)

    run_on_each(body)
