"""The examples for Prometheus and OpenTelemetry, with the real clients."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "observe"
LONGEST = 90  # lines


def said_by(name: str) -> str:
    """Run an example, and return what it prints."""
    command = (sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"))
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.stderr == ""
    assert ended.returncode == 0
    return ended.stdout


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_example_is_short_and_shown(path: Path) -> None:
    """An example is short, says first what it shows, and the page includes it."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= LONGEST
    assert lines[0].startswith('"""')
    page = EXAMPLES.parents[1] / "docs" / "how-to" / "observe.md"
    assert f"examples/observe/{path.name}\n" in page.read_text(encoding="utf-8")


def value_of(metrics: dict[str, Metric], family: str, sample: str, **labels: str) -> float:
    """Return the value of the one sample with that name and those labels."""
    (value,) = [s.value for s in metrics[family].samples if s.name == sample and s.labels == labels]
    return value


def test_prometheus() -> None:
    """A scrape over HTTP, read by Prometheus' own parser, has the counters, the programs and full histograms."""
    metrics = {family.name: family for family in text_string_to_metric_families(said_by("with_prometheus"))}
    counters = {"spawned": 4, "failed": 1, "exited": 4, "abandoned": 0}
    counters |= {"captures": 1, "bytes_read": len("said\n"), "bytes_written": 0}
    for name, expected in counters.items():
        assert value_of(metrics, f"aiovfork_{name}", f"aiovfork_{name}_total") == expected
        assert metrics[f"aiovfork_{name}"].type == "counter"
    for name in ("in_flight", "queued", "alive", "capturing"):
        assert value_of(metrics, f"aiovfork_{name}", f"aiovfork_{name}") == 0
    for name in ("aiovfork_queue_time_seconds", "aiovfork_exec_time_seconds"):
        assert metrics[name].type == "histogram"
        assert value_of(metrics, name, f"{name}_count") == 4
        assert value_of(metrics, name, f"{name}_bucket", le="+Inf") == 4
        assert 0 < value_of(metrics, name, f"{name}_sum") < 4 * 68.7
        buckets = [
            (float(s.labels["le"]), s.value) for s in metrics[name].samples if s.name == f"{name}_bucket"
        ]
        assert len(buckets) == 28
        assert buckets == sorted(buckets)
    for program, code, count in (("true", "0", 2), ("false", "1", 1), ("echo", "0", 1)):
        labels = {"program": program, "returncode": code}
        assert value_of(metrics, "child_exits", "child_exits_total", **labels) == count
        assert value_of(metrics, "child_cpu_seconds", "child_cpu_seconds_total", program=program) > 0
    labels = {"program": "program", "step": "exec"}
    assert value_of(metrics, "child_failures", "child_failures_total", **labels) == 1


def documents(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects that a text consists of."""
    found, decoder, at = [], json.JSONDecoder(), 0
    while at < len(text.rstrip()):
        value, at = decoder.raw_decode(text, at + len(text[at:]) - len(text[at:].lstrip()))
        found.append(value)
    return found


def test_opentelemetry() -> None:
    """Each child is a finished span below the caller's; the metrics hold a point for each program."""
    complaint, _, rest = said_by("with_opentelemetry").partition("\n")
    assert "No such file" in complaint
    true, false, sleep, absent, request, metrics = documents(rest)
    for span, name in ((true, "true"), (false, "false"), (sleep, "sleep"), (absent, "program")):
        assert span["name"] == span["attributes"]["process.executable.name"] == name
        assert span["parent_id"] == request["context"]["span_id"]
        assert span["context"]["trace_id"] == request["context"]["trace_id"]
        assert request["start_time"] <= span["start_time"] <= span["end_time"] <= request["end_time"]
    assert [span["status"]["status_code"] for span in (true, false, absent)] == ["UNSET", "ERROR", "ERROR"]
    assert absent["status"]["description"] == "step exec: No such file or directory"
    for span, code in ((true, 0), (false, 1), (sleep, 0)):
        assert span["attributes"]["process.exit.code"] == code
        (ran,) = span["events"]
        assert span["start_time"] < ran["timestamp"] < span["end_time"]
    # Of a run() both events come at its end: the span lasts as long as the child did all the same.
    begun, ended = (datetime.fromisoformat(sleep[f"{name}_time"]) for name in ("start", "end"))
    assert (ended - begun).total_seconds() >= 0.1
    (resource,) = metrics["resource_metrics"]
    (scope,) = resource["scope_metrics"]
    points = {metric["name"]: metric["data"]["data_points"] for metric in scope["metrics"]}
    assert [point["value"] for point in points["child.alive"]] == [0]
    for name in ("child.spawn.duration", "child.run.duration"):
        assert [point["count"] for point in points[name]] == [1, 1, 1]
        assert [point["attributes"]["process.executable.name"] for point in points[name]] == [
            "true",
            "false",
            "sleep",
        ]
