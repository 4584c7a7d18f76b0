"""What was measured: kept as JSON, and asked for by group, label and condition."""

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any, Self

from hdrh.histogram import HdrHistogram

from benchmarks.histogram import merge

# Peers in other languages have no interpreter.
NO_PYTHON = ""


@dataclasses.dataclass(frozen=True)
class Record:
    """One measurement in one round: its outcome, or why there is none."""

    group: str
    label: str
    condition: str
    python: str
    round: int
    outcome: dict[str, Any] | None
    absent: str | None = None
    error: str | None = None


@dataclasses.dataclass
class Results:
    """All records of one run, and what they were made on."""

    about: dict[str, Any]
    records: list[Record] = dataclasses.field(default_factory=list)

    @property
    def pythons(self) -> list[str]:
        """The interpreters' names, in the order in which they were given."""
        return list(self.about["interpreters"])

    def save(self, path: Path) -> None:
        """Write everything, raw."""
        document = {"about": self.about, "records": [dataclasses.asdict(record) for record in self.records]}
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what save wrote."""
        document = json.loads(path.read_text(encoding="utf-8"))
        return cls(document["about"], [Record(**record) for record in document["records"]])

    def outcomes(self, group: str, label: str, condition: str, python: str) -> dict[int, dict[str, Any]]:
        """The outcomes by round. Those of peers in other languages hold for every interpreter."""
        return {
            record.round: record.outcome
            for record in self.records
            if record.outcome is not None
            and (record.group, record.label, record.condition) == (group, label, condition)
            and record.python in (python, NO_PYTHON)
        }

    def values(self, group: str, label: str, condition: str, python: str, name: str) -> dict[int, float]:
        """A value by round."""
        outcomes = self.outcomes(group, label, condition, python)
        return {turn: outcome["values"][name] for turn, outcome in outcomes.items()}

    def median(self, group: str, label: str, condition: str, python: str, name: str) -> float | None:
        """The median of a value over the rounds."""
        values = self.values(group, label, condition, python, name)
        return statistics.median(values.values()) if values else None

    def histogram(
        self, group: str, label: str, condition: str, python: str, name: str
    ) -> HdrHistogram | None:
        """A distribution over all rounds."""
        outcomes = self.outcomes(group, label, condition, python)
        return merge(outcome["histograms"][name] for outcome in outcomes.values()) if outcomes else None

    def histograms(
        self, group: str, label: str, condition: str, python: str, name: str
    ) -> dict[int, HdrHistogram]:
        """A distribution for each round."""
        outcomes = self.outcomes(group, label, condition, python)
        return {turn: merge([outcome["histograms"][name]]) for turn, outcome in outcomes.items()}


def paired_ratio(above: dict[int, float], below: dict[int, float]) -> float | None:
    """The median of the ratios within each round: what disturbs a whole round disturbs both."""
    ratios = [above[turn] / below[turn] for turn in above.keys() & below.keys() if below[turn]]
    return statistics.median(ratios) if ratios else None
