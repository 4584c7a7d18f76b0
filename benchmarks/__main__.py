"""The command: `python -m benchmarks [run|smoke|report] [options]`."""

import argparse
import dataclasses
import datetime as dt
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from benchmarks import machine, matrix, peer_programs, plots, pyperf_suite, tables
from benchmarks.driver import Driver
from benchmarks.histogram import merge
from benchmarks.interpreters import Interpreter, MeasurementError
from benchmarks.matrix import GOALS, Group
from benchmarks.results import Record, Results
from benchmarks.scale import FULL, QUICK, SMOKE, Scale

_RESULTS = Path(__file__).parent / "results"
_FAILED, _WRONG_USE, _INTERRUPTED = 1, 2, 130
# Wide enough for the tables where there is no terminal.
_WIDTH = 150


def _goals(text: str) -> set[str]:
    chosen = set(text.upper().split(","))
    if unknown := chosen.difference(GOALS):
        raise argparse.ArgumentTypeError(f"no such goal: {', '.join(sorted(unknown))}")
    return chosen


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "command",
        nargs="?",
        choices=("run", "smoke", "report"),
        default="run",
        help="run: everything (the default); smoke: that the harness works; report: tables and plots again",
    )
    parser.add_argument("--quick", action="store_true", help="less of everything: a first impression")
    parser.add_argument("--only", type=_goals, metavar="GOALS", help=f"some of {','.join(GOALS)}")
    parser.add_argument("--rounds", type=int, help="how often everybody has a turn")
    parser.add_argument("--python", nargs="+", default=[sys.executable], help="the interpreters that measure")
    parser.add_argument("--out", type=Path, help="folder of the results (of report: the existing one)")
    return parser.parse_args()


def _run(options: argparse.Namespace, scale: Scale, groups: list[Group], out: Path) -> tuple[Results, int]:
    """Measure; returns the results, and the exit status."""
    console = _console()
    if warning := machine.noise():
        console.print(f"[yellow]{warning}[/]")
    interpreters = [Interpreter.at(path) for path in options.python]
    if len({interpreter.name for interpreter in interpreters}) < len(interpreters):
        raise MeasurementError("the interpreters must be of different versions")
    about = {
        "machine": machine.describe(),
        "interpreters": {interpreter.name: interpreter.versions for interpreter in interpreters},
        "scale": dataclasses.asdict(scale),
    }
    results = Results(about)
    driver = Driver(results, interpreters, console)
    driver.build_peers(groups)
    status = 0
    try:
        driver.run(groups)
    except KeyboardInterrupt:
        console.print("[yellow]interrupted: what there is is kept[/]")
        status = _INTERRUPTED
    out.mkdir(parents=True, exist_ok=True)
    results.save(out / "results.json")
    _report(results, out, console, quiet=options.command == "smoke")
    return results, status or (_FAILED if any(record.error for record in results.records) else 0)


def _report(results: Results, out: Path, console: Console, *, quiet: bool = False) -> None:
    """Tables and plots; quiet: into files only."""
    scale = Scale(**{**results.about["scale"], "curve_mb": tuple(results.about["scale"]["curve_mb"])})
    pyperf_suite.save(results, out / "pyperf.json")
    if not quiet:
        tables.show(results, scale, console)
    with (out / "tables.txt").open("w", encoding="utf-8") as file:
        tables.show(results, scale, Console(file=file, width=_WIDTH))
    plots.save(results, scale, out)
    if not quiet:
        console.print(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=_WIDTH)


def _problem(record: Record) -> str | None:
    """What is not as it must be, even in a run whose figures mean nothing."""
    if record.outcome is None:
        return None
    values, histograms = record.outcome["values"], record.outcome["histograms"]
    if not values and not histograms:
        return "no result"
    if any(merge([text]).get_total_count() == 0 for text in histograms.values()):
        return "nothing in a histogram"
    if not all(
        value > 0
        for name, value in values.items()
        if name in ("rate", "cpu_us", "samples", "count", "gbps", "cpu_ms")
    ):
        return f"impossible values: {values}"
    if record.label == matrix.AIOVFORK.label and not values.get("still_hung", True):
        return "the hung exec did not hang"
    return None


def _smoke(options: argparse.Namespace) -> int:
    """Run a little of everything, and check that each measurement gave what it should."""
    subjects = {matrix.AIOVFORK.label, matrix.RUN.label, matrix.ASYNCIO.label}
    labels = {*subjects, peer_programs.LIMIT.label, peer_programs.CAPTURE_LIMIT.label}
    groups = matrix.reduced(matrix.groups(SMOKE), labels)
    with tempfile.TemporaryDirectory(prefix="aiovfork-bench-") as folder:
        results, status = _run(options, SMOKE, groups, Path(folder))
        files = {path.name for path in Path(folder).iterdir()}
    for record in results.records:
        if problem := _problem(record):
            print(f"{record.group}, {record.label}, {record.condition}: {problem}")
            status = _FAILED
    expected = {f"{plot}.{kind}" for plot in ("stall-against-rss", "rate", "lag") for kind in ("png", "svg")}
    if missing := (expected | {"results.json", "pyperf.json", "tables.txt"}) - files:
        print(f"not written: {', '.join(sorted(missing))}")
        status = _FAILED
    return status


def main() -> int:
    """Run the command; returns the exit status."""
    options = _parse()
    try:
        if options.command == "smoke":
            return _smoke(options)
        if options.command == "report":
            if options.out is None:
                print("report needs --out", file=sys.stderr)
                return _WRONG_USE
            _report(Results.load(options.out / "results.json"), options.out, _console())
            return 0
        scale = QUICK if options.quick else FULL
        if options.rounds:
            scale = dataclasses.replace(scale, rounds=options.rounds, few_rounds=options.rounds)
        groups = matrix.groups(scale)
        if options.only:
            groups = matrix.only(groups, options.only)
        now = dt.datetime.now(dt.UTC)
        _, status = _run(options, scale, groups, options.out or _RESULTS / f"{now:%Y-%m-%d-%H%M%S}")
    except (MeasurementError, subprocess.CalledProcessError) as problem:
        print(problem, file=sys.stderr)
        return _FAILED
    return status


if __name__ == "__main__":
    sys.exit(main())
