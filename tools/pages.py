"""What the generators of documentation have in common: a page, and what it should say."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path


def main(page: Path, fill_in: Callable[[str], str], module: str, about: str | None) -> int:
    """Be `python -m MODULE`: bring a page up to date or, with --check, say that it is not."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=about)
    parser.add_argument("--check", action="store_true", help="change nothing")
    options = parser.parse_args()
    old = page.read_text()
    new = fill_in(old)
    if options.check:
        if new != old:
            print(f"{page.name} is out of date: python -m {module}", file=sys.stderr)
        return int(new != old)
    page.write_text(new)
    return 0
