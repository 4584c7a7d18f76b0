"""Every program in examples/ runs by itself, ends well and says what it is there to show."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pyte
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LONGEST = 40  # lines

# What each prints, as a regular expression for the whole output.
OUTPUT = {
    "drop_in": r"apple\nfig\npear\nexit status 0\n",
    "line_streaming": r"(got line \d\n){5}got bye\nexit status 0\n",
    "many_children": r"\d{4,} lines in (\d+) files\n\1 children, at most (\d|1[0-6]) alive at once, 0 now\n",
    "on_uvloop": r"loop: uvloop\n0077\nthrough a real pipe\n",
    "process_group": r"import failed with 3\nserver: -15\nworker: -15\nimport: 3\n",
    "protocol_transport": r"exited\n\{1: b'HELLO\\n', 2: b'oh\\n'\} return code 3\n",
    "record_session": (
        r"a terminal: +\n/dev/pts/\d+ +\n% test -t 0 && stty size +\n6 34 +\n% exit +\n {34}\n"
    ),
    "restart_a_helper": r"answer to question 0\nanswer to question 1\nanswer to question 2\nno process is left: True\n",
    "shell_pipeline": r"2 lines about the cat\n",
    "threads_with_own_loops": (
        "".join(rf"thread {n}: {' '.join(str(100 * n + m) for m in range(8))}\n" for n in range(4))
        + r"32 children in all\n"
    ),
    "timeout_and_cancel": (
        r"takes too long\nkilled and reaped, return code -9\n"
        r"(did not run within a microsecond: killed before it could start|ran: .*)\n0 children alive\n"
    ),
}


def test_every_example_is_checked() -> None:
    """No example is left without a test of what it prints."""
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(OUTPUT)


@pytest.mark.parametrize("name", OUTPUT)
def test_example_runs(name: str) -> None:
    """An example exits with 0, prints what it is there to show, and not a warning."""
    if name == "on_uvloop" and importlib.util.find_spec("uvloop") is None:
        pytest.skip("uvloop is not installed")
    command = (sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"))
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.stderr == ""
    assert re.fullmatch(OUTPUT[name], ended.stdout), ended.stdout
    assert ended.returncode == 0


@pytest.mark.parametrize("name", OUTPUT)
def test_example_is_short_and_explained(name: str) -> None:
    """An example fits on a screen and says first what it shows."""
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST
    assert ast.get_docstring(ast.parse(text))


def load(name: str) -> ModuleType:
    """Import an example."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Stands for wc: for one file it fails once four others run; for the others it never ends by itself.
STUCK_WC = """#!/bin/sh
case $2 in
*/events.py) exec 3<>"$FIFO"; for _ in 1 2 3 4; do read -r _ <&3; done; exit 7 ;;
*) echo $$ >>"$PIDS"; echo $$ >"$FIFO"; exec sleep 1000 ;;
esac
"""


async def test_many_children_end_with_the_first_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """many_children: when one child fails, the others are killed and reaped before main() raises."""
    (tmp_path / "wc").write_text(STUCK_WC)
    (tmp_path / "wc").chmod(0o755)
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FIFO", str(tmp_path / "fifo"))
    monkeypatch.setenv("PIDS", str(tmp_path / "pids"))
    module = load("many_children")
    fifo = os.open(tmp_path / "fifo", os.O_RDWR)  # so that writing to it raises no SIGPIPE
    try:
        with pytest.raises(ExceptionGroup) as raised:
            await module.main()
    finally:
        os.close(fifo)
    assert [str(error)[-len("ended with 7") :] for error in raised.value.exceptions] == ["ended with 7"]
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) >= 4
    for pid in pids:
        with pytest.raises(ProcessLookupError):  # a zombie would still be there
            os.kill(int(pid), 0)


def test_a_recorded_session_can_be_played(tmp_path: Path) -> None:
    """record_session: the file is an asciicast v2, and what it plays ends with the screen that was printed."""
    path = tmp_path / "session.cast"
    command = (sys.executable, str(EXAMPLES / "record_session.py"), str(path))
    printed = subprocess.check_output(command, text=True, timeout=60)
    header, *events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert header == {"version": 2, "width": 34, "height": 6}
    assert [kind for _, kind, _ in events] == ["o"] * len(events)
    times = [time for time, _, _ in events]
    assert times == sorted(times)
    screen = pyte.Screen(34, 6)
    pyte.Stream(screen).feed("".join(text for _, _, text in events))
    assert printed.splitlines() == list(screen.display)


def test_threads_need_no_main_thread(capsys: pytest.CaptureFixture[str]) -> None:
    """threads_with_own_loops: it works outside the main thread, and leaves SIGCHLD alone."""
    before = signal.getsignal(signal.SIGCHLD)
    thread = threading.Thread(target=load("threads_with_own_loops").main)
    thread.start()
    thread.join()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "thread 0: 0 1 2 3 4 5 6 7"
    assert len(lines) == 5
    assert signal.getsignal(signal.SIGCHLD) is before
