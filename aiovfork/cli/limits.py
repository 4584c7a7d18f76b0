"""What the system lets this process have: resource limits and cgroup limits."""

from __future__ import annotations

import resource
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
UNLIMITED = 1 << 60  # cgroup v1 writes "no limit" as the largest page-aligned number


def soft_limit(number: int) -> int | None:
    """Return this process' soft limit, or None if there is none."""
    soft, _ = resource.getrlimit(number)
    return None if soft == resource.RLIM_INFINITY else soft


def _cgroup_folders(controller: str) -> list[Path]:
    """Return this process' cgroup for a controller and all above it, in both versions of the hierarchy."""
    folders = []
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            roots = [_CGROUPS, _CGROUPS / "unified"]
        elif controller in controllers.split(","):
            roots = [_CGROUPS / controllers, _CGROUPS / controller]
        else:
            continue
        for root in roots:
            own = root / path.lstrip("/")
            folders += [folder for folder in (own, *own.parents) if folder.is_relative_to(root)]
    return folders


def _number(path: Path) -> int | None:
    try:
        number = int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such controller here; or "max"
        return None
    return number if number < UNLIMITED else None


def cgroup_room(controller: str, limits: tuple[str, ...], usages: tuple[str, ...]) -> tuple[int, int] | None:
    """Return (limit, what is left of it) of the tightest cgroup around this process, or None.

    The names of the two files differ between cgroup v2 and v1: the first that is readable counts.
    """
    rooms = []
    for folder in dict.fromkeys(_cgroup_folders(controller)):
        limit = next((n for n in (_number(folder / name) for name in limits) if n is not None), None)
        usage = next((n for n in (_number(folder / name) for name in usages) if n is not None), None)
        if limit is not None and usage is not None:
            rooms.append((limit, max(0, limit - usage)))
    return min(rooms, key=lambda room: room[1], default=None)
