"""The scenarios: what can be measured in one process. Each is a coroutine function of a Run."""

from collections.abc import Awaitable, Callable

from benchmarks.scenarios import capture, lag, many, rate, stall, workers
from benchmarks.scenarios.run import Run

ALL: dict[str, Callable[[Run], Awaitable[None]]] = {
    "stall": stall.stall,
    "direct": stall.direct,
    "slow": stall.slow,
    "hung": stall.hung,
    "rate": rate.rate,
    "captured": capture.captured,
    "bulk": capture.bulk,
    "through": capture.through,
    "captures": capture.captures,
    "heartbeat": lag.heartbeat,
    "tick": lag.tick,
    "beat": lag.beat,
    "burst": lag.burst,
    "slow_lag": lag.slow_lag,
    "many": many.many,
    "objects": many.objects,
    "workers": workers.workers,
    "workers_slow": workers.workers_slow,
}
# Those that look at every callback of the loop, and the one that looks at readers. The others run on a
# loop that nothing has been done to.
CALLBACKS = frozenset({"stall", "slow", "hung", "burst"})
READERS = frozenset({"direct"})
# Those that also want each callback's CPU time, which tells waiting for a processor from work.
CALLBACKS_CPU = frozenset({"burst", "bulk", "through"})
# Those that need Dask, and hold the heap not here but in its workers.
DASK = frozenset({"workers", "workers_slow"})
