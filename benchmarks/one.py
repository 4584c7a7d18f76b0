"""One measurement, in this process; prints one line of JSON: `python -m benchmarks.one SCENARIO ...`."""

import asyncio
import contextlib
import dataclasses
import importlib.metadata
import json
import os
import sys
from typing import Any

import psutil

from benchmarks import scenarios
from benchmarks.callbacks import CallbackTimes, watched, with_timed_readers
from benchmarks.conditions import OPTIONS, heap, open_fds
from benchmarks.scenarios.run import Run
from benchmarks.settings import Settings
from benchmarks.spawners import Subject, loop_class


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def measure(settings: Settings) -> dict[str, Any]:
    """Set the conditions up, run the scenario, describe what came out."""
    times = CallbackTimes(cpu=settings.scenario in scenarios.CALLBACKS_CPU)
    run = Run(Subject.of(settings, OPTIONS[settings.option]()), settings, times)
    base = loop_class(settings.loop)
    with contextlib.ExitStack() as stack:
        conditions: dict[str, float] = {
            "heap_mb": stack.enter_context(
                heap(0 if settings.scenario in scenarios.DASK else settings.heap_mb)
            ),
            "fds": stack.enter_context(open_fds(settings.fds)),
            "rss_mb": psutil.Process().memory_info().rss / (1 << 20),
        }
        if settings.scenario in scenarios.CALLBACKS or settings.view == "callbacks":
            base = stack.enter_context(watched(base, times))
        elif settings.scenario in scenarios.READERS:
            base = with_timed_readers(base, times)
        runner = stack.enter_context(asyncio.Runner(loop_factory=base))
        runner.run(_scenario(run))
    conditions["load"] = os.getloadavg()[0]
    return {
        "settings": dataclasses.asdict(settings),
        "conditions": conditions,
        "values": run.values,
        "histograms": run.histograms,
        "versions": {
            "python": sys.version.split()[0],
            **{name: _version(name) for name in ("aiovfork", "uvloop")},
        },
    }


async def _scenario(run: Run) -> None:
    await scenarios.ALL[run.settings.scenario](run)


if __name__ == "__main__":
    print(json.dumps(measure(Settings.parse(list(scenarios.ALL)))))
