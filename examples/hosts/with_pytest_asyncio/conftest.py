"""pytest-asyncio: the hook that names the loops of a folder's tests."""

import asyncio
from collections.abc import Callable

import pytest

import aiovfork


def pytest_asyncio_loop_factories(
    config: pytest.Config,  # noqa: ARG001  # pytest passes what is named
    item: pytest.Item,  # noqa: ARG001  # likewise
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run each async test on both loops."""
    return {"aiovfork": aiovfork.new_event_loop, "aiovfork-uvloop": aiovfork.new_uvloop_event_loop}
