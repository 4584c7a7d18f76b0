"""The protocol behind Process: asyncio's own, which the transport may call without going through the loop.

Layer: beside the transport. Thread: the loop's.
"""

from __future__ import annotations

import asyncio


class StreamProtocol(asyncio.subprocess.SubprocessStreamProtocol):
    """Feeds stdout and stderr to StreamReaders, and holds back writers of stdin.

    None of its methods runs code of the application, so the transport calls them at once instead of
    through call_soon: two callbacks of the loop less for each child, one less for each chunk of output.
    """
