"""The rates as a pyperf suite: its statistics, and a file for `pyperf compare_to`, `stats` and `hist`."""

from pathlib import Path

import pyperf

from benchmarks.matrix import EVERYBODY
from benchmarks.peer_programs import SPAWNING as PEERS
from benchmarks.results import NO_PYTHON, Results


def benchmark(name: str, seconds: list[float]) -> pyperf.Benchmark:
    """One round is one run of pyperf's: each had a process of its own."""
    metadata = {"name": name, "unit": "second"}
    return pyperf.Benchmark(
        [pyperf.Run([value], metadata=metadata, collect_metadata=False) for value in seconds]
    )


def save(results: Results, path: Path) -> None:
    """Write the seconds for a spawn, from the rates."""
    benchmarks = [
        benchmark(" ".join(filter(None, ("spawn", label, python))), [1 / rate for rate in rates])
        for label, python in (
            *((peer.label, NO_PYTHON) for peer in PEERS),
            *((variant.label, python) for variant in EVERYBODY for python in results.pythons),
        )
        if (
            rates := [
                outcome["values"]["rate"] for outcome in results.outcomes("rate", label, "", python).values()
            ]
        )
    ]
    if benchmarks:
        pyperf.BenchmarkSuite(benchmarks).dump(str(path), replace=True)


def median_and_spread(values: list[float]) -> str:
    """The median, and the median deviation from it where there is more than one value."""
    each = benchmark("rate", values)
    spread = f" ± {each.median_abs_dev():,.0f}" if len(values) > 1 else ""
    return f"{each.median():,.0f}{spread}"
