"""Checks that every C function says on which thread it runs.

A comment directly above each definition carries `THREAD loop|worker|child|collector|reaper|any`
(several joined by `|` or `or`), so that `grep 'THREAD worker'` finds all that a worker may call. A
file that the parser does not understand is an error too: a definition could hide in there.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import tree_sitter
import tree_sitter_c

THREADS = frozenset({"loop", "worker", "child", "collector", "reaper", "any"})

_TAG = re.compile(r"\bTHREAD\s+(\w+(?:(?:\s*\|\s*|\s+or\s+)\w+)*)")
_SEPARATOR = re.compile(r"\s*\|\s*|\s+or\s+")
_PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_c.language()))


def find(node: tree_sitter.Node) -> Iterator[tree_sitter.Node]:
    """Every function definition and every place that could not be parsed, in file order."""
    if node.type in {"function_definition", "ERROR"} or node.is_missing:
        yield node
        return
    for child in node.children:
        yield from find(child)


def name_of(definition: tree_sitter.Node) -> str:
    """The function's name, below the pointers and parameter lists of its declarator."""
    node: tree_sitter.Node | None = definition
    while node is not None and node.type != "identifier":
        node = node.child_by_field_name("declarator")
    return "?" if node is None or node.text is None else node.text.decode()


def complaint(node: tree_sitter.Node) -> str | None:
    """What is wrong with one node that `find` gave, if anything is."""
    if node.type != "function_definition":
        return "cannot be parsed, so what it defines cannot be checked"
    name = name_of(node)
    above = node.prev_named_sibling
    if above is None or above.type != "comment" or above.end_point.row + 1 != node.start_point.row:
        return f"{name}: no comment directly above"
    tag = _TAG.search((above.text or b"").decode())
    if tag is None:
        return f"{name}: the comment above has no THREAD tag"
    unknown = [word for word in _SEPARATOR.split(tag[1]) if word not in THREADS]
    if unknown:
        return f"{name}: THREAD {', '.join(unknown)} is none of {', '.join(sorted(THREADS))}"
    return None


def check(path: Path) -> tuple[int, list[str]]:
    """The number of definitions in one file, and its complaints as `file:line: text`."""
    nodes = list(find(_PARSER.parse(path.read_bytes()).root_node))
    complaints = [f"{path}:{node.start_point.row + 1}: {text}" for node in nodes if (text := complaint(node))]
    return sum(node.type == "function_definition" for node in nodes), complaints


def main(argv: list[str] | None = None) -> int:
    """Check the given files, and those ending in .c or .h below the given folders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", type=Path, nargs="*", default=[Path("csrc")])
    roots = parser.parse_args(argv).paths
    files = [file for root in roots for file in (sorted(root.rglob("*.[ch]")) if root.is_dir() else [root])]
    results = [check(file) for file in files]
    functions = sum(count for count, _ in results)
    complaints = [line for _, lines in results for line in lines]
    if functions == 0:
        complaints.append(f"thread tags: no function found in {', '.join(map(str, roots))}")
    print("\n".join(complaints) or f"thread tags: {functions} functions in {len(files)} files, each tagged")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
