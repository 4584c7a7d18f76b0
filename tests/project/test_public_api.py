"""The public names: exactly the documented ones, each from the one public module."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import subprocess
import sys

import pytest

import aiovfork

DOCUMENTED = {
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "Capabilities",
    "Completed",
    "Event",
    "EventLoop",
    "ExitedEvent",
    "ExpectEnded",
    "ExpectTimeout",
    "Expected",
    "FailedEvent",
    "Histogram",
    "IOPriority",
    "Installation",
    "LineTooLong",
    "Lines",
    "OutputLimitExceeded",
    "PipelineFailed",
    "PipelineResult",
    "Process",
    "ProcessFailed",
    "ProcessGroup",
    "ProcessTimeout",
    "Pty",
    "RunCommand",
    "RunOptions",
    "SpawnError",
    "SpawnInfo",
    "SpawnOptions",
    "SpawnedEvent",
    "Stats",
    "SubprocessLoopMixin",
    "SubprocessTransport",
    "Subscription",
    "Supervisor",
    "SupervisorEvent",
    "Teardown",
    "Terminal",
    "create_subprocess_exec",
    "create_subprocess_shell",
    "install",
    "lines",
    "new_event_loop",
    "new_uvloop_event_loop",
    "on_event",
    "park_workers",
    "pipeline",
    "run",
    "run_many",
    "run_shell",
    "stats",
    "subprocess_exec",
    "subprocess_shell",
    "supervise",
}


def test_all_is_what_is_documented() -> None:
    """aiovfork.__all__ has the documented names, each once."""
    assert sorted(aiovfork.__all__) == sorted(DOCUMENTED)


def test_nothing_else_is_public() -> None:
    """Importing the package leaves no other name without an underscore in it, and no module."""
    program = "import aiovfork, json; print(json.dumps([name for name in vars(aiovfork) if name[0] != '_']))"
    names = json.loads(subprocess.check_output([sys.executable, "-c", program]))
    assert set(names) == DOCUMENTED


@pytest.mark.parametrize("name", sorted(DOCUMENTED - {"PIPE", "STDOUT", "DEVNULL"}))
def test_everything_is_documented_where_it_is_defined(name: str) -> None:
    """Each public function and class has a docstring, and so has each public member of its own."""
    thing = getattr(aiovfork, name)
    assert inspect.getdoc(thing)
    if inspect.isclass(thing):
        own = {member: value for member, value in vars(thing).items() if not member.startswith("_")}
        undocumented = [
            member
            for member, value in own.items()
            if (inspect.isfunction(value) or isinstance(value, property)) and not inspect.getdoc(value)
        ]
        assert not undocumented


def test_classes_fit_where_asyncios_do() -> None:
    """Process and SubprocessTransport are subclasses of asyncio's."""
    assert issubclass(aiovfork.Process, asyncio.subprocess.Process)
    assert issubclass(aiovfork.SubprocessTransport, asyncio.SubprocessTransport)
    missing = [
        name for name in vars(asyncio.SubprocessTransport) if not hasattr(aiovfork.SubprocessTransport, name)
    ]
    assert not missing


@pytest.mark.parametrize(("mailboxes", "opened"), [("", 9), ("0", 0)])
def test_importing_starts_nothing(mailboxes: str, opened: int) -> None:
    """An import starts no thread and no process, and opens only the low descriptors that are kept, if any are wanted."""
    program = (
        "import asyncio, os, sys, threading, psutil\n"
        "before = set(os.listdir('/proc/self/fd')), os.listdir('/proc/self/task')\n"
        "import aiovfork\n"
        "opened = set(os.listdir('/proc/self/fd')) - before[0]\n"
        "assert len(opened) == int(sys.argv[1]) and len({os.readlink(f'/proc/self/fd/{fd}') for fd in opened}) <= 1\n"
        "assert all(map(str.isdigit, opened)) and all(10 <= int(fd) < 256 for fd in opened)\n"
        "assert before[1] == os.listdir('/proc/self/task')\n"
        "assert not psutil.Process().children()\n"
    )
    environment = {**os.environ, "AIOVFORK_MAILBOXES": mailboxes}
    command = [sys.executable, "-W", "error", "-c", program, str(opened)]
    subprocess.run(command, env=environment, check=True)
