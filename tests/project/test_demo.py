"""The demo, run as a user runs it from a checkout: outputs, files and exit statuses."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from examples.demo import sizes

ROOT = Path(__file__).parents[2]
PNG = b"\x89PNG\r\n\x1a\n"
SCENES = ["idle", "steady", "flat out", "bulk", "held"]
TINY = ("--quick", "--seconds", "0.4", "--heap", "16M")

# Runs the module with some imports made to fail, as if they were not installed.
WITHOUT = """
import runpy, sys
missing, sys.argv[1:] = sys.argv[1].split(","), sys.argv[2:]
sys.modules.update(dict.fromkeys(missing))
runpy.run_module("examples.demo", run_name="__main__", alter_sys=True)
"""

# Leaves a child unreaped and asks the demo's server what it thinks of that.
NEGLIGENT = """
import os
from examples.demo.server import Score, lost_children
assert lost_children(Score()) == []
pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 0"], {})
os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
print(lost_children(Score(started=3, ended=2)) == [
    "1 of 3 children did not end by themselves", f"child {pid} was not reaped"
])
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this interpreter in the checkout."""
    return subprocess.run(
        (sys.executable, *arguments), capture_output=True, text=True, timeout=110, check=False, cwd=ROOT
    )


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m examples.demo`."""
    return run("-m", "examples.demo", *arguments)


def program(folder: Path, text: str) -> str:
    """Write an executable shell script."""
    path = folder / "helper"
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="ascii")
    path.chmod(0o755)
    return str(path)


def need(*modules: str) -> None:
    """Skip where a module is missing, without importing it here: numpy, for one, would leave a thread."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


@pytest.fixture
def _extra() -> None:
    """Skip where the demo's packages are not installed; uvloop aside, it can do without."""
    need("rich", "matplotlib", "hdrh")


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("512M", 512 << 20), ("2G", 2 << 30), ("1.5 GiB", 3 << 29), ("64kb", 64 << 10)],
)
def test_sizes(text: str, size: int) -> None:
    """--heap takes sizes as people write them."""
    assert sizes.size_in_bytes(text) == size


@pytest.mark.parametrize("text", ["", "G", "2X", "-1G", "2G2", "0"])
def test_no_sizes(text: str) -> None:
    """What is no size is refused."""
    with pytest.raises(ValueError, match="write a number"):
        sizes.size_in_bytes(text)


def test_demo_names_what_is_missing() -> None:
    """Where a package is missing, the demo names it and says how to get it."""
    ended = run("-c", WITHOUT, "rich,matplotlib")
    assert ended.returncode == 2
    assert ended.stderr == "The demo needs rich, matplotlib: pip install rich matplotlib\n"


@pytest.mark.slow
@pytest.mark.usefixtures("_extra")
def test_demo(tmp_path: Path) -> None:
    """The demo plays every scene on every backend, checks all outputs, and leaves tables and plots."""
    need("uvloop")
    ended = run_demo(*TINY, "--out", str(tmp_path))
    assert ended.stderr == ""
    assert ended.returncode == 0, ended.stdout
    for label in ("asyncio", "uvloop", "aiovfork on asyncio", "aiovfork on uvloop"):
        assert ended.stdout.count(f" {label} ") >= len(SCENES) - 1
    assert "each output equals Python's own, each child was reaped." in ended.stdout
    assert (tmp_path / "demo.png").read_bytes().startswith(PNG)
    drawing = ET.parse(tmp_path / "demo.svg").getroot()  # noqa: S314  # we wrote it
    assert drawing.tag == "{http://www.w3.org/2000/svg}svg"

    backends = json.loads((tmp_path / "demo.json").read_text())["backends"]
    for backend in backends.values():
        assert list(backend["scenes"]) == SCENES
        for name, scene in backend["scenes"].items():
            assert (scene["children"] > 0) == (name != "idle")
            assert 0 < scene["requests"]["p50"] <= scene["requests"]["p99"] <= scene["requests"]["max"]
    # The lease did hold exec: asyncio's loop, which waits for exec, stood still for as long.
    assert backends["asyncio"]["scenes"]["held"]["lag"]["max"] >= 290
    assert backends["aiovfork"]["scenes"]["held"]["requests"]["p50"] < 150


@pytest.mark.slow
@pytest.mark.usefixtures("_extra")
@pytest.mark.parametrize(
    ("scene", "option", "text", "complaint"),
    [
        ("steady", "--sha256sum", 'sha256sum "$1" | tr 0-9 1-90', "wrong output"),
        ("steady", "--gzip", 'gzip -c "$2" | head -c -8', "wrong output"),  # all data, but no checksum
        ("steady", "--gzip", "kill -9 $$", "exit status -9"),
        ("bulk", "--head", 'head -c "$2" "$3" | tr "\\0" x', "wrong output"),
    ],
)
def test_demo_notices_a_wrong_child(
    tmp_path: Path, scene: str, option: str, text: str, complaint: str
) -> None:
    """A child whose output is corrupt, or that is killed, makes the demo fail and is named."""
    ended = run_demo(*TINY, "--backends", "aiovfork", option, program(tmp_path, text), "--out", str(tmp_path))
    assert ended.returncode == 1
    assert f"WRONG  aiovfork on asyncio: {scene}: {option.removeprefix('--')} " in ended.stdout
    assert complaint in ended.stdout


def test_demo_notices_a_lost_child() -> None:
    """A child that did not end, and one that nobody reaped, are complaints."""
    ended = run("-c", NEGLIGENT)
    assert (ended.stdout, ended.stderr) == ("True\n", "")


@pytest.mark.slow
@pytest.mark.usefixtures("_extra")
def test_demo_does_without_uvloop(tmp_path: Path) -> None:
    """Without uvloop its rows are left out, with a word."""
    out = ("--out", str(tmp_path))
    ended = run("-c", WITHOUT, "uvloop", *TINY, "--backends", "uvloop", "aiovfork", *out)
    assert ended.returncode == 0, ended.stdout
    assert "uvloop is not installed: its rows are left out" in ended.stdout
    assert list(json.loads((tmp_path / "demo.json").read_text())["backends"]) == ["aiovfork"]


@pytest.mark.usefixtures("_extra")
def test_demo_refuses_a_missing_program() -> None:
    """A program that is not there is named before anything starts."""
    ended = run_demo("--gzip", "no-such-gzip")
    assert ended.returncode == 2
    assert ended.stderr == "The demo needs the program no-such-gzip, which is not in PATH.\n"


def test_demo_help_is_for_users() -> None:
    """--help says what is shown, what each option takes, and what the exit status means."""
    ended = run_demo("--help")
    assert ended.returncode == 0
    said = " ".join(ended.stdout.split())
    for words in (
        "answers 250 requests a second",
        "default 2G",
        "default 7",
        "default demo-output",
        "Exit status: 0",
    ):
        assert words in said
    assert "module" not in said
    assert "import" not in said


@pytest.mark.parametrize(
    ("option", "value", "answer"),
    [
        ("--heap", "foo", "not a size: 'foo'; write a number with or without a unit, K, M, G or T"),
        ("--heap", "0", "a size of nothing"),
        ("--seconds", "-1", "'-1' is not between 0 and 600 seconds"),
        ("--seconds", "0", "is not between"),
        ("--seconds", "nan", "is not between"),
        ("--seconds", "soon", "is not between"),
        ("--backends", "gevent", "choose from"),
    ],
)
def test_demo_says_what_is_right(option: str, value: str, answer: str) -> None:
    """A wrong value of an option is refused at once, with what would have been right."""
    ended = run_demo(f"{option}={value}")
    assert ended.returncode == 2
    assert answer in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.usefixtures("_extra")
@pytest.mark.parametrize(("kind", "why"), [("file", "File exists"), ("below", "Not a directory")])
def test_demo_checks_the_output_folder_first(tmp_path: Path, kind: str, why: str) -> None:
    """A folder for the results that cannot be made is refused before anything is started."""
    (tmp_path / "file").touch()
    folder = tmp_path / "file" if kind == "file" else tmp_path / "file" / "below"
    ended = run_demo("--out", str(folder))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"The demo cannot write to {folder}: {why}.\n"
