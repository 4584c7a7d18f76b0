"""To wait through cancellations, of which anyio delivers one in every round of the loop.

Layer: below all that waits. Thread: the loop's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any


async def outlast(
    futures: Collection[asyncio.Future[Any]], cause: BaseException | None, again: Callable[[], object]
) -> asyncio.CancelledError | None:
    """Wait for futures whatever happens; call again() at each cancellation, and return the last one.

    A cancellation that has the message of the last one, or of the cause, is the same: anyio delivers one in
    every round of the loop.
    """
    cancelled = None
    while not all(future.done() for future in futures):
        try:
            await asyncio.wait(futures)
        except asyncio.CancelledError as exc:
            if not (isinstance(cause, asyncio.CancelledError) and exc.args and exc.args == cause.args):
                again()
            cause = cancelled = exc
    return cancelled
