"""P10: several threads at one port. Python's lock makes most of this impossible today; the core does not rely on it."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import aiovfork
from aiovfork._binding import lib
from tests.support.core import Port
from tests.support.isolated import isolated
from tests.support.window import BOUND


def _at_once(*actions: Callable[[], object]) -> None:
    barrier = threading.Barrier(len(actions))

    def run(action: Callable[[], object]) -> None:
        barrier.wait()
        action()

    threads = [threading.Thread(target=run, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _drain_beside_close(attempts: int, children: int) -> list[int]:
    for _ in range(attempts):
        port = Port()
        tickets = [port.spawn("sleep", "1000") for _ in range(children)]
        pids = port.records(lib.AVF_SPAWNED, children)
        for ticket in tickets:
            lib.avf_kill(ticket, signal.SIGKILL)
        for pid in pids:  # without the port: a drain finds all of them at once
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

        def end(port: Port = port, tickets: list[int] = tickets) -> None:
            lib.avf_port_close(port.port)
            for ticket in tickets:
                lib.avf_dispose(ticket)

        _at_once(end, port.drain)
        lib.avf_port_free(port.port)
    return [aiovfork.stats().alive]


def test_a_drain_beside_a_close() -> None:
    """P10. A port that closes in one thread while another drains it: each child is reaped once, and no number twice."""
    assert isolated(_drain_beside_close, 400, 12, timeout=80) == [0]


def _storm(rounds: int) -> list[Any]:
    """Spawn, cancel, dispose and close from all sides, each on what another has just made."""
    for turn in range(rounds):
        port = Port()
        tickets = [port.spawn("true") for _ in range(3 * BOUND)]

        def cancel(tickets: list[int] = tickets, step: int = 1 + turn % 3) -> None:
            for ticket in tickets[::step]:
                lib.avf_cancel(ticket, -errno.ECANCELED)

        def dispose(tickets: list[int] = tickets) -> None:
            for ticket in reversed(tickets):
                lib.avf_dispose(ticket)

        def drain(port: Port = port) -> None:
            for _ in range(20):
                lib.avf_port_drain(port.port)
                port.batch.taken = port.batch.filled

        def close(port: Port = port, spins: int = turn) -> None:
            for _ in range(spins):
                lib.avf_port_fd(port.port)
            lib.avf_port_close(port.port)

        _at_once(cancel, drain, *([dispose] if turn % 2 else []), close)
        for ticket in tickets:
            lib.avf_dispose(ticket)
        lib.avf_port_free(port.port)
    while aiovfork.stats().in_flight:
        pass
    stats = aiovfork.stats()
    return [stats.queued, stats.alive]


def test_a_storm_of_cancels_and_closes() -> None:
    """P10. Cancel, dispose, drain and close in four threads: nothing is left, of descriptors, children or counts."""
    assert isolated(_storm, 150, timeout=80) == [0, 0]
