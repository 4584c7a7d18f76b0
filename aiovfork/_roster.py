"""The members of a ProcessGroup: their places under its limit, what they leave behind, and their end.

A member takes its place when its start begins, or when the limit lets it. It leaves when its program has
exited, or was not started after all, and is forgotten then. If it has left descendants behind, it is one of
the group's survivors, until they are ended with the group or have ended by themselves.

There is no task but while members are being ended, or many survivors are looked through: an exit comes as a
call from the transport. A signal handler may raise between any two byte codes; then that call comes again.

Layer: above the Process and the calls of run(). Thread: the loop's.
"""

from __future__ import annotations

import asyncio
import errno
import functools
from collections.abc import Iterator
from typing import Any

from aiovfork._capture import Input
from aiovfork._compat import StreamProtocol
from aiovfork._members import Stoppable
from aiovfork._options import Command
from aiovfork._outcome import Completed
from aiovfork._outlasting import outlast
from aiovfork._process import Process
from aiovfork._running import Running, complete
from aiovfork._starting import process_of
from aiovfork._survivors import Survivors
from aiovfork._terms import Terms
from aiovfork._transport import SubprocessTransport
from aiovfork._tree import Ending, Teardown, TransportChild, check_no_cgroup, kill_now, stop


class Member:
    """A place in the group, and who has it."""

    transport: SubprocessTransport | None = None  # once its start has begun
    process: Process | None = None  # once it has succeeded
    child: TransportChild | None = None  # the same
    call: Running | None = None  # of run(), once that has begun
    abandoned = False
    gone: asyncio.Future[None] | None = None  # somebody waits until it has left

    def abandon(self) -> None:
        """Have the start fail, whatever it waits for."""
        self.abandoned = True
        if self.transport is not None:
            self.transport.abandon(refusal())


class Roster:
    """Who is in one group."""

    def __init__(self, limit: int | None, teardown: Teardown) -> None:
        self._limit = limit
        self._teardown = teardown
        self._ending = Ending(teardown, None, teardown.tree == "cgroup")
        self._accepting = False
        # Sets that keep their order.
        self._members: dict[Member, None] = {}
        self._queue: dict[Member, asyncio.Future[None]] = {}
        self._survivors = Survivors(teardown.tree)
        self._empty: asyncio.Future[None] | None = None

    # ---- places ----

    def open(self) -> None:
        """Accept members."""
        self._accepting = True

    def close(self) -> None:
        """Accept none any more; those that wait for a place are refused."""
        self._accepting = False
        for turn in self._queue.values():
            _wake(turn)

    async def start(self, command: Command, limit: int) -> Process:
        """Start a process that is a member, once there is a place for it."""
        command = self._leading(command)
        member = await self._place()
        begun = functools.partial(self._begun, member)
        try:
            loop = asyncio.get_running_loop()
            protocol = StreamProtocol(limit=limit, loop=loop)
            process = await process_of(loop, protocol, command, self._ending, begun)
            if member.transport is not None:
                member.child = TransportChild(member.transport, process.wait)
            member.process = process
        except BaseException:
            self._leave(member)
            raise
        if process.returncode is not None:
            self._exited(member)
        if member.abandoned and member.child is not None:  # when it was too late for that
            kill_now(member.child, self._teardown.tree)
            raise refusal()
        return process

    async def run(self, command: Command, data: Input | None, terms: Terms) -> Completed[Any]:
        """Run a program whose process is a member, once there is a place for it. As aiovfork.run()."""
        command = self._leading(command)
        member = await self._place()
        begun = functools.partial(self._called, member)
        terms = terms._replace(teardown=self._teardown, leaves_nothing=True)
        try:
            return await complete(command, data, terms, begun)
        except OSError as exc:
            if member.abandoned and exc.errno == errno.ECANCELED:
                raise refusal() from None
            raise
        finally:
            self._leave(member)

    def _leading(self, command: Command) -> Command:
        """Return a command whose child leads the session that is to end with it."""
        options = command.options
        if self._teardown.tree == "cgroup":
            check_no_cgroup(options, "a teardown with tree='cgroup'")
        if self._teardown.tree == "session" and options.process_group == 0:  # the default
            options = options._replace(start_new_session=True, process_group=None)
        return command._replace(options=options)

    async def _place(self) -> Member:
        if not self._accepting:
            raise refusal()
        member = Member()
        if self._limit is None or (len(self._members) < self._limit and not self._queue):
            self._members[member] = None
            return member
        turn = self._queue[member] = asyncio.get_running_loop().create_future()
        try:
            await turn
        except BaseException:
            self._queue.pop(member, None)
            self._leave(member)
            raise
        if member not in self._members:
            self._queue.pop(member, None)
            raise refusal()
        return member

    def _begun(self, member: Member, transport: SubprocessTransport) -> None:
        if member.abandoned:  # since its turn has come
            raise refusal()
        member.transport = transport
        transport.when_exited(functools.partial(self._exited, member))

    def _called(self, member: Member, call: Running) -> None:
        if member.abandoned:
            raise refusal()
        member.call = call

    def _exited(self, member: Member) -> None:
        """The program of a member has exited. Idempotent."""
        if member.child is None or member.transport is None:  # start() looks again
            return
        if member in self._members and member.transport.may_have_survivors:
            self._survivors.add(member.child)
        self._leave(member)  # also when it was interrupted in there

    def _leave(self, member: Member) -> None:
        """Forget a member, and give its place to whoever waits for one. Idempotent."""
        self._members.pop(member, None)
        while self._accepting and self._queue:
            following, turn = next(iter(self._queue.items()))
            taken = len(self._members) - (following in self._members)  # an interrupt came before its turn
            if self._limit is not None and taken >= self._limit:
                break
            if not turn.done():
                self._members[following] = None
                turn.set_result(None)
            del self._queue[following]
        _wake(member.gone)
        if not self._members:
            _wake(self._empty)

    # ---- those that live ----

    def __iter__(self) -> Iterator[Process]:
        """Iterate over the processes that have not exited."""
        processes = [member.process for member in self._members]
        return iter([process for process in processes if process is not None and process.returncode is None])

    def signal(self, number: int) -> None:
        """Signal the members, each with the process group that it leads."""
        for member in list(self._members):
            child: Stoppable | None = member.child if member.call is None else member.call.child
            if child is not None and (self._teardown.tree is None or not child.kill_group(number)):
                child.kill(number)

    async def wait_empty(self) -> None:
        """Wait until there is no member."""
        while self._members:
            self._empty = asyncio.get_running_loop().create_future()
            await self._empty

    # ---- the end ----

    async def end(self, cause: BaseException | None) -> asyncio.CancelledError | None:
        """End those that there are now, all at once, and all survivors; abandon what is being started.

        A cancellation meanwhile, if it is not the cause again, kills at once. The last one is returned.
        """
        loop = asyncio.get_running_loop()
        ends: dict[asyncio.Task[None], Stoppable] = {}
        others: list[asyncio.Future[None]] = [*self._survivors.stop_looking()]
        for member in list(self._members):
            member.gone = member.gone or loop.create_future()
            others.append(member.gone)
            if member.child is not None:
                ends[loop.create_task(self._end(member.child))] = member.child
            elif member.call is not None:
                member.abandoned = True  # if its program does not run yet
                ends[loop.create_task(member.call.end(self._teardown))] = member.call.child
            else:
                member.abandon()
        # Most survivors are none any more: one look for all tells.
        looking = loop.create_task(self._survivors.look(finally_=True))
        in_haste = False

        def kill() -> None:
            nonlocal in_haste
            in_haste = True
            for child in [*ends.values(), *self._survivors]:
                kill_now(child, self._teardown.tree)
            # Those that there are now, in the next round: each makes its first step before it is cancelled.
            loop.call_soon(_cancel, [looking, *ends])

        cancelled = await outlast([looking], cause, kill)
        for child in self._survivors:
            ends[loop.create_task(self._end(child))] = child
        if in_haste:
            kill()
        cancelled = await outlast([*ends, *others], cancelled or cause, kill) or cancelled
        for task, ended in ends.items():
            if not task.cancelled():
                task.result()
            elif isinstance(ended, TransportChild):  # perhaps before its first step, with all of the loop
                self._kill(ended)
        return cancelled

    def _kill(self, child: TransportChild) -> None:
        """End one where nobody can wait. Idempotent."""
        kill_now(child, self._teardown.tree)
        self._survivors.remove(child)
        if child.exited:
            child.release()

    async def _end(self, child: TransportChild) -> None:
        try:
            await stop(child, self._teardown)
        finally:
            self._survivors.remove(child)

    def destroy(self) -> None:
        """Kill all that there is, at once, without a loop."""
        self.close()
        for member in list(self._members):
            member.abandoned = True
            if member.child is not None:
                kill_now(member.child, self._teardown.tree)
            if member.transport is not None:
                member.transport.close()
            if member.call is not None:
                member.call.abandon()
        for child in self._survivors:
            self._kill(child)


def refusal() -> RuntimeError:
    """Return what a start raises that comes too early or too late."""
    return RuntimeError("the ProcessGroup is not open")


def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
