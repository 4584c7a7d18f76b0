"""The end of a child with its descendants: politely, then by force, and true to what the kernel says.

A child's *tree* is the process group that it leads, the session that it leads, or its own cgroup. stop() ends
one: it works for whatever can be signalled and waited for (Stoppable): a Process, or the sink of a run().

Layer: above the transport. Thread: the loop's.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import operator
import signal as signals
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Literal, NamedTuple, SupportsFloat, TypeAlias

from aiovfork._cgroup import Cgroup
from aiovfork._members import Members, Stoppable, Tree, members_of
from aiovfork._options import Options
from aiovfork._plan import GROUP_DIES, PIN
from aiovfork._transport import SubprocessTransport

OnCancel: TypeAlias = Literal["kill", "stop", "detach"]

_TREES: Final = ("group", "session", "cgroup", None)
# How long a call that has been cancelled waits for descendants that were killed, and do not die (state D).
_KILLED_PATIENCE: Final = 1.0


@dataclasses.dataclass(frozen=True)
class Teardown:
    """How a child and its descendants are ended.

    Attributes:
        signals: Sent in turn, each followed by SIGCONT, so that a stopped process hears it. SIGKILL comes
            last by itself.
        patience: Seconds that each of them is given.
        tree: Who is ended: the process "group" or the "session" that the child leads, its own "cgroup", or
            None for the child alone.
    """

    signals: tuple[int, ...] = (signals.SIGTERM,)
    patience: float = 5.0
    tree: Tree | None = "group"

    def __post_init__(self) -> None:
        """Refuse wrong values here, where they are written, and not in an emergency."""
        object.__setattr__(self, "signals", _numbers(self.signals))
        object.__setattr__(self, "patience", _seconds(self.patience))
        if self.tree not in _TREES:
            raise ValueError(f"tree must be 'group', 'session', 'cgroup' or None, not {self.tree!r}")


def _numbers(values: Iterable[int]) -> tuple[int, ...]:
    return tuple(map(signal_number, values))


def signal_number(value: int) -> int:
    """Return the number of a signal, checked.

    Raises:
        ValueError: There is no such signal.
        TypeError: It is no integer.
    """
    number = operator.index(value)
    if number not in signals.valid_signals():
        raise ValueError(f"no signal has the number {number}")
    return number


def check_teardown(value: object) -> None:
    """Refuse what is no Teardown where one is needed.

    Raises:
        TypeError: It is none.
    """
    if not isinstance(value, Teardown):
        raise TypeError(f"teardown must be a Teardown, not {type(value).__name__}")


def _seconds(value: SupportsFloat) -> float:
    if not isinstance(value, SupportsFloat):
        raise TypeError(f"patience must be a real number, not {type(value).__name__}")
    seconds = float(value)
    if not 0 <= seconds < math.inf:
        raise ValueError(f"patience must be finite and not negative, not {value!r}")
    return seconds


class Ending(NamedTuple):
    """What was said at a child's creation about its end.

    Attributes:
        teardown: What `async with` does at its end; None kills the child at once.
        on_cancel: What a cancelled communicate() or `async with` does; None: nothing, and as at any end.
        own_cgroup: Whether the child has a cgroup of its own.
    """

    teardown: Teardown | None = None
    on_cancel: OnCancel | None = None
    own_cgroup: bool = False

    @property
    def default(self) -> Teardown:
        """What stop() does if nothing else is said."""
        if self.teardown is not None:
            return self.teardown
        return _CGROUP if self.own_cgroup else _GROUP

    @property
    def plan_flags(self) -> int:
        """What the plan says of the child's group."""
        if self.teardown is None and self.on_cancel not in _ENDS:
            return 0
        tree = self.default.tree
        return (GROUP_DIES if tree is not None else 0) | (PIN if tree == "session" else 0)


NOTHING_SAID: Final = Ending()
_GROUP: Final = Teardown()
_CGROUP: Final = Teardown(tree="cgroup")
_ENDS: Final = ("kill", "stop")
_ON_CANCEL: Final = (None, *_ENDS, "detach")


def ending(
    teardown: Teardown | None, on_cancel: OnCancel | None, own_cgroup: bool, options: Options
) -> tuple[Ending, Options]:
    """Return what was said about the end, and the options that this needs.

    A child whose group is to end with it leads one.

    Raises:
        TypeError: teardown is no Teardown.
        ValueError: A wrong value, or a tree that the child cannot have.
    """
    if teardown is not None and not isinstance(teardown, Teardown):
        raise TypeError(f"teardown must be a Teardown or None, not {type(teardown).__name__}")
    if on_cancel not in _ON_CANCEL:
        raise ValueError(f"on_cancel must be None, 'kill', 'stop' or 'detach', not {on_cancel!r}")
    if teardown is None and on_cancel is None and not own_cgroup:
        return NOTHING_SAID, options
    said = Ending(teardown, on_cancel, bool(own_cgroup))
    if own_cgroup:
        check_no_cgroup(options, "own_cgroup=True")
    if teardown is not None or on_cancel in _ENDS:
        tree = said.default.tree
        check_tree(tree, said.own_cgroup, options)
        if tree == "group" and options.process_group is None and not options.start_new_session:
            options = options._replace(process_group=0)
    return said, options


def check_no_cgroup(options: Options, why: str) -> None:
    """Refuse the option cgroup where the child gets a cgroup of its own.

    Raises:
        ValueError: It was given.
    """
    if options.cgroup is not None:
        raise ValueError(f"{why} makes a cgroup for the child: cgroup cannot be given too")


def check_tree(tree: Tree | None, own_cgroup: bool, options: Options) -> None:
    """Refuse a tree that a child of these options does not have.

    Raises:
        ValueError: It would need another option.
    """
    if tree == "cgroup" and not own_cgroup:
        raise ValueError("tree='cgroup' needs own_cgroup=True")
    if tree == "session" and not options.start_new_session:
        raise ValueError("tree='session' needs start_new_session=True")


class TransportChild:
    """The child of a transport, as a Stoppable."""

    def __init__(self, transport: SubprocessTransport, wait_exit: Callable[[], Awaitable[object]]) -> None:
        self._transport = transport
        self.wait_exit = wait_exit

    @property
    def pid(self) -> int:
        """As Stoppable has it, and so are the others."""
        return self._transport.get_pid()

    @property
    def exited(self) -> bool:
        """See Stoppable."""
        return self._transport.get_returncode() is not None

    @property
    def cgroup(self) -> Cgroup | None:
        """See Stoppable."""
        return self._transport.cgroup

    def kill(self, signal: int) -> None:
        """See Stoppable."""
        with contextlib.suppress(ProcessLookupError):
            self._transport.send_signal(signal)

    def kill_group(self, signal: int) -> bool:
        """See Stoppable."""
        return self._transport.port.kill_group(self._transport.ticket, signal)

    def pin(self) -> None:
        """See Stoppable."""
        self._transport.port.pin(self._transport.ticket)

    def release(self) -> None:
        """See Stoppable."""
        self._transport.port.release(self._transport.ticket)


async def stop(child: Stoppable, teardown: Teardown) -> None:
    """End a child and its tree: each signal in turn, then SIGKILL.

    Returns when the child has been reaped and nobody in the tree is alive. Zombies are not alive, however
    long their parent leaves them. Idempotent: nobody is signalled where nobody lives.

    Raises:
        PermissionError: The child, or every member of its tree, has other credentials.
        ValueError: The child has no such tree.

    Cancellation: SIGKILL at once; CancelledError propagates when the child has been reaped.
    """
    members = members_of(child, teardown.tree)
    try:
        if not await members.gone(0) and not await _obeyed(members, teardown):
            await _killed(members)
    except asyncio.CancelledError:
        await _kill_through(members)
        raise
    except BaseException:  # the task was destroyed, or somebody pressed ^C: there is no loop to wait in
        members.kill_now()  # before the release: nobody finds the group by its ticket after that
        raise
    finally:
        if child.exited:
            child.release()


async def kill(child: Stoppable, tree: Tree | None) -> None:
    """End a child and its tree with SIGKILL at once. As stop() otherwise."""
    await stop(child, Teardown(signals=(), tree=tree))


def kill_now(child: Stoppable, tree: Tree | None) -> None:
    """Send SIGKILL to a child and its tree, where nobody can wait. What nobody may kill is left."""
    members_of(child, tree).kill_now()


async def _obeyed(members: Members, teardown: Teardown) -> bool:
    """Send the signals. Returns whether all are gone."""
    for signal in teardown.signals:
        await members.signal(signal)
        if signal != signals.SIGKILL:
            await members.signal(signals.SIGCONT)
        if await members.gone(teardown.patience):
            return True
    return False


async def _killed(members: Members) -> None:
    """Kill until nobody is left: one that forked just before may have been missed where there is no group."""
    while True:
        await members.signal(signals.SIGKILL)
        if await members.gone(_KILLED_PATIENCE):
            return


async def _kill_through(members: Members) -> None:
    """Kill, and wait for it, however often that is cancelled: anyio does so in every round of the loop."""
    members.kill_now()
    killing = asyncio.ensure_future(_killed_in_time(members))
    while not killing.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([killing])
    if not killing.cancelled():  # by whoever cancels all tasks of the loop
        killing.exception()


async def _killed_in_time(members: Members) -> None:
    await members.signal(signals.SIGKILL)
    await members.child.wait_exit()
    await members.gone(_KILLED_PATIENCE)
