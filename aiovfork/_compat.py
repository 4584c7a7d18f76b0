"""The private names of the stdlib that aiovfork uses; each has a test that watches it.

Layer: lowest. Thread: any.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any


def environ_bytes() -> dict[bytes, bytes]:
    """Return the dict of bytes behind os.environ: comparing it costs a fraction of encoding it."""
    data: Any = getattr(os.environ, "_data", None)
    if type(data) is dict:
        return data
    return dict(os.environb)


def has_heard_of_exit(protocol: asyncio.SubprocessProtocol) -> bool:
    """Return whether a connected SubprocessStreamProtocol is done; process_exited() fails on None then."""
    transport: Any = getattr(protocol, "_transport", protocol)
    return transport is None
