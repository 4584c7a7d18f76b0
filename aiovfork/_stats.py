"""What this process has counted.

Layer: above the binding. Thread: any.
"""

from __future__ import annotations

import dataclasses
import math
import os
import threading
from typing import Any, Final

from aiovfork._binding import ffi, lib

_BUCKETS: Final[int] = lib.AVF_BUCKETS
_SHIFT: Final[int] = lib.AVF_BUCKET_SHIFT
#: The upper bound of each bucket, in seconds.
_BOUNDS: Final = (*(2 ** (_SHIFT + bucket) / 1e9 for bucket in range(_BUCKETS - 1)), math.inf)


@dataclasses.dataclass(frozen=True)
class Histogram:
    """How long something took, each time since the start of the process.

    Attributes:
        count: How many times there were.
        sum: Their sum in seconds.
        buckets: (bound, count) for rising bounds in seconds: how many times were at most that long. The
            bounds are 2^10, 2^11 … 2^36 nanoseconds and infinity.
    """

    count: int
    sum: float
    buckets: tuple[tuple[float, int], ...]

    def quantile(self, q: float) -> float:
        """Return an estimate, in seconds, of what a share of q of the times is below; nan if there are none.

        The truth lies in the same bucket, so the estimate is wrong by less than a factor of two, but for
        times under 1 µs. What is longer than the last finite bound, 68.7 s, is estimated as that.

        Raises:
            ValueError: q is not from 0 to 1.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"q must be from 0 to 1, not {q!r}")
        if not self.count:
            return math.nan
        rank = max(q * self.count, 1)
        lower, below = 0.0, 0
        for bound, count in self.buckets:
            if count >= rank:
                share = (rank - below) / (count - below)
                return lower if bound == math.inf else lower + share * (bound - lower)
            lower, below = bound, count
        raise AssertionError("the last bucket holds all")


@dataclasses.dataclass(frozen=True)
class Stats:
    """Counters of this process since its start (a forked child starts at zero).

    Attributes:
        spawned: Children that reached exec.
        failed: Spawns that ended in an error, a timeout or a cancellation.
        exited: Children whose exit was delivered.
        abandoned: Requests and children that were killed because nobody could hear of them any more.
        in_flight: Workers in the window, from clone to exec, now.
        queued: Spawns that wait for a place in the window, now.
        alive: Children delivered as spawned and not yet as exited, now.
        in_flight_peak: The most that in_flight has been.
        queued_peak: The most that queued has been.
        alive_peak: The most that alive has been.
        stolen: Exits whose status somebody else had already taken.
        captures: Captures that were begun: run(), communicate() and what is built on them.
        capturing: Captures under way, now.
        capturing_peak: The most that capturing has been.
        bytes_read: Bytes of output that captures which are over have read.
        bytes_written: Bytes of input that they have written.
        queue_time: How long each child that is counted in spawned had waited for a worker, as
            SpawnInfo.queue_us.
        exec_time: How long each of them took from its first instruction to exec, as SpawnInfo.exec_us.
        native: Calls that loops with unsupported="native" have handed to their own implementation. Their
            children are in no other counter.
    """

    spawned: int
    failed: int
    exited: int
    abandoned: int
    in_flight: int
    queued: int
    alive: int
    in_flight_peak: int
    queued_peak: int
    alive_peak: int
    stolen: int
    captures: int
    capturing: int
    capturing_peak: int
    bytes_read: int
    bytes_written: int
    queue_time: Histogram
    exec_time: Histogram
    native: int


class _NativeCalls:
    """The one counter that is Python's: the core does not see these calls."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def add(self) -> None:
        with self._lock:
            self.count += 1


_native_calls = _NativeCalls()
# Anew, not set to zero: another thread of the parent may have held the lock.
os.register_at_fork(after_in_child=_native_calls.__init__)  # type: ignore[misc]

_HISTOGRAMS: Final = ("queue_time", "exec_time")
_NOT_THE_CORES: Final = {*_HISTOGRAMS, "native"}
_NUMBERS: Final = tuple(field.name for field in dataclasses.fields(Stats) if field.name not in _NOT_THE_CORES)


def stats() -> Stats:
    """Return the counters of this process, all of one moment. Callable from any thread; never blocks."""
    counters = ffi.new("avf_counters *")
    lib.avf_stats(counters)
    values: dict[str, Any] = {name: getattr(counters, name) for name in _NUMBERS}
    values |= {name: _histogram(getattr(counters, name)) for name in _HISTOGRAMS}
    return Stats(**values, native=_native_calls.count)


def count_native_call() -> None:
    """Count a call that a loop has handed to its own implementation."""
    _native_calls.add()


def _histogram(counted: Any) -> Histogram:
    total, buckets = 0, []
    for bound, count in zip(_BOUNDS, counted.buckets, strict=True):
        total += count
        buckets.append((bound, total))
    return Histogram(total, counted.sum_ns / 1e9, tuple(buckets))
