"""aiohttp's server on a loop of aiovfork: `python with_aiohttp.py`, or `python with_aiohttp.py uvloop`."""

import os
import sys

from aiohttp import web
from app import answer  # type: ignore[import-not-found]  # it lies beside this file

import aiovfork

new_loop = aiovfork.new_uvloop_event_loop if "uvloop" in sys.argv else aiovfork.new_event_loop


async def handle(request: web.Request) -> web.Response:
    """Run a helper with asyncio's own function, in app.py."""
    status, body = await answer(request.path)
    return web.json_response(body, status=status)


if __name__ == "__main__":
    application = web.Application()
    application.add_routes([web.get("/", handle), web.get("/slow", handle)])
    web.run_app(
        application,
        host="127.0.0.1",
        port=int(os.environ.get("PORT", "8000")),
        shutdown_timeout=float(os.environ.get("PATIENCE", "10")),
        loop=new_loop(),
    )
