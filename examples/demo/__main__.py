"""`make demo`: a server with a large heap starts helper processes, on each backend. Who keeps answering?

This module imports only the standard library; other packages are imported once they are known to be there.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from examples.demo.backends import BACKENDS, Backend, have_uvloop
from examples.demo.helpers import BULK, Programs
from examples.demo.sizes import ALLOWED, available_memory, size_as_text, size_in_bytes

if TYPE_CHECKING:
    from rich.console import Console

    from examples.demo.results import BackendResult

EXTRA = {"rich": "rich", "matplotlib": "matplotlib", "hdrh": "hdrhistogram"}
HEAP, QUICK_HEAP = "2G", "256M"
SECONDS, QUICK_SECONDS = 7.0, 1.2
HOLDS, QUICK_HOLDS = 5, 2
BULKS, QUICK_BULKS = 2, 1
LONGEST = 600.0  # seconds; every answer of a scene is kept in memory
START_UP = 1.5  # seconds that a server takes to start and fill its heap, about; for the progress bar only

GOOD, WRONG, UNUSABLE, INTERRUPTED = 0, 1, 2, 130


def heap_size(text: str) -> int:
    """Read --heap; argparse shows the text of an ArgumentTypeError, and hides that of a ValueError."""
    try:
        return size_in_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def duration(text: str) -> float:
    """Read --seconds."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= LONGEST:  # which refuses nan and inf, too
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and {LONGEST:.0f} seconds")
    return seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the demo's options."""
    parser.add_argument(
        "--heap",
        type=heap_size,
        metavar="SIZE",
        help=f"memory that the server fills before it serves: {ALLOWED}; default {HEAP}",
    )
    parser.add_argument(
        "--seconds",
        type=duration,
        metavar="N",
        help=f"how long the longest scene lasts; the others follow; default {SECONDS:.0f}",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("demo-output"),
        metavar="DIR",
        help="folder for the picture (demo.png, demo.svg) and the figures (demo.json); default demo-output",
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"short scenes and a heap of {QUICK_HEAP}: 20 seconds in all"
    )
    parser.add_argument(
        "--backends",
        nargs="+",
        choices=BACKENDS,
        metavar="NAME",
        help=f"which backends to show, of {', '.join(BACKENDS)}; default all",
    )
    parser.add_argument(
        "--sha256sum", default="sha256sum", metavar="PROGRAM", help="the sha256sum that the server starts"
    )
    parser.add_argument("--gzip", default="gzip", metavar="PROGRAM", help="the gzip that the server starts")
    parser.add_argument("--head", default="head", metavar="PROGRAM", help="the head that the server starts")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo and return the exit status: 0, 1 (a wrong output, a lost child) or 2 (cannot run)."""
    missing = [name for module, name in EXTRA.items() if importlib.util.find_spec(module) is None]
    if missing:
        print(f"The demo needs {', '.join(missing)}: pip install {' '.join(missing)}", file=sys.stderr)
        return UNUSABLE
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    try:
        programs = Programs.find(arguments.sha256sum, arguments.gzip, arguments.head)
    except FileNotFoundError as error:
        print(f"The demo needs the program {error}, which is not in PATH.", file=sys.stderr)
        return UNUSABLE
    if complaint := unwritable(arguments.out):
        print(f"The demo cannot write to {arguments.out}: {complaint}.", file=sys.stderr)
        return UNUSABLE
    backends = _backends(arguments, console)
    if not backends:
        print("No backend is left to show.", file=sys.stderr)
        return UNUSABLE
    try:
        results = _play(arguments, backends, programs, console)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    _report(results, arguments.out, console)
    return WRONG if any(result.complaints() for result in results) else GOOD


def unwritable(folder: Path) -> str | None:
    """Make the folder for the results, and say why no file can be written there; None where one can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)


def _backends(arguments: argparse.Namespace, console: Console) -> list[Backend]:
    """Return the backends to show, and say which are left out."""
    names = arguments.backends or list(BACKENDS)
    if not have_uvloop() and any(BACKENDS[name].on_uvloop for name in names):
        console.print("uvloop is not installed: its rows are left out (pip install uvloop).", markup=False)
        names = [name for name in names if not BACKENDS[name].on_uvloop]
    return [BACKENDS[name] for name in dict.fromkeys(names)]


def _heap(arguments: argparse.Namespace, console: Console) -> int:
    """Return the heap's size: as asked for, but no more than three quarters of what can be spared."""
    wanted: int = arguments.heap or size_in_bytes(QUICK_HEAP if arguments.quick else HEAP)
    # The large outputs are kept for a scene; asyncio holds the last one twice while it joins its pieces.
    bulks = QUICK_BULKS if arguments.quick else BULKS
    affordable = max(available_memory() - (bulks + 1) * BULK, 0) * 3 // 4
    if wanted > affordable:
        console.print(
            f"{size_as_text(affordable)} of heap: this machine has no room for {size_as_text(wanted)}."
        )
    return min(wanted, affordable)


def _play(
    arguments: argparse.Namespace, backends: list[Backend], programs: Programs, console: Console
) -> list[BackendResult]:
    """Play all scenes behind a progress bar."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from examples.demo.show import Script, play_all

    seconds = arguments.seconds or (QUICK_SECONDS if arguments.quick else SECONDS)
    holds = QUICK_HOLDS if arguments.quick else HOLDS
    bulks = QUICK_BULKS if arguments.quick else BULKS
    script = Script.lasting(seconds, holds, bulks, programs, _heap(arguments, console))
    columns = (TextColumn("{task.description:<48}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=len(backends) * (script.total + START_UP))
        begin = time.monotonic()

        def announce(what: str) -> None:
            progress.update(bar, description=what)
            if not console.is_terminal:
                console.print(f"{time.monotonic() - begin:5.1f} s  {what}")

        async def play() -> list[BackendResult]:
            async def tick() -> None:
                while True:
                    progress.update(bar, completed=time.monotonic() - begin)
                    await asyncio.sleep(0.2)

            ticking = asyncio.create_task(tick())
            try:
                return await play_all(backends, script, announce, console.print)
            finally:
                ticking.cancel()

        return asyncio.run(play())


def _report(results: list[BackendResult], folder: Path, console: Console) -> None:
    """Print the tables and the verdict, and write figures and plots."""
    from examples.demo.plot import draw
    from examples.demo.results import save
    from examples.demo.table import bulk_table, held_table, verdict, working_table

    if any(result.scenes for result in results):
        console.print(working_table(results))
    if any("bulk" in result.scenes for result in results):
        console.print(bulk_table(results))
    if any("held" in result.scenes for result in results):
        console.print(held_table(results))
    for line in verdict(results):
        console.print(line, markup=False, soft_wrap=True)
    files = [save(results, folder), *draw(results, folder)]
    console.print("Written: " + ", ".join(map(str, files)))


def main() -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo",
        description=(
            "An HTTP server with a large heap answers 250 requests a second, and starts helper processes "
            "at the same time: sha256sum and gzip. The demo shows how fast it answers while asyncio, uvloop, "
            "and aiovfork on either of them start the helpers, what happens while a helper returns "
            f"{size_as_text(BULK)}, and what happens when exec is slow."
        ),
        epilog=(
            "Exit status: 0 if every helper did its work; 1 if an output was wrong or a child was lost; "
            "2 if the demo cannot run here."
        ),
    )
    add_arguments(parser)
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
