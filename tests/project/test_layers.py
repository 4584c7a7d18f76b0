"""The layers of the house: whoever is higher may use what is lower, and never the other way round."""

from __future__ import annotations

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]

# Low to high. Modules in one set do not know each other.
PYTHON: list[set[str]] = [
    {"_core"},
    {"_binding", "_compat", "_expect", "_pty", "_text", "_uvloop"},
    {"_explanations", "_values"},
    {"_errors", "_identity", "_limits", "_stats"},
    {"_options"},
    {"_checks"},
    {"_descriptors", "_environment"},
    {"_steps"},
    {"_plan"},
    {"_cgroup"},
    {"_members"},
    {"_events"},
    {"_observe", "_slow"},
    {"_port"},
    {"_capture", "_heard"},
    {"_ports"},
    {"_lifecycle", "_popen", "_splitting"},
    {"_pipes", "_ptmx", "_reading"},
    {"_write_pipe", "_collection"},
    {"_streams"},
    {"_terminal"},
    {"_transport"},
    {"_tree"},
    {"_process"},
    {"_outcome"},
    {"_starting"},
    {"_api"},
    {"_terms"},
    {"_joining", "_outlasting"},
    {"_line_reader", "_pipeline_outcome", "_running", "_stages"},
    {"_lines", "_pipelining"},
    {"_pipeline"},
    {"_run"},
    {"_many"},
    {"_survivors"},
    {"_roster"},
    {"_group"},
    {"_supervise"},
    {"_native"},
    {"_loops"},
    {"_install"},
    {"__init__"},
    {"cli", "testing"},
    {"__main__"},
]
# Low to high; a name stands for its .c and its .h.
C: list[set[str]] = [
    {"aiovfork.cdef", "arch"},
    {"binding"},
    {"sys"},
    {"plan", "reap"},
    {"capture"},
    {"pipes"},
    {"child"},
    {"engine", "launch", "launcher"},
    {"thread"},
    {"state"},
    {"probe", "group"},
    {"window", "messages"},
    {"files"},
    {"streams"},
    {"request"},
    {"collection"},
    {"mailbox"},
    {"table"},
    {"port", "attempt"},
    {"park"},
    {"reaper"},
    {"capturing"},
    {"collector"},
    {"captures", "ports", "worker"},
    {"spawn"},
    {"drain", "ending"},
    {"fork"},
]


def imported_by(source: str) -> set[str]:
    """The modules of aiovfork that a module imports, in blocks for type checkers and in functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # "from aiovfork import _plan" is an import of aiovfork._plan, "from . import" is refused elsewhere.
            assert node.level == 0, "write the whole name of the module"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            package, *rest = name.split(".")
            if package == "aiovfork":
                found.add(rest[0] if rest and known(rest[0]) else "__init__")
    return found


def known(name: str) -> bool:
    """Whether this is a module, and not a public name of the package."""
    return any(name in layer for layer in PYTHON)


def included_by(source: str) -> set[str]:
    """The files of csrc that a file includes."""
    names = re.findall(r'^\s*#\s*include\s+"([^"]+)"', source, re.MULTILINE)
    return {name.split("/")[0].removesuffix(".h").removesuffix(".c") for name in names}


def faults(uses: dict[str, set[str]], layers: list[set[str]]) -> list[str]:
    """What breaks the order of the layers, in words."""
    rank = {name: number for number, layer in enumerate(layers) for name in layer}
    found = [
        f"{name} is in no layer"
        for name in sorted({*uses, *(u for us in uses.values() for u in us)} - {*rank})
    ]
    return found + [
        f"{user} uses {name}, which is not below it"
        for user, used in sorted(uses.items())
        for name in sorted(used & {*rank} - {user})
        if user in rank and rank[name] >= rank[user]
    ]


def test_python() -> None:
    """No module imports one that is not below it, not even for types; each module has a layer."""
    uses: dict[str, set[str]] = {}
    for path in sorted((ROOT / "aiovfork").rglob("*.py")):
        name = path.relative_to(ROOT / "aiovfork").parts[0].removesuffix(".py")
        uses.setdefault(name, set()).update(imported_by(path.read_text()))
    assert not faults(uses, PYTHON)


def test_c() -> None:
    """No C file includes one that is not below it; each file has a layer."""
    uses: dict[str, set[str]] = {}
    for path in sorted((ROOT / "csrc").rglob("*.[ch]")):
        name = path.relative_to(ROOT / "csrc").parts[0].removesuffix(".c").removesuffix(".h")
        uses.setdefault(name, set()).update(included_by(path.read_text()))
    assert not faults(uses, C)


def test_a_fault_is_found() -> None:
    """What these tests are there for would fail them: an upward use, a circle, a file without a layer."""
    layers = [{"low"}, {"left", "right"}, {"high"}]
    assert not faults({"low": set(), "left": {"low"}, "high": {"left", "low", "high"}}, layers)
    assert faults({"low": {"high"}}, layers) == ["low uses high, which is not below it"]
    assert faults({"left": {"right"}, "right": {"left"}}, layers) == [
        "left uses right, which is not below it",
        "right uses left, which is not below it",
    ]
    assert faults({"new": {"low"}}, layers) == ["new is in no layer"]
    assert faults({"low": {"gone"}}, layers) == ["gone is in no layer"]
    assert imported_by(
        "def f():\n    from aiovfork import _plan, Process\n    import aiovfork._port as p"
    ) == {
        "_plan",
        "_port",
        "__init__",
    }
    assert included_by('#include <stdio.h>\n#  include "arch/x86_64.h"\n#include "sys.h"') == {"arch", "sys"}
