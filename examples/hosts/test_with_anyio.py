"""anyio's pytest plugin: tests on loops of aiovfork."""

from typing import Any

import anyio
import pytest

import aiovfork

FACTORIES = {"asyncio": aiovfork.new_event_loop, "uvloop": aiovfork.new_uvloop_event_loop}


@pytest.fixture(params=FACTORIES)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Have the tests that use anyio run on both loops."""
    return "asyncio", {"loop_factory": FACTORIES[request.param]}


@pytest.mark.anyio
async def test_run_process() -> None:
    """anyio starts its processes through the loop."""
    before = aiovfork.stats().spawned
    completed = await anyio.run_process(["uname"])
    assert completed.stdout == b"Linux\n"
    assert aiovfork.stats().spawned == before + 1
