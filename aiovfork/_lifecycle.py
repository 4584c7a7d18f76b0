"""The life cycle of a subprocess transport, as one table.

What a transport still waits for is what its state says: the spawn (SUBMITTED), its pipes (CONNECTING,
EARLY_EXIT), the exit (RUNNING), the ends of the pipes (DRAINING). Until the pipes are connected the protocol
knows nothing of the child, and what happens meanwhile is kept for it, so that connection_made comes first.

Layer: beside the transport.
"""

from __future__ import annotations

import enum
from typing import Final


class State(enum.Enum):
    """What the transport has seen of its child."""

    NEW = "new"
    SUBMITTED = "submitted"
    CONNECTING = "connecting"
    EARLY_EXIT = "exited while connecting"
    RUNNING = "running"
    DRAINING = "exited, pipes open"
    CLOSED = "closed"
    FAILED = "failed"

    # By identity: Enum's own is a Python function, and this is on the path of every spawn.
    __hash__ = object.__hash__


class Step(enum.Enum):
    """What moves it."""

    SUBMIT = enum.auto()
    SPAWNED = enum.auto()
    FAILED = enum.auto()
    CONNECTED = enum.auto()
    EXITED = enum.auto()
    PIPES_ENDED = enum.auto()

    __hash__ = object.__hash__


STEPS: Final = {
    (State.NEW, Step.SUBMIT): State.SUBMITTED,
    (State.SUBMITTED, Step.SPAWNED): State.CONNECTING,
    (State.SUBMITTED, Step.FAILED): State.FAILED,
    (State.CONNECTING, Step.CONNECTED): State.RUNNING,
    (State.CONNECTING, Step.EXITED): State.EARLY_EXIT,
    (State.EARLY_EXIT, Step.CONNECTED): State.DRAINING,
    (State.RUNNING, Step.EXITED): State.DRAINING,
    (State.DRAINING, Step.PIPES_ENDED): State.CLOSED,
}

ALIVE: Final = frozenset({State.CONNECTING, State.RUNNING})
UNCONNECTED: Final = frozenset({State.CONNECTING, State.EARLY_EXIT})
OVER: Final = frozenset({State.NEW, State.FAILED, State.CLOSED})
