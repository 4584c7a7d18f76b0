"""An ASGI application that plugs aiovfork into the loop that its server made, whichever server that is."""

from typing import Any

from app import Receive, Send  # type: ignore[import-not-found]  # it lies beside this file
from app import app as inner

import aiovfork


async def app(scope: Any, receive: Receive, send: Send) -> None:
    """Install at the start of the lifespan: before the first request."""
    if scope["type"] == "lifespan":
        aiovfork.install()
    await inner(scope, receive, send)
