"""The demo's picture: latency, loop lag, spawns and CPU; what a large output does, and what a slow exec."""

from __future__ import annotations

import platform
from operator import itemgetter
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter

from examples.demo.helpers import BULK
from examples.demo.show import AT_ONCE, HELPERS, HOLD
from examples.demo.sizes import size_as_text
from examples.demo.table import milliseconds

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

    from examples.demo.results import BackendResult, SceneResult, Spread

# Okabe and Ito's palette: told apart by colour-blind readers, too.
COLOURS = {"asyncio": "#0072B2", "uvloop": "#D55E00", "aiovfork": "#009E73", "aiovfork-uvloop": "#CC79A7"}
GREY = "#666666"
MARKS = {"p50": "o", "p99": "D", "max": ">"}


def draw(results: list[BackendResult], folder: Path) -> list[Path]:
    """Write demo.png and demo.svg and return their paths."""
    shown = [result for result in results if "steady" in result.scenes]
    if not shown:
        return []
    windows = {
        f"Each request, while a helper returns {size_as_text(BULK)} (grey)": _having("bulk", shown),
        f"Each request, while exec of one helper is held for {HOLD * 1e3:.0f} ms (grey)": _having(
            "held", shown
        ),
    }
    heights = [0.8 + 0.95 * len(strips) for strips in windows.values() if strips]
    figure = Figure(figsize=(11, 6.8 + sum(heights)), layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08))
    rss = max(result.scenes["steady"].rss for result in shown)
    figure.suptitle(
        f"A server of {size_as_text(rss)} answers requests while it starts helper processes\n"
        f"CPython {platform.python_version()}, Linux {platform.release()}, {platform.machine()}",
        fontsize=13,
    )
    upper: Figure | SubFigure = figure
    if heights:
        rows = figure.add_gridspec(1 + len(heights), 1, height_ratios=(6.0, *heights))
        upper = figure.add_subfigure(rows[0])
        for row, (title, scenes) in enumerate(filter(itemgetter(1), windows.items()), 1):
            _timelines(figure.add_subfigure(rows[row]), title, scenes)
    panels = upper.subplots(2, 2, sharey=True)
    _ranges(panels[0][0], shown, "requests", f"Request latency, {HELPERS} helpers/s")
    _ranges(panels[0][1], shown, "lag", f"Loop lag (1 ms beat), {HELPERS} helpers/s")
    _rates(panels[1][0], shown)
    _cpu(panels[1][1], shown)
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="upper right", frameon=False, fontsize=9)
    paths = [folder / "demo.png", folder / "demo.svg"]
    for path in paths:
        figure.savefig(path, dpi=140)
    return paths


def _having(name: str, results: list[BackendResult]) -> list[tuple[BackendResult, SceneResult]]:
    """Return the scene of that name of each backend that has played it."""
    return [(result, result.scenes[name]) for result in results if name in result.scenes]


def _face(key: str, colour: str) -> str:
    return "white" if key == "max" else colour


def _plain(value: float, _: int = 0) -> str:
    return f"{value:,g}"


def _name_rows(axes: Axes, results: list[BackendResult], title: str) -> None:
    """Give each backend its row, first on top."""
    axes.set_yticks(range(len(results)), [result.backend.label for result in results])
    axes.set_ylim(len(results) - 0.4, -0.6)
    axes.set_title(title, fontsize=11, loc="left")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _ranges(axes: Axes, results: list[BackendResult], what: str, title: str) -> None:
    """Draw p50, p99 and maximum of each backend as one line on a logarithmic axis; idle in grey below it."""
    for row, result in enumerate(results):
        for name, offset, colour, size in (
            ("steady", -0.08, COLOURS[result.backend.name], 8.0),
            ("idle", 0.22, "#aaaaaa", 5.0),
        ):
            spread: Spread | None = getattr(result.scenes[name], what)
            if spread is None:
                continue
            axes.plot((spread.p50, spread.max), (row + offset,) * 2, color=colour, linewidth=size / 3)
            for key, value in spread._asdict().items():
                axes.plot(
                    value,
                    row + offset,
                    MARKS[key],
                    color=colour,
                    markerfacecolor=_face(key, colour),
                    markersize=size,
                )
            if name == "steady":
                _label(axes, spread.max, row + offset, f"{milliseconds(spread.max)} ms")
    _name_rows(axes, results, title)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(10))
    axes.xaxis.set_major_formatter(FuncFormatter(_plain))
    axes.margins(x=0.16)
    axes.set_xlabel("milliseconds, logarithmic (grey: without helpers)")
    for key, mark in MARKS.items():
        axes.plot([], [], mark, color=GREY, markerfacecolor=_face(key, GREY), label=key)


def _label(axes: Axes, x: float, y: float, text: str) -> None:
    axes.annotate(text, (x, y), xytext=(8, 0), textcoords="offset points", va="center", fontsize=9)


def _rates(axes: Axes, results: list[BackendResult]) -> None:
    """Draw how many helpers each backend runs when it may."""
    for row, result in enumerate(results):
        if scene := result.scenes.get("flat out"):
            axes.barh(row, scene.spawns_per_second, height=0.6, color=COLOURS[result.backend.name])
            _label(axes, scene.spawns_per_second, row, f"{scene.spawns_per_second:.0f}")
    _name_rows(axes, results, f"Helpers/s, {AT_ONCE} at a time, flat out")
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.set_xlabel("sha256sum and gzip, started, read and reaped per second")


def _cpu(axes: Axes, results: list[BackendResult]) -> None:
    """Draw the CPU of the loop's thread, pale behind it that of the whole server process."""
    for row, result in enumerate(results):
        scene = result.scenes["steady"]
        colour = COLOURS[result.backend.name]
        axes.barh(row, scene.process_cpu, height=0.6, color=colour, alpha=0.3)
        axes.barh(row, scene.loop_cpu, height=0.6, color=colour)
        axes.plot(result.scenes["idle"].loop_cpu, row, "|", color="black", markersize=24)
        _label(axes, max(scene.process_cpu, scene.loop_cpu), row, f"{scene.loop_cpu:.0%}")
    _name_rows(axes, results, f"CPU of the loop's thread, {HELPERS} helpers/s")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.set_xlabel("of one core (pale: the whole server process; line: without helpers)")


def _timelines(figure: SubFigure, title: str, scenes: list[tuple[BackendResult, SceneResult]]) -> None:
    """Draw each request of a scene at the time at which it was due."""
    strips = figure.subplots(len(scenes), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    figure.suptitle(title, fontsize=11, ha="left", x=0.02)
    for axes, (result, scene) in zip(strips, scenes, strict=True):
        _timeline(axes, result, scene)
    strips[-1].set_xlabel("seconds")
    figure.supylabel("request latency, ms", fontsize=10)


def _timeline(axes: Axes, result: BackendResult, scene: SceneResult) -> None:
    origin = scene.answers[0][0] if scene.answers else 0.0
    for begin, end in scene.windows:
        axes.axvspan(begin - origin, end - origin, color="#e4e4e4", linewidth=0)
    axes.plot(
        [begin - origin for begin, _ in scene.answers],
        [taken * 1e3 for _, taken in scene.answers],
        ".",
        markersize=3.5,
        color=COLOURS[result.backend.name],
    )
    axes.set_yscale("log")
    axes.set_ylim(0.1, 1000)
    axes.yaxis.set_major_locator(LogLocator(10))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(_plain))
    axes.margins(x=0.01)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    prompt, total = scene.prompt()
    axes.set_title(
        f"{result.backend.label}: {prompt} of {total} answered within 50 ms", fontsize=9.5, loc="left", pad=3
    )
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
