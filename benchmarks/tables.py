"""The results as tables: the goals and whether they were reached, and everybody's figures."""

from collections.abc import Callable, Iterable

from rich.console import Console
from rich.table import Table

from benchmarks.goals import Verdict, View, verdicts
from benchmarks.histogram import longest, percentile
from benchmarks.matrix import ASYNCIO, CAPTURING, EVERYBODY, NOTHING, SUBJECTS, WORKER_RATE, Variant
from benchmarks.peer_programs import CAPTURING as CAPTURING_PEERS
from benchmarks.peer_programs import SPAWNING as PEERS
from benchmarks.pyperf_suite import median_and_spread
from benchmarks.results import NO_PYTHON, Results, paired_ratio
from benchmarks.scale import Scale

_MARKS = {True: "[green]yes[/]", False: "[red]no[/]", None: ""}


def show(results: Results, scale: Scale, console: Console) -> None:
    """Print all tables."""
    for subject in SUBJECTS:
        _print(console, _goals(results, scale, subject.label))
    for table in (
        _rates(results),
        _stalls(results, scale),
        _lags(results),
        _captured(results),
        _moved(results, scale),
        _workers(results, scale),
    ):
        _print(console, table)


def _print(console: Console, table: Table) -> None:
    if table.row_count:
        console.print(table)


def _goals(results: Results, scale: Scale, subject: str) -> Table:
    """One line for each goal, a pair of columns for each interpreter."""
    table = Table("goal", "what", "target", title=f"Goals: {subject}", title_justify="left")
    lines: dict[tuple[str, str, str], dict[str, Verdict]] = {}
    for python in results.pythons:
        table.add_column(python, justify="right")
        table.add_column("")
        for verdict in verdicts(View(results, scale, subject, python)):
            lines.setdefault((verdict.goal, verdict.what, verdict.target), {})[python] = verdict
    last = ""
    for (goal, what, target), reached in lines.items():
        if last and goal != last:
            table.add_section()
        cells = [
            text
            for python in results.pythons
            for text in (
                (reached[python].reached, _MARKS[reached[python].met]) if python in reached else ("", "")
            )
        ]
        table.add_row(goal if goal != last else "", what, target, *cells)
        last = goal
    return table


def _rates(results: Results) -> Table:
    table = Table(
        "16 at a time", "Python", title="Spawns a second (± median deviation), loop CPU", title_justify="left"
    )
    table.add_column("per second", justify="right")
    table.add_column("loop CPU for each, µs", justify="right")
    for label, python in (
        *((peer.label, NO_PYTHON) for peer in PEERS),
        *((variant.label, python) for variant in EVERYBODY for python in results.pythons),
    ):
        outcomes = results.outcomes("rate", label, "", python)
        if outcomes:
            rates = [outcome["values"]["rate"] for outcome in outcomes.values()]
            cpu = results.median("rate", label, "", python, "cpu_us") if python else None
            table.add_row(label, python, median_and_spread(rates), "" if cpu is None else f"{cpu:.1f}")
    return table


def _captured(results: Results) -> Table:
    """What a captured run costs."""
    title = "Captured small outputs a second, loop CPU; and without capture"
    table = Table("16 at a time", "Python", title=title, title_justify="left")
    for heading in ("per second", "loop CPU for each, µs", "without capture", "1 MiB at once: RSS ÷ sum"):
        table.add_column(heading, justify="right")

    def cells(label: str, python: str) -> Iterable[str]:
        yield _median(results, "captured", label, "", python, "rate", 0)
        yield _median(results, "captured", label, "", python, "cpu_us", 1) if python else ""
        yield _median(results, "captured", label, "without capture", python, "rate", 0)
        yield _median(results, "captures", label, "", python, "peak_ratio", 3)

    return _fill_captures(table, results, cells)


def _moved(results: Results, scale: Scale) -> Table:
    """How fast large outputs are, and what they do to the loop."""
    title = "Large outputs: GB/s, loop CPU; longest callback, and p99 of a 1 ms tick"
    table = Table("", "Python", title=title, title_justify="left")
    for name in (f"{scale.bulk_mb} MiB out of a child", f"{scale.through_mb} MiB through cat"):
        for heading in (f"{name}, GB/s", "CPU, ms", "callback, ms", "tick, µs"):
            table.add_column(heading, justify="right")

    def cells(label: str, python: str) -> Iterable[str]:
        for group in ("bulk", "through"):
            yield _median(results, group, label, "rate" if python else "", python, "gbps", 3)
            yield _median(results, group, label, "rate", python, "cpu_ms", 1) if python else ""
            callbacks = results.histogram(group, label, "callbacks", python, "callbacks") if python else None
            yield f"{longest(callbacks) / 1000:,.2f}" if callbacks else ""
            lag = results.histogram(group, label, "lag", python, "lag") if python else None
            yield f"{percentile(lag, 99):,.0f}" if lag else ""

    return _fill_captures(table, results, cells)


def _median(
    results: Results, group: str, label: str, condition: str, python: str, name: str, digits: int
) -> str:
    value = results.median(group, label, condition, python, name)
    return "" if value is None else f"{value:,.{digits}f}"


def _fill_captures(table: Table, results: Results, cells: Callable[[str, str], Iterable[str]]) -> Table:
    for label, python in (
        *((peer.label, NO_PYTHON) for peer in CAPTURING_PEERS),
        *((variant.label, python) for variant in CAPTURING for python in results.pythons),
    ):
        row = list(cells(label, python))
        if any(row):
            table.add_row(label, python, *row)
    return table


def _stalls(results: Results, scale: Scale) -> Table:
    """How long a spawn stops the loop, p50 / p99."""
    columns = (
        ("stall", "", "plain"),
        ("heap", scale.heap, scale.heap),
        ("fds", scale.many_fds, scale.many_fds),
        ("slow exec", "slow exec", "slow exec"),
        ("slow exec", "hung exec", "beside a hung exec"),
    )
    table = Table("µs, p50 / p99", "Python", title="The loop's callbacks for one spawn", title_justify="left")
    for _, _, title in columns:
        table.add_column(title, justify="right")
    table.add_column("stopped by a hung exec", justify="right")

    def cells(variant: Variant, python: str) -> Iterable[str]:
        for group, condition, _ in columns:
            values = results.histogram(group, variant.label, condition, python, "sum")
            yield f"{percentile(values, 50):,.0f} / {percentile(values, 99):,.0f}" if values else ""
        stopped = results.median("slow exec", variant.label, "hung exec", python, "stopped_s")
        yield "" if stopped is None else _stopped(stopped, scale.hung)

    return _fill(table, results, cells)


def _stopped(seconds: float, limit: float) -> str:
    """How long a hung exec stopped the loop; the measurement lets it go after a while."""
    return "for ever" if seconds > 0.9 * limit else f"{seconds * 1000:.1f} ms"


def _lags(results: Results) -> Table:
    """How late the loop does its other work, p99 / longest."""
    columns = (
        ("tick", "", "idle", "tick, idle"),
        ("tick", "", "lag", "tick, 500 spawns/s"),
        ("heartbeat", "", "lag", "sleep, 500 spawns/s"),
        ("beat", "", "lag", "sleep(0), 4 spawns"),
        ("burst", "", "callbacks", "callbacks of a burst"),
        ("slow exec", "lag", "lag", "tick, slow exec"),
    )
    table = Table("µs, p99 / longest", "Python", title="Lag of the loop", title_justify="left")
    for *_, title in columns:
        table.add_column(title, justify="right")

    def cells(variant: Variant, python: str) -> Iterable[str]:
        for group, condition, name, _ in columns:
            values = results.histogram(group, variant.label, condition, python, name)
            yield f"{percentile(values, 99):,.0f} / {longest(values):,.0f}" if values else ""

    return _fill(table, results, cells)


def _workers(results: Results, scale: Scale) -> Table:
    """How late the loops of Dask's workers answer, p50 / p99 / longest, and the p99 against asyncio's."""
    title = f"Lag of a 1 ms tick on the loops of two Dask workers of {scale.worker}"
    table = Table("µs, p50 / p99 / longest", "Python", title=title, title_justify="left")
    columns = (
        ("", "idle", "idle"),
        ("", "lag", f"{WORKER_RATE} spawns/s each"),
        ("slow exec", "lag", "slow exec"),
    )
    for _, name, heading in columns:
        table.add_column(heading, justify="right")
        if name == "lag":
            table.add_column("÷ asyncio", justify="right")

    def p99(label: str, python: str, condition: str) -> dict[int, float]:
        each = results.histograms("workers", label, condition, python, "lag")
        return {turn: percentile(values, 99) for turn, values in each.items()}

    def cells(variant: Variant, python: str) -> Iterable[str]:
        for condition, name, _ in columns:
            values = results.histogram("workers", variant.label, condition, python, name)
            figures = (percentile(values, 50), percentile(values, 99), longest(values)) if values else ()
            yield " / ".join(f"{figure:,.0f}" for figure in figures)
            if name == "lag":
                ratio = paired_ratio(
                    p99(variant.label, python, condition), p99(ASYNCIO.label, python, condition)
                )
                yield "" if ratio is None else f"{ratio:.3g}"

    return _fill(table, results, cells)


def _fill(table: Table, results: Results, cells: Callable[[Variant, str], Iterable[str]]) -> Table:
    for variant in (*EVERYBODY, NOTHING):
        for python in results.pythons:
            row = list(cells(variant, python))
            if any(row):
                table.add_row(variant.label, python, *row)
    return table
