"""Plays the demo's scenes on one backend after the other, and collects what server and client report."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from examples.demo.helpers import BULK
from examples.demo.results import BackendResult, SceneResult
from examples.demo.sizes import size_as_text
from examples.demo.wire import Partner, PartnerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from examples.demo.backends import Backend
    from examples.demo.helpers import Programs

HOLD = 0.3  # seconds for which exec is held
GAP = 0.15  # seconds between two holds
REQUESTS = 250  # a second
HELPERS = 100  # a second, in the steady scene
AT_ONCE = 8
BULK_SECONDS, LONGEST_BULK = 1.0, 30.0  # about what a large output takes, and at most

TITLES = {
    "idle": "no helpers",
    "steady": f"{HELPERS} helpers a second",
    "flat out": f"{AT_ONCE} helpers at a time, flat out",
    "bulk": f"a helper returns {size_as_text(BULK)}",
    "held": f"exec held for {HOLD * 1e3:.0f} ms",
}


@dataclass(frozen=True, slots=True)
class Script:
    """How long each scene lasts, and with what."""

    idle: float
    steady: float
    flat_out: float
    holds: int
    bulks: int
    programs: Programs
    heap: int  # bytes

    @classmethod
    def lasting(cls, seconds: float, holds: int, bulks: int, programs: Programs, heap: int) -> Script:
        """Return a script whose main scene lasts that long; the others follow."""
        return cls(seconds / 4, seconds, seconds * 3 / 8, holds, bulks, programs, heap)

    @property
    def bulk(self) -> float:
        """Seconds that the scene of large outputs lasts, about."""
        return self.bulks * (BULK_SECONDS + GAP) + GAP

    @property
    def held(self) -> float:
        """Seconds that the held scene lasts."""
        return self.holds * (HOLD + GAP) + 2 * GAP

    @property
    def total(self) -> float:
        """Seconds that all scenes last."""
        return self.idle + self.steady + self.flat_out + self.bulk + self.held


@dataclass(slots=True)
class Show:
    """The processes that play on every backend, and the stage directions."""

    script: Script
    load: Partner
    lease: Partner
    announce: Callable[[str], None]
    say: Callable[[str], None]

    async def play(self, backend: Backend) -> BackendResult:
        """Play every scene on one backend, in a fresh interpreter."""
        result = BackendResult(backend)
        script = self.script
        programs = script.programs
        stage = (backend.name, str(script.heap), programs.sha256sum, programs.gzip, programs.head)
        self.announce(f"{backend.label}: filling the heap")
        try:
            async with await Partner.start("examples.demo.server", *stage) as server:
                await self.load.ask(do="connect", port=(await server.receive())["port"])
                lengths = (script.idle, script.steady, script.flat_out)
                pace = ((0, 0), (HELPERS, AT_ONCE), (0, AT_ONCE))
                for name, seconds, (rate, at_once) in zip(TITLES, lengths, pace, strict=False):
                    self.announce(f"{backend.label}: {TITLES[name]}")
                    await server.ask(do="start", rate=rate, at_once=at_once)
                    load = await self.load.ask(
                        do="ask", seconds=seconds, rate=REQUESTS, patience=seconds + 60
                    )
                    result.scenes[name] = SceneResult.of(await server.ask(do="stop"), load, [])
                self.announce(f"{backend.label}: {TITLES['bulk']}")
                await self._bulk(server, result)
                self.announce(f"{backend.label}: {TITLES['held']}")
                await self._hold(server, result)
        except PartnerError as error:
            result.broken.append(str(error))
        return result

    async def _bulk(self, server: Partner, result: BackendResult) -> None:
        """Play the scene in which a helper returns much."""
        await server.ask(do="start", rate=0, at_once=0)
        self.load.send(do="ask", seconds=LONGEST_BULK * self.script.bulks, rate=REQUESTS)
        windows: list[tuple[float, float]] = []
        for _ in range(self.script.bulks):
            await asyncio.sleep(GAP)
            window = await server.ask(do="bulk")
            windows.append((window["begin"], window["end"]))
        await asyncio.sleep(GAP)
        self.load.interrupt()
        load = await self.load.receive()
        result.scenes["bulk"] = SceneResult.of(await server.ask(do="stop"), load, windows)

    async def _hold(self, server: Partner, result: BackendResult) -> None:
        """Play the scene in which exec is slow."""
        await server.ask(do="start", rate=0, at_once=0)
        self.load.send(do="ask", seconds=self.script.held, rate=REQUESTS)
        holds: list[tuple[float, float]] = []
        for _ in range(self.script.holds):
            await asyncio.sleep(GAP)
            held = await self.lease.ask(program=self.script.programs.sha256sum, seconds=HOLD)
            if "refused" in held:
                self.say(f"The held scene is left out: {held['refused']}.")
                break
            server.send(do="spawn", program=held["program"])
            window = await self.lease.receive()
            holds.append((window["begin"], window["end"]))
            await server.receive()
        load = await self.load.receive()
        score = await server.ask(do="stop")
        if holds:
            result.scenes["held"] = SceneResult.of(score, load, holds)


async def play_all(
    backends: list[Backend],
    script: Script,
    announce: Callable[[str], None],
    say: Callable[[str], None],
) -> list[BackendResult]:
    """Play the whole show.

    Args:
        backends: what to compare, in this order.
        script: how long the scenes last, and with what.
        announce: called with what begins now.
        say: called with what the spectator should know.
    """
    async with (
        await Partner.start("examples.demo.load") as load,
        await Partner.start("examples.demo.lease") as lease,
    ):
        show = Show(script, load, lease, announce, say)
        return [await show.play(backend) for backend in backends]
