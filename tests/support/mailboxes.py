"""The core's low numbers (csrc/mailbox.c), as they look from outside, and tables in which it needs them."""

from __future__ import annotations

import contextlib
import os
import resource
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

#: More than what a child unshares without a mailbox (AVF_UNSHARE_BELOW).
MANY: Final = 300
#: With the placeholder.
NUMBERS: Final = 9


def mailboxes() -> list[int]:
    """Return the numbers that are at rest: many duplicates of one socket."""
    numbers = defaultdict(list)
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the descriptor of this listing
            numbers[os.readlink(f"/proc/self/fd/{name}")].append(int(name))
    found = max(
        (same for target, same in numbers.items() if target.startswith("socket:")), key=len, default=[]
    )
    return sorted(found) if len(found) > NUMBERS // 2 else []


@contextlib.contextmanager
def many_open(count: int = MANY) -> Iterator[None]:
    """Hold so many more descriptors open that new ones get high numbers."""
    soft, hard = limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, count + 1000)), hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(count)]
    try:
        yield
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
