"""The core without the Python above it: for what no loop does by itself, such as two threads at one port."""

from __future__ import annotations

import os
import select
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from aiovfork._binding import PLAN, PLAN_STEP, ffi, lib

_HEADER: Final = PLAN.size


class Step(NamedTuple):
    """One declared step; a value of bytes is placed in the block, and its offset is the step's value."""

    step: int
    value: int | bytes = 0
    detail: int = 0
    flags: int = 0


def plan(
    *argv: str,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    steps: Sequence[Step] = (),
    flags: int = 0,
    cgroup: int = -1,
    env: Mapping[str, str] | None = None,
) -> bytes:
    """Describe a child that has this environment and no standard streams but /dev/null."""
    variables = {"PATH": os.environ["PATH"]} if env is None else env
    strings = [[shutil.which(argv[0]) or argv[0]], list(argv), [f"{k}={v}" for k, v in variables.items()]]
    offset, places, body = _HEADER + len(steps) * PLAN_STEP.size, [], b""
    for texts in strings:
        packed = b"".join(text.encode() + b"\0" for text in texts)
        places += [offset, len(texts)]
        offset += len(packed)
        body += packed
    declared = b""
    for step in sorted(steps):
        value = step.value
        if isinstance(value, bytes):
            block = bytes(-offset % 8) + value
            body += block
            offset += len(block)
            value = offset - len(value)
        declared += PLAN_STEP.pack(step.step, step.detail, step.flags, value)
    streams = [lib.AVF_STDIO_DEVNULL if fd is None else fd for fd in (stdin, stdout, stderr)]
    flags |= lib.AVF_PLAN_CLOSE_FDS
    header = PLAN.pack(offset, lib.AVF_PLAN_VERSION, flags, 0, *streams, len(steps), 0, 0, *places, cgroup, 0)
    return header + declared + body


#: The child leads a process group.
LEADS: Final = Step(lib.AVF_STEP_SETPGID)


class Port:
    """A completion port that nobody watches."""

    def __init__(self) -> None:
        pointer = ffi.new("avf_port **")
        assert lib.avf_port_open(pointer) == 0
        self.port: Any = pointer[0]
        self.batch: Any = lib.avf_port_batch(self.port)
        self.seen: list[Any] = []  # records that nobody has asked for yet

    def spawn(self, *argv: str, **description: Any) -> int:
        """Start a child, and return its ticket."""
        block = plan(*argv, **description)
        ticket: int = lib.avf_spawn(self.port, block, len(block), ffi.NULL, ffi.new("int32_t *"))
        assert ticket > 0, os.strerror(-ticket)
        return ticket

    def drain(self) -> int:
        """Drain once, and return how many records wait in the batch."""
        number: int = lib.avf_port_drain(self.port)
        return number

    def records(self, kind: int, number: int) -> list[int]:
        """Wait until so many records of a kind have come, and return their pids."""
        return [event.pid for event in self.events(kind, number)]

    def events(self, kind: int, number: int) -> list[Any]:
        """Wait until so many records of a kind have come, and return copies of them."""
        while len(events := [event for event in self.seen if event.kind == kind]) < number:
            select.select([lib.avf_port_fd(self.port)], [], [])
            self.drain()
            for index in range(self.batch.taken, self.batch.filled):
                event = ffi.new("avf_event *", self.batch.events[index])
                assert event.kind in (kind, lib.AVF_SPAWNED, lib.AVF_EXITED), (event.error, event.step)
                self.seen.append(event)
                self.batch.taken = index + 1
        self.seen = [event for event in self.seen if event not in events[:number]]
        return events[:number]
