"""The life cycle of a subprocess transport, as one table.

What a transport still waits for is what its state says: the spawn (SUBMITTED), the task that awaits start()
(CONNECTING, EARLY_EXIT), the exit (RUNNING), the ends of the pipes (DRAINING). Until that task has had its
turn the protocol knows nothing of the child: its pipes are not read, and of its exit the protocol hears after
connection_made.

close() has a state of its own for each of them. Until then only start() itself closes: it undoes the spawn
(GIVEN_UP, UNDOING) and the protocol never hears of it. Afterwards the child is killed (KILLED), and its exit
is told like any other.

Layer: below the transport. Thread: any.
"""

from __future__ import annotations

import enum
from typing import Final


class State(enum.Enum):
    """What the transport has seen of its child."""

    NEW = "new"
    SUBMITTED = "submitted"
    GIVEN_UP = "submitted, given up"
    FAILED = "failed"
    CONNECTING = "connecting"
    EARLY_EXIT = "exited while connecting"
    UNDOING = "being undone"
    UNDONE = "undone"
    RUNNING = "running"
    KILLED = "running, closed"
    DRAINING = "exited, pipes open"
    CLOSING = "exited, pipes closing"
    CLOSED = "closed"

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
    CLOSE = enum.auto()

    __hash__ = object.__hash__


STEPS: Final = {
    (State.NEW, Step.SUBMIT): State.SUBMITTED,
    (State.NEW, Step.CLOSE): State.UNDONE,
    (State.SUBMITTED, Step.SPAWNED): State.CONNECTING,
    (State.SUBMITTED, Step.FAILED): State.FAILED,
    (State.SUBMITTED, Step.CLOSE): State.GIVEN_UP,
    (State.GIVEN_UP, Step.SPAWNED): State.UNDOING,
    (State.GIVEN_UP, Step.FAILED): State.FAILED,
    # The call that submitted it was interrupted before it could say its ticket.
    (State.FAILED, Step.SPAWNED): State.UNDOING,
    (State.CONNECTING, Step.CONNECTED): State.RUNNING,
    (State.CONNECTING, Step.EXITED): State.EARLY_EXIT,
    (State.CONNECTING, Step.CLOSE): State.UNDOING,
    (State.EARLY_EXIT, Step.CONNECTED): State.DRAINING,
    (State.EARLY_EXIT, Step.CLOSE): State.UNDONE,
    (State.UNDOING, Step.EXITED): State.UNDONE,
    (State.RUNNING, Step.EXITED): State.DRAINING,
    (State.RUNNING, Step.CLOSE): State.KILLED,
    (State.KILLED, Step.EXITED): State.CLOSING,
    (State.DRAINING, Step.PIPES_ENDED): State.CLOSED,
    (State.DRAINING, Step.CLOSE): State.CLOSING,
    (State.CLOSING, Step.PIPES_ENDED): State.CLOSED,
}


def _before(step: Step) -> frozenset[State]:
    return frozenset(state for state, moved_by in STEPS if moved_by is step)


#: A record of the spawn, of its failure, of the exit has something to say in these, and was heard in others.
AWAITS_SPAWN: Final = _before(Step.SPAWNED)
AWAITS_FAILURE: Final = _before(Step.FAILED)
ALIVE: Final = _before(Step.EXITED)
#: The pipes are all that is missing.
AWAITS_PIPES: Final = _before(Step.PIPES_ENDED)
#: close() has something to do.
OPEN: Final = _before(Step.CLOSE)
#: The protocol has not heard of the child.
UNCONNECTED: Final = frozenset({State.CONNECTING, State.EARLY_EXIT, State.UNDOING, State.UNDONE})
#: Nothing is left of the child.
OVER: Final = frozenset({State.NEW, State.FAILED, State.UNDONE, State.CLOSED})
