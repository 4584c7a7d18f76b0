"""The commands of `python -m aiovfork`, run as a user runs them: outputs, files and exit statuses."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from aiovfork import _binding

ROOT = Path(__file__).parents[2]
CLONE3 = 435
WAITID = {"x86_64": 247, "aarch64": 95}.get(os.uname().machine)
PIDFD_SEND_SIGNAL = 424
KCMP = {"x86_64": 312, "aarch64": 272}.get(os.uname().machine)
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


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run this interpreter."""
    return subprocess.run(
        (sys.executable, *arguments), capture_output=True, text=True, timeout=110, check=False, **options
    )


def aiovfork(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `python -m aiovfork`, which is the command `aiovfork`."""
    return run("-m", "aiovfork", *arguments, **options)


def finding(document: dict[str, Any], name: str) -> dict[str, str]:
    """Return one finding of the doctor."""
    (found,) = (finding for finding in document["findings"] if finding["name"] == name)
    return dict(found)


def need(*modules: str) -> None:
    """Skip where a module is missing, without importing it here: numpy, for one, would leave a thread."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


# ---- the command line ----


def test_no_command_prints_help() -> None:
    """Without a command there is help and exit status 2."""
    ended = aiovfork()
    assert ended.returncode == 2
    assert "doctor" in ended.stdout


def test_version() -> None:
    """--version names the installed version."""
    ended = aiovfork("--version")
    assert ended.returncode == 0
    assert ended.stdout.startswith("aiovfork 0.")


def test_the_command_is_installed() -> None:
    """`aiovfork` is `python -m aiovfork`: the same help and version."""
    script = Path(sysconfig.get_path("scripts")) / "aiovfork"
    for option in ("--help", "--version"):
        assert run(str(script), option).stdout == aiovfork(option).stdout != ""


def test_a_checkout_that_is_not_built(tmp_path: Path) -> None:
    """In a checkout without the extension `python -m aiovfork` says in one sentence what to do, and fails."""
    package = Path(_binding.__file__).parent
    shutil.copytree(package, tmp_path / "aiovfork", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    # -S: no finder of an editable install. So the checkout is all that there is.
    ended = run("-S", "-m", "aiovfork", "doctor", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert len(ended.stderr.splitlines()) == 1
    assert f"not built in {tmp_path}/aiovfork. " in ended.stderr
    assert "run from another folder" in ended.stderr


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


def test_doctor_finds_that_children_cannot_be_signalled() -> None:
    """A filter that refuses pidfd_send_signal: no child could be cancelled, so none starts, and doctor says why."""
    ended = run("-c", CONFINED, str(PIDFD_SEND_SIGNAL), "-1", "1")
    document = json.loads(ended.stdout)
    assert ended.returncode == document["status"] == 2
    assert "signal a child" in finding(document, "kernel")["meaning"]


@pytest.mark.skipif(KCMP is None, reason="the number of kcmp is not known for this machine")
def test_doctor_finds_kcmp_refused() -> None:
    """Without kcmp aiovfork works, with more descriptors, and doctor says so."""
    ended = run("-c", CONFINED, str(KCMP), "-1", "1")
    document = json.loads(ended.stdout)
    assert ended.returncode == document["status"] == 1
    assert finding(document, "kcmp")["value"] == "EPERM"


def test_doctor_lists_system_calls() -> None:
    """The system calls that asyncio does not make stand in both forms of the output."""
    names = [call["name"] for call in json.loads(aiovfork("doctor", "--json").stdout)["system_calls"]]
    assert {"clone3", "kcmp", "pidfd_send_signal"} <= set(names)
    said = aiovfork("doctor").stdout
    assert all(name in said for name in names)


def test_doctor_finds_a_forced_engine() -> None:
    """What the environment forces is no full speed."""
    ended = aiovfork("doctor", "--json", env={**os.environ, "AIOVFORK_ENGINE": "clone"})
    document = json.loads(ended.stdout)
    assert ended.returncode == 1
    assert finding(document, "AIOVFORK_ENGINE")["value"] == "clone"
    assert finding(document, "trial")["value"].startswith("clone,")


def test_doctor_finds_what_options_may_ask_for() -> None:
    """Without capabilities, the doctor says which options are refused; the launcher needs none."""
    document = json.loads(aiovfork("doctor", "--json").stdout)
    assert finding(document, "launcher")["value"] == "works"
    assert finding(document, "cgroup")["value"]
    script = "import os; from aiovfork.cli import rights; {}print(*rights.capabilities())"
    drop = "os.setresuid(*[65534] * 3); " if os.geteuid() == 0 else ""
    said = subprocess.check_output([sys.executable, "-c", script.format(drop)], text=True)
    assert said.startswith("note 0 of 7")
    assert "chroot (CAP_SYS_CHROOT)" in said


def test_doctor_finds_no_terminals() -> None:
    """Where no terminal can be made, pty= is all that is missing, and doctor says so."""
    script = 'mount --bind /dev/null /dev/ptmx 2>/dev/null || exit 77; exec "$0" -m aiovfork doctor --json'
    command = ("unshare", "--map-root-user", "--mount", "sh", "-c", script, sys.executable)
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode == 77:
        pytest.skip("nothing can be mounted here")
    document = json.loads(ended.stdout)
    assert finding(document, "terminals")["value"] == "ENOTTY"
    assert finding(document, "terminals")["level"] == "note"


def test_doctor_finds_few_descriptors() -> None:
    """A low RLIMIT_NOFILE is found before it hurts."""
    script = 'ulimit -n 40 && exec "$0" -m aiovfork doctor --json'
    ended = subprocess.run(("sh", "-c", script, sys.executable), capture_output=True, text=True, check=False)
    document = json.loads(ended.stdout)
    assert ended.returncode == 1
    assert "RLIMIT_NOFILE" in document["verdict"]
    assert finding(document, "RLIMIT_NOFILE")["value"].startswith("40, ")
