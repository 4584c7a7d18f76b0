"""The results as plots, PNG and SVG: stall against memory, rates, percentiles of the lag."""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.histogram import percentile
from benchmarks.matrix import AIOVFORK, ASYNCIO_PREEXEC, EVERYBODY
from benchmarks.peer_programs import LIMIT
from benchmarks.peer_programs import SPAWNING as PEERS
from benchmarks.results import Results
from benchmarks.scale import Scale

mpl.use("Agg")
# The same file for the same results.
mpl.rcParams.update({"svg.hashsalt": "aiovfork", "axes.spines.top": False, "axes.spines.right": False})

# Okabe and Ito's colours: told apart by everybody.
_COLOURS = dict(
    zip(
        [variant.label for variant in (*EVERYBODY, ASYNCIO_PREEXEC)],
        ["#009E73", "#56B4E9", "#D55E00", "#E69F00", "#0072B2", "#CC79A7", "#555555"],
        strict=True,
    )
)
_PEER_COLOUR = "#999999"
_PERCENTS = [50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99]


def save(results: Results, scale: Scale, folder: Path) -> list[Path]:
    """Write the plots for which there are results."""
    return [
        path
        for name, draw, columns, panels in (
            ("stall-against-rss", _stall, 1, ("",)),
            ("rate", _rate, 1, ("",)),
            ("lag", _lag, 2, ("tick", "beat")),
        )
        for path in _figure(results, scale, folder / name, draw, columns, panels)
    ]


def _figure(
    results: Results,
    scale: Scale,
    path: Path,
    draw: Callable[[Axes, Results, Scale, str, str], bool],
    columns: int,
    panels: tuple[str, ...],
) -> list[Path]:
    """One panel for each interpreter, and for each of panels."""
    rows = len(results.pythons)
    figure, axes = plt.subplots(
        rows, columns, figsize=(9 if columns == 1 else 15, 4.8 * rows), squeeze=False, layout="constrained"
    )
    drawn = [
        draw(axes[row][column], results, scale, python, panel)
        for row, python in enumerate(results.pythons)
        for column, panel in enumerate(panels)
    ]
    written = [path.with_suffix(suffix) for suffix in (".png", ".svg")] if any(drawn) else []
    for file in written:
        figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)
    plt.close(figure)
    return written


def _emphasis(label: str) -> float:
    return 2.6 if label == AIOVFORK.label else 1.4


def _stall(axes: Axes, results: Results, scale: Scale, python: str, _: str) -> bool:
    """The median stall against the RSS that the process really had; the band reaches up to p99."""
    drawn = False
    ticks: set[float] = set()
    groups = [("heap", ""), *((f"heap of {size} MB", "") for size in scale.curve_mb), ("heap", scale.heap)]
    for label, colour in _COLOURS.items():
        points = []
        for group, condition in groups:
            values = results.histogram(group, label, condition, python, "sum")
            outcomes = results.outcomes(group, label, condition, python)
            if values:
                rss = max(outcome["conditions"]["rss_mb"] for outcome in outcomes.values()) / 1024
                points.append((rss, percentile(values, 50) / 1000, percentile(values, 99) / 1000))
        if points:
            sizes, medians, highs = zip(*points, strict=True)
            axes.plot(sizes, medians, "o-", color=colour, label=label, lw=_emphasis(label), ms=4)
            if label == AIOVFORK.label:
                axes.fill_between(sizes, medians, highs, color=colour, alpha=0.15, lw=0)
            ticks.update(sizes)
            drawn = True
    axes.set(
        xscale="log", yscale="log", xlabel="RSS of the parent, GB", ylabel="loop stopped for a spawn, ms"
    )
    axes.set_title(
        f"How long a spawn stops the loop (p50; aiovfork shaded to p99), CPython {python}", loc="left"
    )
    # Those of one condition differ by little.
    axes.set_xticks(sorted({round(size, 1) or 0.03 for size in ticks}), minor=False)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _finish(axes)
    return drawn


def _finish(axes: Axes) -> None:
    """A logarithmic y axis with plain numbers, a grid, a legend beside the plot."""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.grid(alpha=0.3)
    if axes.has_data():
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _rate(axes: Axes, results: Results, _scale: Scale, python: str, _: str) -> bool:
    """Bars of the median rate; the line reaches from the slowest round to the fastest."""
    bars = []
    for label in (*(peer.label for peer in PEERS), *(variant.label for variant in EVERYBODY)):
        rates = sorted(results.values("rate", label, "", python, "rate").values())
        if rates:
            bars.append((rates[len(rates) // 2], rates[0], rates[-1], label))
    bars.sort()
    for place, (rate, low, high, label) in enumerate(bars):
        axes.barh(place, rate, color=_COLOURS.get(label, _PEER_COLOUR), height=0.7)
        axes.plot([low, high], [place, place], color="black", lw=1)
        axes.text(high, place, f"  {rate:,.0f}", va="center", fontsize=9)
        if label == LIMIT.label:
            axes.axvline(rate, color="black", lw=0.8, ls=":")
    axes.set_yticks(range(len(bars)), [label for *_, label in bars])
    axes.set_xlabel("spawned and waited for, a second")
    axes.set_title(f"/bin/true, 16 at a time, CPython {python}", loc="left")
    return bool(bars)


def _lag(axes: Axes, results: Results, _scale: Scale, python: str, panel: str) -> bool:
    """Percentile curves: to the right the rarer cases."""
    drawn = False
    places = list(range(len(_PERCENTS)))
    for label, colour in _COLOURS.items():
        values = results.histogram(panel, label, "", python, "lag")
        if values:
            lags = [percentile(values, percent) for percent in _PERCENTS]
            axes.plot(places, lags, color=colour, label=label, lw=_emphasis(label))
            drawn = True
    idle = results.histogram(panel, AIOVFORK.label, "", python, "idle")
    if idle:
        lags = [percentile(idle, percent) for percent in _PERCENTS]
        axes.plot(places, lags, color="black", ls=":", label="idle loop")
    what = {"tick": "a 1 ms tick, 500 spawns a second", "beat": "a turn of the loop, 4 spawns under way"}[
        panel
    ]
    axes.set_title(f"Lag of {what}, CPython {python}", loc="left", fontsize=10)
    axes.set(yscale="log", xlabel="percentile", ylabel="µs")
    axes.set_xticks(places, [f"{percent:g}" for percent in _PERCENTS], fontsize=8)
    _finish(axes)
    return drawn
