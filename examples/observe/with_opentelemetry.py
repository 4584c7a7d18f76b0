"""Traces and metrics for OpenTelemetry: each child is a span below that of the code that has started it."""

import asyncio
import os
import time
from collections.abc import Iterable
from typing import Any

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Span, StatusCode, TracerProvider

import aiovfork


def alive(_: CallbackOptions) -> Iterable[Observation]:
    """Return how many children are alive, when a reader asks."""
    return [Observation(aiovfork.stats().alive)]


class ChildTelemetry:
    """A callback of on_event(). It runs in the caller's context, so a span's parent is the caller's span."""

    def __init__(self, tracers: TracerProvider, meters: MeterProvider) -> None:
        self._tracer = tracers.get_tracer("aiovfork")
        meter = meters.get_meter("aiovfork")
        meter.create_observable_up_down_counter("child.alive", [alive])
        self._spawn_time = meter.create_histogram("child.spawn.duration", "s")
        self._run_time = meter.create_histogram("child.run.duration", "s")
        self._spans: dict[int, Span] = {}

    def __call__(self, event: aiovfork.Event) -> None:
        """Note one event."""
        program = os.path.basename(os.fsdecode(event.program))
        attributes: dict[str, Any] = {"process.executable.name": program}
        if isinstance(event, aiovfork.SpawnedEvent):
            self._spawn_time.record(event.time - event.submitted, attributes)
            span = self._tracer.start_span(program, attributes=attributes, start_time=epoch(event.submitted))
            span.set_attribute("process.pid", event.pid)
            span.add_event("exec", timestamp=epoch(event.time))
            self._spans[event.ticket] = span
        elif isinstance(event, aiovfork.ExitedEvent):
            self._run_time.record(event.duration, attributes)
            span = self._spans.pop(event.ticket)
            span.set_attribute("process.exit.code", event.returncode)
            if event.returncode:
                span.set_status(StatusCode.ERROR, f"return code {event.returncode}")
            span.end(epoch(event.time))
        else:
            span = self._tracer.start_span(program, attributes=attributes, start_time=epoch(event.submitted))
            span.set_status(StatusCode.ERROR, f"step {event.step}: {os.strerror(event.errno)}")
            span.end(epoch(event.time))


def epoch(monotonic: float) -> int:
    """Return the time of an event as OpenTelemetry wants it: nanoseconds since 1970."""
    # The largest of three: between two looks at two clocks this thread may have to wait for a processor.
    return int(monotonic * 1e9) + max(time.time_ns() - time.monotonic_ns() for _ in range(3))


async def request() -> None:
    """Start a few children."""
    for command in (["true"], ["false"]):
        await (await aiovfork.create_subprocess_exec(*command)).wait()
    await aiovfork.run("sleep", "0.1")
    try:
        await aiovfork.create_subprocess_exec("/no/such/program")
    except FileNotFoundError as error:
        print(error)


if __name__ == "__main__":
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()  # in place of your exporters
    tracers, meters = SdkTracerProvider(), SdkMeterProvider([reader])
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    telemetry, tracer = ChildTelemetry(tracers, meters), tracers.get_tracer(__name__)
    with aiovfork.on_event(telemetry), tracer.start_as_current_span("request"):
        asyncio.run(request())
    for span in spans.get_finished_spans():
        print(span.to_json())
    if (data := reader.get_metrics_data()) is not None:
        print(data.to_json())
