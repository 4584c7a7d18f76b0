"""A slow spawn is logged with its cause, in the loop's debug mode.

Layer: above the events. Thread: the loop's.
"""

from __future__ import annotations

import asyncio

from aiovfork._compat import logger
from aiovfork._events import SpawnInfo
from aiovfork._options import Command
from aiovfork._stats import stats


def under_way() -> int:
    """Return how many spawns of this process are in the window or wait for it: those before the next one."""
    now = stats()
    return now.in_flight + now.queued


def log_if_slow(loop: asyncio.AbstractEventLoop, command: Command, info: SpawnInfo, others: int) -> None:
    """Warn of a spawn that took as long as a slow callback: loop.slow_callback_duration, which is in seconds.

    Args:
        loop: The loop, in debug mode.
        command: What was started.
        info: The times.
        others: What under_way() was before it.
    """
    seconds = (info.queue_us + info.clone_us + info.exec_us) / 1e6
    if seconds >= getattr(loop, "slow_callback_duration", 0.1):
        logger.warning(
            "spawn of %r took %.3f seconds (queue %.3f, clone %.3f, exec %.3f): %s",
            command.program,
            seconds,
            info.queue_us / 1e6,
            info.clone_us / 1e6,
            info.exec_us / 1e6,
            _cause(info, others),
        )


def _cause(info: SpawnInfo, others: int) -> str:
    longest = max(info.queue_us, info.clone_us, info.exec_us)
    if longest == info.exec_us:
        return "its program or cwd is on a slow disk or network, or a security agent looks at each exec"
    if longest == info.clone_us:
        return "the kernel took long to create the process: processors or memory are short"
    if others:
        return f"it waited behind {others} other{'s' if others > 1 else ''}"
    return "its worker thread got no processor"
