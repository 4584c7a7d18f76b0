"""Start processes from asyncio without stopping the event loop.

A child is started by a short-lived worker thread with vfork semantics, its exit is awaited through a pidfd,
and everything comes back through one descriptor per loop. See create_subprocess_exec.
"""

from asyncio.subprocess import DEVNULL, PIPE, STDOUT

from aiovfork._api import create_subprocess_exec, create_subprocess_shell, subprocess_exec, subprocess_shell
from aiovfork._binding import park_workers
from aiovfork._errors import SpawnError
from aiovfork._events import SpawnInfo
from aiovfork._expect import Expected, ExpectEnded, ExpectTimeout
from aiovfork._group import ProcessGroup
from aiovfork._identity import Capabilities
from aiovfork._install import Installation, install
from aiovfork._limits import IOPriority
from aiovfork._line_reader import Lines
from aiovfork._lines import lines
from aiovfork._loops import (
    EventLoop,
    SubprocessLoopMixin,
    new_event_loop,
    new_uvloop_event_loop,
)
from aiovfork._many import RunCommand, run_many
from aiovfork._observe import Event, ExitedEvent, FailedEvent, SpawnedEvent, Subscription, on_event
from aiovfork._options import SpawnOptions
from aiovfork._outcome import Completed, OutputLimitExceeded, ProcessFailed, ProcessTimeout
from aiovfork._pipeline import pipeline
from aiovfork._pipeline_outcome import PipelineFailed, PipelineResult
from aiovfork._process import Process
from aiovfork._pty import Pty
from aiovfork._run import run, run_shell
from aiovfork._splitting import LineTooLong
from aiovfork._stats import Histogram, Stats, stats
from aiovfork._supervise import Supervisor, SupervisorEvent, supervise
from aiovfork._terminal import Terminal
from aiovfork._terms import RunOptions
from aiovfork._transport import SubprocessTransport
from aiovfork._tree import Teardown

__all__ = [
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
]

__version__ = "0.1.0"
