"""Writes the table of options of the reference, from the docstring of aiovfork.SpawnOptions.

Run as `python -m tools.options`; with `--check` it changes nothing and fails if the page is out of date.
"""

import inspect
import re
import sys
from pathlib import Path

import aiovfork
from tools import pages

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "options.md"

_TABLE = re.compile(r"(<!-- options -->\n).*?(<!-- end -->)", re.DOTALL)
_MORE = {
    "close_fds": "see [pass descriptors](../how-to/pass-descriptors.md)",
    "pass_fds": "see [pass descriptors](../how-to/pass-descriptors.md)",
    "spawn_timeout": "see [deadlines](../how-to/timeouts-and-cancellation.md)",
    "preexec_fn": "see [replace `preexec_fn`](../how-to/replace-preexec-fn.md)",
}


def described() -> dict[str, str]:
    """What SpawnOptions says of each option."""
    _, _, attributes = inspect.cleandoc(aiovfork.SpawnOptions.__doc__ or "").partition("Attributes:\n")
    return dict(re.findall(r"^ +(\w+): (.+)$", attributes, re.MULTILINE))


def fill_in(page: str) -> str:
    """The page with its table replaced."""
    lines = ["| option | default | what it does |\n| --- | --- | --- |\n"]
    parameters = inspect.signature(aiovfork.create_subprocess_exec).parameters
    for name, text in described().items():
        default = f"`{parameters[name].default!r}`"
        more = f"; {_MORE[name]}." if name in _MORE else "."
        lines.append(f"| `{name}` | {default} | {text.removesuffix('.')}{more} |\n")
    return _TABLE.sub(lambda found: found[1] + "\n" + "".join(lines) + "\n" + found[2], page)


if __name__ == "__main__":
    sys.exit(pages.main(PAGE, fill_in, "tools.options", __doc__))
