"""The demo's tables: requests, loop lag, spawns and CPU of each scene on each backend."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from examples.demo.helpers import BULK
from examples.demo.results import PROMPT
from examples.demo.show import HOLD, TITLES
from examples.demo.sizes import size_as_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from examples.demo.results import BackendResult, Spread


WORKING = ("idle", "steady", "flat out")  # the scenes of the first table


def milliseconds(value: float) -> str:
    """Write milliseconds with about three digits."""
    digits = 2 - math.floor(math.log10(max(value, 0.01)))
    return f"{value:.{max(0, min(digits, 2))}f}"


def _cells(spread: Spread | None) -> tuple[str, ...]:
    return tuple(map(milliseconds, spread)) if spread else ("-", "-", "-")


def _table(title: str, caption: str = "") -> Table:
    return Table(
        title=title,
        caption=caption or None,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )


def working_table(results: list[BackendResult]) -> Table:
    """Return the table of the scenes in which helpers run normally."""
    rss = max(
        (result.scenes[name].rss for result in results for name in WORKING if name in result.scenes),
        default=0,
    )
    table = _table(
        f"A server of {size_as_text(rss)} answers requests while helpers run sha256sum and gzip",
        "Times in ms. Lag: how late a 1 ms beat of the loop is. CPU of the loop's thread, and of the\n"
        "whole server process (its children left out), in % of one core.",
    )
    table.add_column("", no_wrap=True)
    for name in ("request p50", "p99", "max", "lag p50", "p99", "max", "spawns /s", "loop CPU", "all CPU"):
        table.add_column(name, justify="right")
    for name in WORKING:
        table.add_row(f"[bold]{TITLES[name]}[/bold]")
        for result in results:
            if scene := result.scenes.get(name):
                spawns = f"{scene.spawns_per_second:.0f}" if scene.children else "-"
                cpu = (f"{scene.loop_cpu:.0%}", f"{scene.process_cpu:.0%}")
                table.add_row(
                    f"  {result.backend.label}", *_cells(scene.requests), *_cells(scene.lag), spawns, *cpu
                )
        table.add_section()
    return table


def held_table(results: list[BackendResult]) -> Table:
    """Return the table of the scene in which exec is slow."""
    table = _table(f"While exec of one helper is held for {HOLD * 1e3:.0f} ms", "Times in ms.")
    table.add_column("", no_wrap=True)
    for name in (f"answered within {PROMPT * 1e3:.0f} ms", "request p50", "p99", "max", "lag max"):
        table.add_column(name, justify="right")
    for result in results:
        if scene := result.scenes.get("held"):
            prompt, total = scene.prompt()
            lag = milliseconds(scene.lag.max) if scene.lag else "-"
            table.add_row(result.backend.label, f"{prompt} of {total}", *_cells(scene.requests), lag)
    return table


def bulk_table(results: list[BackendResult]) -> Table:
    """Return the table of the scene in which a helper returns much."""
    table = _table(f"While a helper returns {size_as_text(BULK)}", "Times in ms.")
    table.add_column("", no_wrap=True)
    for name in (f"answered within {PROMPT * 1e3:.0f} ms", "request p50", "p99", "max", "lag max", "taken"):
        table.add_column(name, justify="right")
    for result in results:
        if scene := result.scenes.get("bulk"):
            prompt, total = scene.prompt()
            lag = milliseconds(scene.lag.max) if scene.lag else "-"
            taken = milliseconds(scene.mean_window() * 1e3)
            table.add_row(result.backend.label, f"{prompt} of {total}", *_cells(scene.requests), lag, taken)
    return table


def verdict(results: list[BackendResult], shown: int = 5) -> Iterator[str]:
    """Yield what to say about the children: all well, or what went wrong."""
    children = sum(scene.children for result in results for scene in result.scenes.values())
    if not any(result.complaints() for result in results):
        yield f"{children} children: each output equals Python's own, each child was reaped."
        return
    for result in results:
        complaints = result.complaints()
        for complaint in complaints[:shown]:
            yield f"WRONG  {result.backend.label}: {complaint}"
        if len(complaints) > shown:
            yield f"WRONG  {result.backend.label}: and {len(complaints) - shown} more"
