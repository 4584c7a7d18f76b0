"""What the demo found out: one record for each scene on each backend, and the percentiles made of it."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from hdrh.histogram import HdrHistogram

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from examples.demo.backends import Backend

LONGEST_US = 120_000_000
PROMPT = 0.05  # seconds within which an answer still feels prompt


class Spread(NamedTuple):
    """Median, 99th percentile and maximum, in milliseconds."""

    p50: float
    p99: float
    max: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Spread | None:
        """Return the spread of some times, None if there are none."""
        histogram = HdrHistogram(1, LONGEST_US, 3)
        for value in seconds:
            histogram.record_value(max(1, min(round(value * 1e6), LONGEST_US)))
        if not histogram.get_total_count():
            return None
        p50, p99 = (histogram.get_value_at_percentile(p) / 1e3 for p in (50, 99))
        # The histogram keeps three digits and rounds up; no percentile is above the true maximum.
        return cls(p50, p99, max(p50, p99, histogram.get_max_value() / 1e3))


@dataclass(slots=True)
class SceneResult:
    """One scene on one backend."""

    requests: Spread | None
    lag: Spread | None
    spawns_per_second: float
    loop_cpu: float  # CPU seconds of the loop's thread per second
    process_cpu: float  # the same of the whole process, children left out
    children: int
    rss: int
    client_late: Spread | None  # how late the load generator itself was
    answers: list[tuple[float, float]]  # (when the request was due, until answered), seconds
    # When exec was held, or a large output was under way.
    windows: list[tuple[float, float]] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls, score: dict[str, Any], load: dict[str, Any], windows: list[tuple[float, float]]
    ) -> SceneResult:
        """Join what the server and the load generator report."""
        answers = [(begin, taken) for begin, taken in load["answers"]]
        complaints = list(score["complaints"])
        if load["wrong"]:
            complaints.append(f"{load['wrong']} requests were answered wrongly")
        if load["sent"] != len(answers):
            complaints.append(f"{load['sent'] - len(answers)} of {load['sent']} requests were not answered")
        seconds = score["seconds"]
        return cls(
            requests=Spread.of(taken for begin, taken in answers if not windows or during(begin, windows)),
            lag=Spread.of(score["lags"]),
            spawns_per_second=score["ended_in_time"] / seconds,
            loop_cpu=score["loop_cpu"] / seconds,
            process_cpu=score["process_cpu"] / seconds,
            children=score["started"],
            rss=score["rss"],
            client_late=Spread.of(load["late"]),
            answers=answers,
            windows=windows,
            complaints=complaints,
        )

    def prompt(self) -> tuple[int, int]:
        """Return how many requests that came in the windows were answered promptly, of how many."""
        waits = [taken for begin, taken in self.answers if during(begin, self.windows)]
        return sum(taken <= PROMPT for taken in waits), len(waits)

    def mean_window(self) -> float:
        """Return how long a window was, in seconds."""
        return sum(end - begin for begin, end in self.windows) / len(self.windows)


@dataclass(slots=True)
class BackendResult:
    """All scenes on one backend."""

    backend: Backend
    scenes: dict[str, SceneResult] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def complaints(self) -> list[str]:
        """Return everything that went wrong."""
        return self.broken + [
            f"{name}: {complaint}" for name, scene in self.scenes.items() for complaint in scene.complaints
        ]


def during(moment: float, windows: list[tuple[float, float]]) -> bool:
    """Tell whether a moment is in one of the windows."""
    return any(begin <= moment < end for begin, end in windows)


def save(results: list[BackendResult], folder: Path) -> Path:
    """Write everything but the single answers as JSON and return the file."""
    document = {
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, Linux {platform.release()}",
        "units": "milliseconds; CPU in seconds per second; memory in bytes",
        "backends": {
            result.backend.name: {
                "broken": result.broken,
                "scenes": {name: _document(scene) for name, scene in result.scenes.items()},
            }
            for result in results
        },
    }
    path = folder / "demo.json"
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return path


def _document(scene: SceneResult) -> dict[str, Any]:
    document = asdict(scene)
    del document["answers"], document["windows"]
    for name in ("requests", "lag", "client_late"):
        spread = getattr(scene, name)
        document[name] = spread and spread._asdict()
    return document
