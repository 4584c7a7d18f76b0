"""What a scenario gets, and what it gives back."""

import dataclasses
import time
from collections.abc import Iterable

from benchmarks.callbacks import CallbackTimes
from benchmarks.histogram import encode, histogram
from benchmarks.settings import Settings
from benchmarks.spawners import Subject


@dataclasses.dataclass
class Run:
    """One measurement: the spawn, its settings, the loop's callback times; and its results."""

    subject: Subject
    settings: Settings
    times: CallbackTimes
    values: dict[str, float] = dataclasses.field(default_factory=dict)
    histograms: dict[str, str] = dataclasses.field(default_factory=dict)

    def record(self, name: str, nanoseconds: Iterable[int]) -> None:
        """Keep the distribution of these times."""
        self.histograms[name] = encode(histogram(nanoseconds))


class Clocks:
    """Wall time and CPU time of this thread, from the making of this object on, in seconds."""

    def __init__(self) -> None:
        self._wall = time.perf_counter()
        self._cpu = time.thread_time()

    @property
    def wall(self) -> float:
        """Seconds passed."""
        return time.perf_counter() - self._wall

    @property
    def cpu(self) -> float:
        """Seconds of CPU that this thread has used."""
        return time.thread_time() - self._cpu
