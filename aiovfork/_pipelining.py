"""One call of pipeline(): the start of its stages, their end, and what comes of it.

Layer: above the stages. Thread: the loop's.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import os
import subprocess
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiovfork._capture import Input
from aiovfork._events import close_all
from aiovfork._options import Command
from aiovfork._outcome import Completed, OutputLimitExceeded, ProcessTimeout
from aiovfork._pipeline_outcome import PipelineFailed, PipelineResult, shown
from aiovfork._plan import GROUP_DIES, PIN
from aiovfork._ports import port_of
from aiovfork._stages import Stage, Stages, enlarge
from aiovfork._terms import Terms
from aiovfork._text import decoded, escaped
from aiovfork._tree import Teardown, kill_now, stop

_PIPE: Final = subprocess.PIPE
# Seconds to read on after the exit of programs that are ended, at most.
_DRAIN: Final = 0.5


async def complete(
    commands: list[Command], data: Input | None, terms: Terms, *, pipefail: bool
) -> PipelineResult[Any]:
    """Run commands to their ends, as pipeline() describes it."""
    running = Pipeline(asyncio.get_running_loop(), commands, data, terms, pipefail=pipefail)
    try:
        return await running.run()
    except asyncio.CancelledError as exc:
        raise await running.cancelled(exc) from None
    except Exception:
        await running.end(terms.teardown)
        raise
    except (
        BaseException
    ):  # KeyboardInterrupt; GeneratorExit: the task was destroyed, no loop is there to wait in
        running.abandon()
        raise
    finally:
        running.close()


class Pipeline:
    """What one call knows of its stages."""

    _reason: Callable[[], Awaitable[Exception]] | None = None
    _over = False

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        commands: list[Command],
        data: Input | None,
        terms: Terms,
        *,
        pipefail: bool,
    ) -> None:
        self._began = time.monotonic()
        self._loop = loop
        self._data = data
        self._terms = terms
        self._pipefail = pipefail
        self._stages = Stages(port_of(loop), commands, leads=commands[0].options.process_group == 0)
        self._between: dict[int, int] = {}  # ends of the pipes between two stages, until both have them
        self._timers: list[asyncio.TimerHandle] = []

    async def run(self) -> PipelineResult[Any]:
        """Start the stages, wait for their ends, and return or raise what pipeline() does."""
        terms = self._terms
        if terms.timeout is not None:
            if terms.timeout <= 0:
                raise ProcessTimeout(self._shown(), terms.timeout)
            self._timers.append(self._loop.call_later(terms.timeout, self._time_is_over))
        if await self._started() and await self._ended():
            result = await self._result(lenient=False)
            if not (terms.check and result.failed):
                return result
            self._reason = functools.partial(self._failed, result)
        assert self._reason is not None
        await self.end(terms.teardown)
        raise await self._reason()

    # ---- the course of things ----

    async def _started(self) -> bool:
        """Start all. Returns whether they run, or have run."""
        first, *others = self._stages
        self._submit(first, self._flags())
        if not await self._until(lambda: not first.pending):
            return False
        for stage in others:
            if self._stages.leads:
                options = stage.command.options._replace(process_group=self._stages.pid)
                stage.command = stage.command._replace(options=options)
            self._submit(stage, 0)
        return await self._until(lambda: not any(stage.pending for stage in self._stages))

    def _flags(self) -> int:
        """Of the first stage."""
        if not self._stages.leads:
            return 0
        return PIN if self._terms.teardown.tree is None else PIN | GROUP_DIES

    def _submit(self, stage: Stage, flags: int) -> None:
        """Have a stage started between two pipes; the core has duplicates of their ends when this returns."""
        command = stage.command
        if self._between:
            command = command._replace(stdin=self._between[0])
        if stage is not self._stages.all[-1]:
            self._between[2], self._between[1] = os.pipe2(os.O_CLOEXEC)
            enlarge(self._between[1], command.options.pipesize)
            command = command._replace(stdout=self._between[1])
        stage.command = command
        stage.submit(flags)
        read_end = self._between.pop(2, None)
        close_all(self._between)
        if read_end is not None:
            self._between[0] = read_end

    async def _ended(self) -> bool:
        """Wait for the ends of all, and of their output. Returns whether nothing went wrong with that."""
        if not await self._until(lambda: self._stages.exited):
            return False
        self._cut_later(self._terms.drain_timeout)
        return await self._until(lambda: not any(stage.collecting for stage in self._stages))

    async def _until(self, condition: Callable[[], bool]) -> bool:
        """Wait for something. Returns False if there is a reason to end it all before."""
        while not self._went_wrong():
            if condition():
                return True
            await self._stages.heard()
        return False

    def _went_wrong(self) -> bool:
        for stage in self._stages:
            stage.collect(
                self._data if stage is self._stages.all[0] else None,
                self._terms.limit,
                truncate=self._terms.truncate,
            )
            if self._reason is None:
                self._reason = self._reason_of(stage)
        return self._reason is not None

    def _reason_of(self, stage: Stage) -> Callable[[], Awaitable[Exception]] | None:
        if stage.failure is not None:
            return functools.partial(self._not_started, stage)
        captured = stage.captured_event
        if captured is not None and captured.limited:
            return functools.partial(self._too_much, stage)
        if captured is not None and captured.error:
            return functools.partial(self._not_collected, stage, captured.error)
        return None

    def _time_is_over(self) -> None:
        if self._reason is None:
            self._reason = self._timed_out
        self._stages.wake()

    def _cut_later(self, seconds: float | None) -> None:
        if seconds is not None:
            self._timers.append(self._loop.call_later(max(seconds, 0), self._cut))

    def _cut(self) -> None:
        for stage in self._stages:
            stage.cut_short()
        self._stages.wake()

    # ---- what it comes to ----

    def _shown(self) -> str:
        return shown([stage.command.args for stage in self._stages])

    async def _not_started(self, stage: Stage) -> Exception:
        exc = stage.error()
        number = self._stages.all.index(stage) + 1
        exc.add_note(
            f"aiovfork: program {number} of {len(self._stages.all)} in a pipeline; the others were ended"
        )
        return exc

    async def _not_collected(self, stage: Stage, error: int) -> Exception:
        exc = OSError(-error, os.strerror(-error))
        exc.add_note(f"aiovfork: collecting the output of {stage.command.program!r}, which was ended")
        return await self._about(exc)

    async def _too_much(self, stage: Stage) -> Exception:
        limit = self._terms.limit
        assert limit is not None
        assert stage.capture is not None
        stream = "stdout" if stage.capture.total[0] > limit else "stderr"
        completed = await self._completed(stage)
        assert completed is not None
        completed.stdout, completed.stderr = await self._texts(completed, lenient=True)
        return await self._about(OutputLimitExceeded(limit, stream, completed))

    async def _timed_out(self) -> Exception:
        assert self._terms.timeout is not None
        completed = await self._completed(self._stages.all[-1])
        if completed is not None:
            completed.stdout, completed.stderr = await self._texts(completed, lenient=True)
        return await self._about(ProcessTimeout(self._shown(), self._terms.timeout, completed))

    async def _failed(self, result: PipelineResult[Any]) -> Exception:
        return PipelineFailed(result)

    async def _about(self, exc: Exception) -> Exception:
        exc.result = await self.known()  # type: ignore[attr-defined]  # documented
        return exc

    async def known(self) -> PipelineResult[Any] | None:
        """Return what is known of a pipeline that was ended; None if one of it had not been started."""
        if any(stage.exit is None for stage in self._stages):
            return None
        return await self._result(lenient=True)

    async def _result(self, *, lenient: bool) -> PipelineResult[Any]:
        """Return how all ended.

        Raises:
            UnicodeError: An output is not text of the encoding; unless this is lenient, or one has failed.
        """
        duration = time.monotonic() - self._began
        stages = [await self._completed(stage) for stage in self._stages]
        known = tuple(filter(None, stages))
        result: PipelineResult[Any] = PipelineResult(known, pipefail=self._pipefail, duration=duration)
        lenient = lenient or bool(self._terms.check and result.failed)
        try:
            texts = [await self._texts(stage, lenient=lenient) for stage in known]
        except UnicodeError as exc:
            exc.add_note(f"aiovfork: output of {self._shown()}: see errors=")
            exc.result = result  # type: ignore[attr-defined]  # documented
            raise
        for completed, outputs in zip(known, texts, strict=True):
            completed.stdout, completed.stderr = outputs
        return result

    async def _completed(self, stage: Stage) -> Completed[Any] | None:
        """Return how one ended, with bytes; None if it did not even begin."""
        if stage.started is None or stage.exit is None:
            return None
        terms, capture, command = self._terms, stage.capture, stage.command
        stdout = stderr = b""
        if capture is not None:
            stdout, stderr = capture.at_hand() or await capture.output(self._stages.port)
        return Completed(
            command.args,
            stdout if command.stdout == _PIPE else None,
            stderr if command.stderr == _PIPE else None,
            started=stage.started,
            exited=stage.exit,
            duration=stage.ended_at - self._began,
            drained=not stage.cut,
            truncated=capture is not None and terms.limit is not None and max(capture.total) > terms.limit,
        )

    async def _texts(self, completed: Completed[Any], *, lenient: bool) -> list[Any]:
        """Return what one wrote to stdout and stderr as it was asked for."""
        outputs = [completed.stdout, completed.stderr]
        encoding, errors = self._terms.encoding, self._terms.errors
        if encoding is None:
            return outputs
        decode = escaped if lenient else decoded
        return [None if output is None else await decode(output, encoding, errors) for output in outputs]

    # ---- an end before its time ----

    async def end(self, teardown: Teardown) -> None:
        """End what is left of the stages, and of their output. Nothing of it lives at the end.

        Raises:
            asyncio.CancelledError: It was cancelled meanwhile. Then it has killed at once.
        """
        if self._over:
            return
        for stage in self._stages:
            if stage.pending:
                stage.unwanted = True
                self._stages.port.cancel(stage.ticket)
        try:
            await stop(self._stages, teardown)
            self._cut_later(_DRAIN)
            while any(stage.collecting for stage in self._stages):
                await self._stages.heard()
        finally:
            self._over = True
            self._cut()

    async def cancelled(self, exc: asyncio.CancelledError) -> asyncio.CancelledError:
        """After a cancellation: end it. Returns what to raise."""
        teardown = self._terms.teardown
        try:
            await self.end(
                teardown if self._terms.on_cancel == "stop" else dataclasses.replace(teardown, signals=())
            )
        except asyncio.CancelledError as again:
            exc = again
        except OSError as problem:  # of programs with other credentials
            exc.add_note(f"aiovfork: {self._shown()} could not be ended: {problem}")
        exc.result = await self.known()  # type: ignore[attr-defined]  # documented
        return exc

    def abandon(self) -> None:
        """End it without waiting: the core kills and reaps."""
        kill_now(self._stages, self._terms.teardown.tree)

    def close(self) -> None:
        """Give everything back."""
        for timer in self._timers:
            timer.cancel()
        close_all(self._between)
        for stage in self._stages:
            stage.close()
        self._stages.release()
