"""How much a child gets: limits of resources, CPUs, priorities.

Layer: below the options. Thread: any.
"""

from __future__ import annotations

import array
import enum
import functools
import os
import struct
from collections.abc import Iterable, Mapping
from typing import Any, Final

from aiovfork._binding import lib, step_name
from aiovfork._values import between, c_int, integer, items_of, pair

_RLIMITS: Final = 16  # RLIM_NLIMITS of asm-generic/resource.h; on no architecture is it another number
_INFINITY: Final = 2**64 - 1
_BOTH: Final = struct.Struct("=QQ")

_SCHED_DEADLINE: Final = 6  # os has no name for it
# A priority and a policy are one number: SCHEDULER of the plan.
_PRIORITY_SHIFT: Final = 32

# linux/ioprio.h
_IO_CLASS_SHIFT: Final = 13
_IO_LEVELS: Final = 8
_IO_USUAL_LEVEL: Final = 4

# As many as sched_setaffinity() of os could ever take; a mask of them is 8 KiB.
_CPUS: Final = 2**16


class IOPriority(enum.IntEnum):
    """Classes of io_priority: ioprio_set(2), ionice(1)."""

    #: No class of its own. It follows the child's niceness.
    NONE = 0
    #: Served first; needs CAP_SYS_ADMIN or CAP_SYS_NICE.
    REALTIME = 1
    #: The usual one.
    BEST_EFFORT = 2
    #: Served when nobody else asks.
    IDLE = 3


def rlimits(values: Mapping[int, int | tuple[int, int]] | None) -> list[tuple[int, bytes]] | None:
    """Encode the option rlimits: each resource, with its soft and its hard limit.

    Raises:
        TypeError: It is no mapping of integers.
        ValueError: There is no such resource or limit, or a soft limit is above the hard one.
        OverflowError: A limit is too large.
    """
    if values is None:
        return None
    if type(values) is not dict and not isinstance(values, Mapping):
        raise TypeError(f"rlimits must be a mapping, not {type(values).__name__}")
    encoded = []
    for number, limit in values.items():
        kind = integer(number, "a resource of rlimits")
        if not 0 <= kind < _RLIMITS:
            raise ValueError("invalid resource specified")  # as resource.setrlimit() says
        both = (limit, limit) if hasattr(limit, "__index__") else pair(limit, functools.partial(_name, kind))
        soft, hard = _limit(both[0], kind), _limit(both[1], kind)
        if soft > hard:
            raise ValueError("current limit exceeds maximum limit")  # likewise
        encoded.append((kind, _BOTH.pack(soft, hard)))
    return sorted(encoded) if len(encoded) > 1 else encoded


def _limit(value: Any, kind: int) -> int:
    if type(value) is int and 0 <= value <= _INFINITY:  # what it is nearly always
        return value
    name = _name(kind)
    number = integer(value, name)
    if number == -1:  # resource.RLIM_INFINITY
        return _INFINITY
    if number < 0:
        raise ValueError(f"{name} must not be negative but for RLIM_INFINITY, not {number}")
    if number > _INFINITY:
        raise OverflowError(f"{name} is too large: {number}")
    return number


def _name(kind: int) -> str:
    return step_name(lib.AVF_STEP_RLIMIT | kind << lib.AVF_STEP_DETAIL_SHIFT)


def nice(value: int) -> int | None:
    """Encode the option nice."""
    return c_int(integer(value, "nice")) or None


def cpu_affinity(values: Iterable[int] | None) -> bytes | None:
    """Encode the option cpu_affinity: the size of the mask in bytes, and the mask.

    Raises:
        TypeError: It is no iterable of integers.
        ValueError: A number is negative, or there is none.
        OverflowError: A number is too large.
    """
    if values is None:
        return None
    cpus = [integer(cpu, "a number of cpu_affinity") for cpu in items_of(values, "cpu_affinity")]
    if not cpus:
        raise ValueError("cpu_affinity must name a CPU")
    if min(cpus) < 0:
        raise ValueError("negative CPU number")  # as os.sched_setaffinity() says
    if max(cpus) >= _CPUS:
        raise OverflowError("CPU number too large")  # likewise
    word = array.array("L").itemsize * 8
    mask = array.array("L", bytes(8 * (max(cpus) // 64 + 1)))
    for cpu in cpus:
        mask[cpu // word] |= 1 << cpu % word
    return struct.pack("=II", len(mask) * mask.itemsize, 0) + mask.tobytes()


def scheduler(value: int | tuple[int, int] | None) -> int | None:
    """Encode the option scheduler.

    Raises:
        TypeError: It is neither an integer nor a pair of them.
        ValueError: There is no such policy, or it has no such priority.
    """
    if value is None:
        return None
    policy, priority = (value, 0) if hasattr(value, "__index__") else pair(value, lambda: "scheduler")
    policy, priority = (
        integer(policy, "the policy of scheduler"),
        integer(priority, "the priority of scheduler"),
    )
    plain = policy & ~os.SCHED_RESET_ON_FORK
    if plain == _SCHED_DEADLINE:
        raise ValueError("scheduler: SCHED_DEADLINE needs more than a priority, and cannot be had")
    try:
        least, most = os.sched_get_priority_min(plain), os.sched_get_priority_max(plain)
    except (OSError, OverflowError):
        raise ValueError(f"scheduler: there is no policy {plain}") from None
    if not least <= priority <= most:
        raise ValueError(f"scheduler: policy {plain} has priorities from {least} to {most}, not {priority}")
    return policy | priority << _PRIORITY_SHIFT


def io_priority(value: int | tuple[int, int] | None) -> int | None:
    """Encode the option io_priority.

    Raises:
        TypeError: It is neither an integer nor a pair of them.
        ValueError: There is no such class or level.
    """
    if value is None:
        return None
    given, level = (value, None) if hasattr(value, "__index__") else pair(value, lambda: "io_priority")
    kind = between(given, "the class of io_priority", min(IOPriority), max(IOPriority))
    if kind in (IOPriority.NONE, IOPriority.IDLE):
        level = between(0 if level is None else level, f"the level of {IOPriority(kind).name}", 0, 0)
    else:
        usual = _IO_USUAL_LEVEL if level is None else level
        level = between(usual, "the level of io_priority", 0, _IO_LEVELS - 1)
    return kind << _IO_CLASS_SHIFT | level


def oom_score_adj(value: int | None) -> int | None:
    """Encode the option oom_score_adj."""
    return None if value is None else between(value, "oom_score_adj", -1000, 1000)
