"""Writes the tables of options of the reference, from the docstrings of SpawnOptions and RunOptions.

Run as `python -m tools.options`; with `--check` it changes nothing and fails if the page is out of date.
"""

import functools
import inspect
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiovfork
from tools import pages

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"
#: Each page, the type that describes its options, and a function that has them.
PAGES: dict[Path, tuple[type, Callable[..., Any]]] = {
    REFERENCE / "options.md": (aiovfork.SpawnOptions, aiovfork.create_subprocess_exec),
    REFERENCE / "run.md": (aiovfork.RunOptions, aiovfork.run),
}

_TABLE = re.compile(r"(<!-- (?:run )?options -->\n).*?(<!-- end -->)", re.DOTALL)
_MORE = {
    "close_fds": "see [pass descriptors](../how-to/pass-descriptors.md)",
    "pass_fds": "see [pass descriptors](../how-to/pass-descriptors.md)",
    "spawn_timeout": "see [deadlines](../how-to/timeouts-and-cancellation.md)",
    "preexec_fn": "see [replace `preexec_fn`](../how-to/replace-preexec-fn.md)",
}
# Defaults that have a name.
_NAMES = {
    ("stdin", subprocess.DEVNULL): "DEVNULL",
    ("stdout", subprocess.PIPE): "PIPE",
    ("stderr", subprocess.PIPE): "PIPE",
    ("stop_signal", signal.SIGTERM): "SIGTERM",
}


def described(options: type) -> dict[str, str]:
    """What SpawnOptions or RunOptions says of each option."""
    _, _, attributes = inspect.cleandoc(options.__doc__ or "").partition("Attributes:\n")
    return dict(re.findall(r"^ +(\w+): (.+)$", attributes, re.MULTILINE))


def fill_in(page: str, options: type, function: Callable[..., Any]) -> str:
    """The page with its table replaced."""
    lines = ["| option | default | what it does |\n| --- | --- | --- |\n"]
    parameters = inspect.signature(function).parameters
    for name, text in described(options).items():
        default = f"`{_NAMES.get((name, parameters[name].default), repr(parameters[name].default))}`"
        more = f"; {_MORE[name]}." if name in _MORE else "."
        lines.append(f"| `{name}` | {default} | {text.removesuffix('.')}{more} |\n")
    return _TABLE.sub(lambda found: found[1] + "\n" + "".join(lines) + "\n" + found[2], page)


if __name__ == "__main__":
    results = [
        pages.main(
            page, functools.partial(fill_in, options=options, function=function), "tools.options", __doc__
        )
        for page, (options, function) in PAGES.items()
    ]
    sys.exit(max(results))
