"""Workers: the lag of the loops of a Dask cluster's workers, on which helpers are started (W1)."""

import contextlib
from typing import Any

import psutil

from benchmarks.callbacks import CallbackTimes
from benchmarks.conditions import OPTIONS, heap
from benchmarks.histogram import encode, merge
from benchmarks.scenarios import lag
from benchmarks.scenarios.run import Run
from benchmarks.settings import Settings
from benchmarks.spawners import Subject

_WORKERS = 2
# What a worker holds until it ends.
_held = contextlib.ExitStack()


async def workers(run: Run) -> None:
    """Ticks of 1 ms on the loop of each worker, idle first, then under per_second spawns a second on each."""
    await _on_workers(run, "tick")


async def workers_slow(run: Run) -> None:
    """Ticks of 1 ms on the loop of each worker beside spawns whose exec takes `seconds`."""
    await _on_workers(run, "slow_lag")


async def _on_workers(run: Run, scenario: str) -> None:
    """Run a scenario of lag.py on all workers at the same time; what they record goes together."""
    import dask  # noqa: PLC0415  # not every interpreter that measures has it
    from distributed import Client, LocalCluster  # noqa: PLC0415  # likewise

    with dask.config.set({"distributed.admin.event-loop": run.settings.loop}):
        async with (
            LocalCluster(  # type: ignore[no-untyped-call]  # distributed has few types
                n_workers=_WORKERS,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address=None,
                memory_limit=None,  # the heap is wanted
                asynchronous=True,
            ) as cluster,
            Client(cluster, asynchronous=True) as client,  # type: ignore[no-untyped-call]  # likewise
        ):
            sizes = await client.run(_hold_heap, run.settings.heap_mb)
            tasks = [
                client.submit(_measure, scenario, run.settings, workers=[address], pure=False)
                for address in sizes
            ]
            outcomes: list[Any] = await client.gather(tasks)
    for name in outcomes[0][1]:
        run.histograms[name] = encode(merge(histograms[name] for _, histograms in outcomes))
    for name in outcomes[0][0]:
        run.values[name] = sum(values[name] for values, _ in outcomes) / len(outcomes)
    run.values["rss_mb"] = min(sizes.values())


def _hold_heap(megabytes: int) -> float:
    """Make the worker that large; returns its RSS, in MB."""
    _held.enter_context(heap(megabytes))
    return psutil.Process().memory_info().rss / (1 << 20)


async def _measure(scenario: str, settings: Settings) -> tuple[dict[str, float], dict[str, str]]:
    """The scenario, as a task of the worker, on its loop."""
    run = Run(Subject.of(settings, OPTIONS[settings.option]()), settings, CallbackTimes())
    await getattr(lag, scenario)(run)
    return run.values, run.histograms
