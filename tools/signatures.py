"""Writes the options of a spawn into what repeats them: signatures, TypedDicts, the tuples passed on.

The one description is the class Options in aiovfork/_options.py: a new option is a row there. Each signature
spells the keywords out, because editors, type checkers and help() show what is written. This replaces the
options where they stand, and leaves the rest of a function alone.

Run as `python -m tools.signatures`; with `--check` it changes nothing and fails if a file is out of date.
"""

import argparse
import ast
import sys
import textwrap
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parent.parent / "aiovfork"
DESCRIPTION = PACKAGE / "_options.py"
#: The name of the variable that takes the tuple of options in each function.
ASKED = "asked"
#: The first option that is refused everywhere; functions without a drop-in end before it.
REFUSED = "startupinfo"
#: What a pipeline cannot have: one program for all, a session that others join, and the terminal of one.
NOT_OF_A_PIPELINE = frozenset({"executable", "start_new_session", "controlling_tty"})
WIDTH = 110


class Option(NamedTuple):
    """A row of Options."""

    name: str
    type: str
    default: str


class Place(NamedTuple):
    """Something that repeats options."""

    name: str
    options: Collection[str]
    defaults: dict[str, str]


class Change(NamedTuple):
    """Lines to replace, from first on, up to and without end; counted from 0."""

    first: int
    end: int
    lines: list[str]


def described(source: str) -> list[Option]:
    """The rows of Options."""
    found = next(
        node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == "Options"
    )
    rows = [row for row in found.body if isinstance(row, ast.AnnAssign)]
    return [
        Option(ast.unparse(row.target), written(source, row.annotation), written(source, row.value))
        for row in rows
    ]


def written(source: str, node: ast.expr | None) -> str:
    """The source of an expression."""
    assert node is not None
    return ast.get_source_segment(source, node) or ""


def places(options: list[Option]) -> dict[str, list[Place]]:
    """Every place, by its file."""
    names = [option.name for option in options]
    child = names[: names.index(REFUSED)]
    stage = [name for name in child if name not in NOT_OF_A_PIPELINE]
    in_shell, grouped = {"shell": "True"}, {"process_group": "0"}
    return {
        "_options.py": [
            Place("StageOptions", stage, {}),
            Place("ChildOptions", NOT_OF_A_PIPELINE, {}),
            Place("SpawnOptions", names[len(child) :], {}),
        ],
        "_api.py": [
            Place("create_subprocess_exec", names, {}),
            Place("create_subprocess_shell", names, in_shell),
            Place("subprocess_exec", names, {}),
            Place("subprocess_shell", names, in_shell),
        ],
        "_loops.py": [
            Place("SubprocessLoopMixin.subprocess_exec", names, {}),
            Place("SubprocessLoopMixin.subprocess_shell", names, in_shell),
        ],
        "_run.py": [Place(name, child, grouped) for name in ("run", "run_shell")],
        "_lines.py": [Place("lines", child, grouped)],
        "_pipeline.py": [Place("pipeline", stage, grouped)],
        "_many.py": [Place("run_many", child, grouped)],
        "_group.py": [
            Place(f"ProcessGroup.{name}", child, grouped) for name in ("start", "start_shell", "run")
        ],
        "_supervise.py": [Place("supervise", child, grouped)],
    }


def filled_in(source: str, options: list[Option], found: list[Place]) -> str:
    """The source of a module with its places brought up to date."""
    tree = ast.parse(source)
    changes = [change for place in found for change in changes_of(node_of(tree, place.name), place, options)]
    lines = source.splitlines(keepends=True)
    for first, end, new in sorted(changes, reverse=True):
        lines[first:end] = [line + "\n" for line in new]
    return "".join(lines)


def node_of(tree: ast.Module, name: str) -> ast.AST:
    """A class, or the last definition of a function: those before it are overloads."""
    node: ast.AST = tree
    for part in name.split("."):
        body = node.body if isinstance(node, ast.Module | ast.ClassDef) else []
        named = [one for one in body if getattr(one, "name", None) == part]
        assert named, f"there is no {name}"
        node = named[-1]
    return node


def changes_of(node: ast.AST, place: Place, options: list[Option]) -> Iterator[Change]:
    """What a place should say."""
    chosen = [option for option in options if option.name in place.options]
    indent = " " * (getattr(node, "col_offset", 0) + 4)
    if isinstance(node, ast.ClassDef):
        fields = [field for field in node.body if isinstance(field, ast.AnnAssign)]
        rows = [f"{indent}{name}: {kind}" for name, kind, _ in chosen]
        yield Change(fields[0].lineno - 1, fields[-1].end_lineno or 0, rows)
        return
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    of_ours = [argument.lineno for argument in node.args.kwonlyargs if argument.arg in place.options]
    rows = [
        f"{indent}{name}: {kind} = {place.defaults.get(name, default)}," for name, kind, default in chosen
    ]
    yield Change(min(of_ours) - 1, max(of_ours), rows)
    for statement in node.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == ASKED:
            assert isinstance(statement.value, ast.Tuple)
            yield Change(statement.lineno - 1, statement.end_lineno or 0, tuple_of(place, options, indent))
            return
    raise AssertionError(f"{place.name} has no {ASKED}")


def tuple_of(place: Place, options: list[Option], indent: str) -> list[str]:
    """The tuple of options in their order; for one that the place does not have, its default."""
    names = [option.name for option in options]
    end = None if REFUSED in place.options else names.index(REFUSED)
    items = [f"{name if name in place.options else default}," for name, _, default in options[:end]]
    inside = indent + "    "
    wrapped = textwrap.wrap(" ".join(items), WIDTH, initial_indent=inside, subsequent_indent=inside)
    return [f"{indent}{ASKED} = (  # tools/signatures.py", *wrapped, f"{indent})"]


def main() -> int:
    """Bring the files up to date, or say which are not."""
    parser = argparse.ArgumentParser(prog="python -m tools.signatures", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing")
    arguments = parser.parse_args()
    options = described(DESCRIPTION.read_text())
    status = 0
    for name, found in places(options).items():
        path = PACKAGE / name
        old = path.read_text()
        new = filled_in(old, options, found)
        if new == old:
            continue
        if arguments.check:
            print(f"{name} is out of date: python -m tools.signatures", file=sys.stderr)
            status = 1
        else:
            path.write_text(new)
    return status


if __name__ == "__main__":
    sys.exit(main())
