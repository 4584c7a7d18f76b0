"""The commands of `python -m aiovfork`, run as a user runs them: outputs, files and exit statuses."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from aiovfork import _binding
from aiovfork.cli import limits

PNG = b"\x89PNG\r\n\x1a\n"
SCENES = ["idle", "steady", "flat out", "held"]
TINY = ("--quick", "--seconds", "0.4", "--heap", "16M")
CLONE3 = 435
WAITID = {"x86_64": 247, "aarch64": 95}.get(os.uname().machine)
P_PIDFD = 3

# Runs the module with some imports made to fail, as if they were not installed.
WITHOUT = """
import runpy, sys
missing, sys.argv[1:] = sys.argv[1].split(","), sys.argv[2:]
sys.modules.update(dict.fromkeys(missing))
runpy.run_module("aiovfork", run_name="__main__", alter_sys=True)
"""

# Makes one system call fail (if its first argument is the given one, unless that is -1) and runs the doctor.
CONFINED = """
import ctypes, os, struct, sys
number, first, error = map(int, sys.argv[1:4])
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
match_first = [(LOAD, 0, 0, 16), (EQUAL, 0, 1, first)] if first >= 0 else []
program = [(LOAD, 0, 0, 0), (EQUAL, 0, 1 + len(match_first), number), *match_first]
program += [(RETURN, 0, 0, 0x50000 | error), (RETURN, 0, 0, 0x7FFF0000)]  # SECCOMP_RET_ERRNO, _ALLOW
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
fprog = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, fprog, 0, 0) == 0, os.strerror(ctypes.get_errno())  # PR_SET_SECCOMP, a filter
os.execv(sys.executable, [sys.executable, "-m", "aiovfork", "doctor", "--json"])
"""

# Leaves a child unreaped and asks the demo's server what it thinks of that.
NEGLIGENT = """
import os
from aiovfork.cli.demo_server import Score, lost_children
assert lost_children(Score()) == []
pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 0"], {})
os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
print(lost_children(Score(started=3, ended=2)) == [
    "1 of 3 children did not end by themselves", f"child {pid} was not reaped"
])
"""


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run this interpreter."""
    return subprocess.run(
        (sys.executable, *arguments), capture_output=True, text=True, timeout=110, check=False, **options
    )


def aiovfork(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `python -m aiovfork`."""
    return run("-m", "aiovfork", *arguments, **options)


def program(folder: Path, text: str) -> str:
    """Write an executable shell script."""
    path = folder / "helper"
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="ascii")
    path.chmod(0o755)
    return str(path)


def finding(document: dict[str, Any], name: str) -> dict[str, str]:
    """Return one finding of the doctor."""
    (found,) = (finding for finding in document["findings"] if finding["name"] == name)
    return dict(found)


def need(*modules: str) -> None:
    """Skip where a module is missing, without importing it here: numpy, for one, would leave a thread."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


@pytest.fixture
def _extra() -> None:
    """Skip where the demo's extra is not installed; uvloop aside, it can do without."""
    need("rich", "matplotlib", "hdrh")


# ---- the command line ----


def test_no_command_prints_help() -> None:
    """Without a command there is help and exit status 2."""
    ended = aiovfork()
    assert ended.returncode == 2
    assert "demo" in ended.stdout
    assert "doctor" in ended.stdout


def test_version() -> None:
    """--version names the installed version."""
    ended = aiovfork("--version")
    assert ended.returncode == 0
    assert ended.stdout.startswith("aiovfork 0.")


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("512M", 512 << 20), ("2G", 2 << 30), ("1.5 GiB", 3 << 29), ("64kb", 64 << 10)],
)
def test_sizes(text: str, size: int) -> None:
    """--heap takes sizes as people write them."""
    assert limits.size_in_bytes(text) == size


@pytest.mark.parametrize("text", ["", "G", "2X", "-1G", "2G2"])
def test_no_sizes(text: str) -> None:
    """What is no size is refused."""
    with pytest.raises(ValueError, match="not a size"):
        limits.size_in_bytes(text)


# ---- doctor ----


def test_doctor_json() -> None:
    """--json gives the probe's facts as they are, and a status that follows from the findings."""
    ended = aiovfork("doctor", "--json")
    document = json.loads(ended.stdout)
    assert document["facts"] == dataclasses.asdict(_binding.probe())
    levels = {found["level"] for found in document["findings"]}
    assert ended.returncode == document["status"] == (2 if "fatal" in levels else "degraded" in levels)
    assert all(found["meaning"].endswith(".") for found in document["findings"])
    assert ended.stderr == ""


@pytest.mark.parametrize("missing", ["nothing", "rich"])
def test_doctor_text(missing: str) -> None:
    """For people there is the same, with rich and without."""
    if missing == "nothing":
        need("rich")
    document = json.loads(aiovfork("doctor", "--json").stdout)
    ended = run("-c", WITHOUT, missing, "doctor")
    assert ended.returncode == document["status"]
    assert ended.stdout.rstrip().endswith(document["verdict"])
    for found in document["findings"]:
        assert found["name"] in ended.stdout
    assert ("─" in ended.stdout) == (missing == "nothing")


def test_doctor_finds_clone3_refused() -> None:
    """A seccomp filter that refuses clone3 costs speed only, and the doctor names it."""
    ended = run("-c", CONFINED, str(CLONE3), "-1", "38")
    document = json.loads(ended.stdout)
    assert ended.returncode == document["status"] == 1
    assert finding(document, "clone3")["value"] == "ENOSYS"
    assert "clone3" in document["verdict"]
    assert finding(document, "seccomp")["value"].startswith("filter")
    assert finding(document, "trial")["value"].startswith("clone,")


@pytest.mark.skipif(WAITID is None, reason="the number of waitid is not known for this machine")
def test_doctor_finds_that_nothing_works() -> None:
    """Where no child can be waited for by pidfd, aiovfork cannot work, and the doctor says so."""
    ended = run("-c", CONFINED, str(WAITID), str(P_PIDFD), "1")
    document = json.loads(ended.stdout)
    assert ended.returncode == document["status"] == 2
    assert document["verdict"].startswith("aiovfork cannot work here: kernel")
    assert "EPERM" in finding(document, "kernel")["value"]


def test_doctor_finds_a_forced_engine() -> None:
    """What the environment forces is no full speed."""
    ended = aiovfork("doctor", "--json", env={**os.environ, "AIOVFORK_ENGINE": "clone"})
    document = json.loads(ended.stdout)
    assert ended.returncode == 1
    assert finding(document, "AIOVFORK_ENGINE")["value"] == "clone"
    assert finding(document, "trial")["value"].startswith("clone,")


def test_doctor_finds_few_descriptors() -> None:
    """A low RLIMIT_NOFILE is found before it hurts."""
    script = 'ulimit -n 40 && exec "$0" -m aiovfork doctor --json'
    ended = subprocess.run(("sh", "-c", script, sys.executable), capture_output=True, text=True, check=False)
    document = json.loads(ended.stdout)
    assert ended.returncode == 1
    assert "RLIMIT_NOFILE" in document["verdict"]
    assert finding(document, "RLIMIT_NOFILE")["value"].startswith("40, ")


# ---- demo ----


def test_demo_names_what_is_missing() -> None:
    """Without its extra the demo says how to get it."""
    ended = run("-c", WITHOUT, "rich,matplotlib", "demo")
    assert ended.returncode == 2
    assert ended.stderr == "The demo needs rich, matplotlib: pip install 'aiovfork[demo]'\n"


@pytest.mark.slow
@pytest.mark.usefixtures("_extra")
def test_demo(tmp_path: Path) -> None:
    """The demo plays every scene on every backend, checks all outputs, and leaves tables and plots."""
    need("uvloop")
    ended = aiovfork("demo", *TINY, "--out", str(tmp_path))
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
    ("option", "text", "complaint"),
    [
        ("--sha256sum", 'sha256sum "$1" | tr 0-9 1-90', "wrong output"),
        ("--gzip", 'gzip -c "$2" | head -c -8', "wrong output"),  # all data, but no checksum
        ("--gzip", "kill -9 $$", "exit status -9"),
    ],
)
def test_demo_notices_a_wrong_child(tmp_path: Path, option: str, text: str, complaint: str) -> None:
    """A child whose output is corrupt, or that is killed, makes the demo fail and is named."""
    ended = aiovfork(
        "demo", *TINY, "--backends", "aiovfork", option, program(tmp_path, text), "--out", str(tmp_path)
    )
    assert ended.returncode == 1
    assert f"WRONG  aiovfork on asyncio: steady: {option.removeprefix('--')} " in ended.stdout
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
    ended = run("-c", WITHOUT, "uvloop", "demo", *TINY, "--backends", "uvloop", "aiovfork", *out)
    assert ended.returncode == 0, ended.stdout
    assert "uvloop is not installed: its rows are left out" in ended.stdout
    assert list(json.loads((tmp_path / "demo.json").read_text())["backends"]) == ["aiovfork"]


@pytest.mark.usefixtures("_extra")
def test_demo_refuses_a_missing_program() -> None:
    """A program that is not there is named before anything starts."""
    ended = aiovfork("demo", "--gzip", "no-such-gzip")
    assert ended.returncode == 2
    assert ended.stderr == "The demo needs the program no-such-gzip, which is not in PATH.\n"
