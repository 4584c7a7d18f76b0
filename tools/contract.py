"""Writes into the safety contract which tests prove each of its promises.

A test says so itself: its docstring begins with the promise, as in `P4, P6. No zombie is left.` Run as
`python -m tools.contract`; with `--check` it changes nothing and fails if the page is out of date.
"""

import ast
import re
import sys
from collections import defaultdict
from functools import partial
from pathlib import Path

from tools import pages

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reference" / "safety-contract.md"

_PROMISES = re.compile(r"(P\d+(?:, P\d+)*)\.\s+(.*)")
_LIST = re.compile(r"(<!-- tests of (P\d+) -->\n).*?(<!-- end -->)", re.DOTALL)


def find_proofs(tests: Path) -> dict[str, list[str]]:
    """For each promise the lines that name its tests, in the order of files and definitions."""
    proofs = defaultdict(list)
    for file in sorted(tests.rglob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name[:5] != "test_":
                continue
            first_line = (ast.get_docstring(node) or "").partition("\n")[0]
            if found := _PROMISES.match(first_line):
                for promise in found[1].split(", "):
                    proofs[promise].append(f"- `tests/{file.relative_to(tests)}::{node.name}`: {found[2]}\n")
    return dict(proofs)


def fill_in(page: str, proofs: dict[str, list[str]]) -> str:
    """The page with its lists of tests replaced.

    Raises:
        ValueError: A promise without a test, or a test of a promise that the page does not have.
    """
    listed = [promise for _, promise, _ in _LIST.findall(page)]
    if unlike := set(listed) ^ set(proofs):
        raise ValueError(f"not both on the page and in a test: {', '.join(sorted(unlike))}")
    return _LIST.sub(lambda found: found[1] + "".join(proofs[found[2]]) + found[3], page)


if __name__ == "__main__":
    sys.exit(
        pages.main(PAGE, partial(fill_in, proofs=find_proofs(ROOT / "tests")), "tools.contract", __doc__)
    )
