"""Metrics for Prometheus: what stats() counts, read at each scrape, and what each program's children cost."""

import asyncio
import os
import urllib.request
from collections.abc import Iterator

from prometheus_client import REGISTRY, Counter, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

import aiovfork

EXITS = Counter("child_exits", "Children that have exited", ["program", "returncode"])
FAILURES = Counter("child_failures", "Children that could not be started", ["program", "step"])
CPU_SECONDS = Counter("child_cpu_seconds", "Processor time of children that have exited", ["program"])


class SpawnMetrics(Collector):
    """The counters of this process. Nothing is counted twice: stats() is read when Prometheus asks."""

    def collect(self) -> Iterator[Metric]:
        """Return all metrics, of one moment."""
        stats = aiovfork.stats()
        for name in ("spawned", "failed", "exited", "abandoned", "captures", "bytes_read", "bytes_written"):
            yield CounterMetricFamily(f"aiovfork_{name}", f"Stats.{name}", getattr(stats, name))
        for name in ("in_flight", "queued", "alive", "capturing"):
            yield GaugeMetricFamily(f"aiovfork_{name}", f"Stats.{name}", getattr(stats, name))
        for name in ("queue_time", "exec_time"):
            times: aiovfork.Histogram = getattr(stats, name)
            buckets = [(f"{bound:g}".replace("inf", "+Inf"), count) for bound, count in times.buckets]
            yield HistogramMetricFamily(f"aiovfork_{name}_seconds", f"Stats.{name}", buckets, times.sum)


def count(event: aiovfork.Event) -> None:
    """Count what stats() does not tell apart: the programs. A callback of on_event()."""
    program = os.path.basename(os.fsdecode(event.program))
    if isinstance(event, aiovfork.ExitedEvent):
        EXITS.labels(program, event.returncode).inc()
        if event.rusage is not None:
            CPU_SECONDS.labels(program).inc(event.rusage.ru_utime + event.rusage.ru_stime)
    elif isinstance(event, aiovfork.FailedEvent):
        FAILURES.labels(program, event.step).inc()


async def work() -> None:
    """Start a few children."""
    for command in (["true"], ["true"], ["false"]):
        await (await aiovfork.create_subprocess_exec(*command)).wait()
    await aiovfork.run("echo", "said")
    try:
        await aiovfork.create_subprocess_exec("/no/such/program")
    except FileNotFoundError as error:
        print(f"# {error}")


if __name__ == "__main__":
    REGISTRY.register(SpawnMetrics())
    aiovfork.on_event(count)
    server, _ = start_http_server(0, "127.0.0.1")  # your port in place of 0, which is any
    asyncio.run(work())
    with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics") as page:  # as Prometheus
        print(page.read().decode())
    server.shutdown()
    server.server_close()
