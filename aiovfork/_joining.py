"""The pieces of a long line to one, without a stop of the loop: it runs between two of them.

Layer: above the capture. Thread: the loop's.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiovfork._binding import ffi
from aiovfork._capture import uninitialised
from aiovfork._splitting import Pieces
from aiovfork._text import joined as joined_text


async def joined(pieces: Pieces) -> Any:
    """Return the line, str or bytes. Cancellation: the pieces are as they were."""
    if isinstance(pieces.parts[0], str):
        return await joined_text(pieces.parts)
    line = uninitialised(len(pieces))
    target = ffi.from_buffer(line)
    at = 0
    for part in pieces.parts:
        ffi.memmove(target + at, part, len(part))
        at += len(part)
        await asyncio.sleep(0)
    return line
