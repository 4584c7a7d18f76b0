"""An ASGI application without a lifespan that starts a helper for each request and never ends one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any


async def app(
    scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
) -> None:
    """Wait for a helper that takes too long; leave it alone when that is cancelled."""
    assert scope["type"] == "http"
    process = await asyncio.create_subprocess_exec("sleep", "1000")
    await process.wait()
