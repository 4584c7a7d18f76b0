"""The core without the Python above it: for what no loop does by itself, such as two threads at one port."""

from __future__ import annotations

import os
import select
import shutil
from typing import Any, Final

from aiovfork._binding import PLAN, PLAN_STEP, ffi, lib

_HEADER: Final = PLAN.size


def plan(
    *argv: str, stdin: int | None = None, leads: bool = False, flags: int = 0, cgroup: int = -1
) -> bytes:
    """Describe a child that has this environment and no standard streams but /dev/null."""
    steps = PLAN_STEP.pack(lib.AVF_STEP_SETPGID, 0, 0) if leads else b""
    strings = [[shutil.which(argv[0]) or argv[0]], list(argv), [f"PATH={os.environ['PATH']}"]]
    offset, places, body = _HEADER + len(steps), [], b""
    for texts in strings:
        packed = b"".join(text.encode() + b"\0" for text in texts)
        places += [offset, len(texts)]
        offset += len(packed)
        body += packed
    null = [lib.AVF_STDIO_DEVNULL if stdin is None else stdin, *[lib.AVF_STDIO_DEVNULL] * 2]
    flags |= lib.AVF_PLAN_CLOSE_FDS
    header = PLAN.pack(offset, lib.AVF_PLAN_VERSION, flags, 0, *null, int(leads), 0, *places, cgroup)
    return header + steps + body


class Port:
    """A completion port that nobody watches."""

    def __init__(self) -> None:
        pointer = ffi.new("avf_port **")
        assert lib.avf_port_open(pointer) == 0
        self.port: Any = pointer[0]
        self.batch: Any = lib.avf_port_batch(self.port)
        self.seen: list[Any] = []  # records that nobody has asked for yet

    def spawn(self, *argv: str, stdin: int | None = None, leads: bool = False, flags: int = 0) -> int:
        """Start a child, and return its ticket."""
        block = plan(*argv, stdin=stdin, leads=leads, flags=flags)
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
