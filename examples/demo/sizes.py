"""Sizes of memory: read from an option, written for people, and what this machine can spare."""

from __future__ import annotations

import re
from pathlib import Path

from aiovfork.cli.limits import cgroup_room

_KIB = 1024
ALLOWED = "a number with or without a unit, K, M, G or T, such as 512M, 1.5G, 2GiB or 4194304 (bytes)"
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)


def size_in_bytes(text: str) -> int:
    """Read a size such as 512M, 2G or 1.5GiB (powers of 1024).

    Raises:
        ValueError: if it is none.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not a size: {text!r}; write {ALLOWED}")
    number, unit = match.groups()
    size = int(float(number) * _KIB ** " KMGT".index(unit.upper() or " "))
    if size <= 0:
        raise ValueError(f"a size of nothing: {text!r}; write {ALLOWED}")
    return size


def size_as_text(size: float) -> str:
    """Write a size for people: 2.0 GiB."""
    for unit in ("B", "KiB", "MiB"):
        if size < _KIB:
            return f"{size:.0f} {unit}"
        size /= _KIB
    return f"{size:.1f} GiB"


def available_memory() -> int:
    """Return how many bytes this process could take and hurt nobody: the machine's, or its cgroup's."""
    meminfo = Path("/proc/meminfo").read_text(encoding="ascii")
    match = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo, re.MULTILINE)
    available = int(match[1]) * _KIB if match else 0
    limits, usages = ("memory.max", "memory.limit_in_bytes"), ("memory.current", "memory.usage_in_bytes")
    room = cgroup_room("memory", limits, usages)
    return available if room is None else min(available, room[1])
