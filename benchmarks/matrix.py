"""What is measured for which goal: groups of measurements that are run in turns, round after round."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from benchmarks import peer_programs
from benchmarks.peer_programs import Peer
from benchmarks.scale import Scale
from benchmarks.settings import VIEWS, Settings

GOALS = ("S1", "S2", "S3", "T1", "T2", "T3", "C1", "C2", "L1", "M1", "B1", "B2", "B3", "W1")
LIMIT_THREADS = 2
CAPTURE_THREADS = 4
# Spawns a second on each Dask worker.
WORKER_RATE = 100
OPTIONS = (
    "cwd",
    "umask",
    "start_new_session",
    "process_group",
    "pass_fds",
    "restore_signals=False",
    "close_fds=False",
)
# Need aiovfork.
OWN_OPTIONS = ("limits", "signals", "user", "spawn_timeout")
# Which asyncio takes too, by a fork.
USER = "user"
# Pipes have a price of their own (transports, streams): compared with asyncio's, not with a bare spawn.
PIPES = "pipes"


@dataclasses.dataclass(frozen=True)
class Variant:
    """A way to spawn: what is compared."""

    label: str
    settings: dict[str, Any]
    # The part of the usual number of spawns that it gets, where it would take too long.
    share: float = 1.0


AIOVFORK = Variant("aiovfork", {})
AIOVFORK_UVLOOP = Variant("aiovfork on uvloop", {"loop": "uvloop"})
ASYNCIO = Variant("asyncio", {"spawner": "asyncio"})
# CPython 3.13 spawns a path by posix_spawn, a name by its own code; 3.11 both by its own.
ASYNCIO_NAME = Variant("asyncio, bare name", {"spawner": "asyncio", "command": "true"})
# It makes Popen fork, as user= and group= do.
ASYNCIO_PREEXEC = Variant("asyncio, preexec_fn", {"spawner": "asyncio", "option": "preexec_fn"})
UVLOOP = Variant("uvloop", {"spawner": "asyncio", "loop": "uvloop"}, share=0.2)
THREAD = Variant("to_thread(Popen)", {"spawner": "to_thread"})
NOTHING = Variant("no spawn, as many wake-ups", {"spawner": "nothing"})

RUN = Variant("aiovfork run()", {"spawner": "aiovfork.run"})
RUN_UVLOOP = Variant("aiovfork run() on uvloop", {"spawner": "aiovfork.run", "loop": "uvloop"})

SUBJECTS = (AIOVFORK, AIOVFORK_UVLOOP)
#: What captures output: run(), and the subject's own communicate().
CAPTURING = (RUN, RUN_UVLOOP, AIOVFORK, AIOVFORK_UVLOOP, ASYNCIO, UVLOOP, THREAD)
RUN_OF = {AIOVFORK.label: RUN.label, AIOVFORK_UVLOOP.label: RUN_UVLOOP.label}
EVERYBODY = (AIOVFORK, AIOVFORK_UVLOOP, ASYNCIO, ASYNCIO_NAME, UVLOOP, THREAD)


@dataclasses.dataclass(frozen=True)
class PeerRun:
    """A run of a peer in another language."""

    peer: Peer
    arguments: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Who, under which condition, and how it is run."""

    label: str
    condition: str
    what: Settings | PeerRun


@dataclasses.dataclass(frozen=True)
class Group:
    """Measurements that are compared with each other, and the goals that they serve."""

    name: str
    goals: tuple[str, ...]
    rounds: int
    measurements: tuple[Measurement, ...]


def _measure(scenario: str, variant: Variant, condition: str = "", **settings: Any) -> Measurement:
    chosen = {**variant.settings, **settings}
    return Measurement(variant.label, condition, Settings(scenario=scenario, **chosen))


def _stall(scale: Scale, variant: Variant, condition: str = "", **settings: Any) -> Measurement:
    return _measure("stall", variant, condition, count=scale.stalls, budget=scale.budget, **settings)


def _stalls(scale: Scale) -> Iterator[Group]:
    yield Group(
        "stall", ("S1",), scale.rounds, tuple(_stall(scale, variant) for variant in (*EVERYBODY, NOTHING))
    )
    yield Group(
        "direct",
        ("S1",),
        scale.rounds,
        tuple(
            _measure("direct", variant, count=scale.stalls, budget=scale.budget)
            for variant in (AIOVFORK, AIOVFORK_UVLOOP, ASYNCIO, UVLOOP)
        ),
    )
    yield Group(
        "heap",
        ("S2",),
        scale.few_rounds,
        tuple(
            _stall(scale, variant, condition, heap_mb=megabytes)
            for condition, megabytes in (("", 0), (scale.heap, scale.heap_mb))
            for variant in (*EVERYBODY, ASYNCIO_PREEXEC)
        ),
    )
    for megabytes in scale.curve_mb:
        yield Group(
            f"heap of {megabytes} MB",
            ("S2",),
            1,
            tuple(_stall(scale, variant, heap_mb=megabytes) for variant in (*EVERYBODY, ASYNCIO_PREEXEC)),
        )
    yield Group(
        "fds",
        ("S2",),
        scale.few_rounds,
        tuple(
            _stall(scale, variant, condition, fds=count)
            for condition, count in (("", 0), (scale.many_fds, scale.fds))
            for variant in EVERYBODY
        ),
    )
    yield Group(
        "options",
        ("S2",),
        scale.few_rounds,
        (
            _stall(scale, AIOVFORK),
            *(_stall(scale, AIOVFORK, option, option=option) for option in (*OPTIONS, *OWN_OPTIONS, PIPES)),
            *(_stall(scale, ASYNCIO, option, option=option) for option in (PIPES, USER)),
        ),
    )


def _slow_execs(scale: Scale) -> Iterator[Group]:
    variants = (AIOVFORK, AIOVFORK_UVLOOP, ASYNCIO, UVLOOP, THREAD)
    stall: dict[str, Any] = {"count": scale.stalls // 2, "budget": scale.hung / 2}
    slow: dict[str, Any] = {"count": scale.held, "seconds": scale.held_exec}
    sleep = f"/bin/sleep {scale.held_exec}"
    lags = max(scale.held // 4, 1)
    yield Group(
        "slow exec",
        ("S3",),
        scale.few_rounds,
        (
            *(_stall(scale, subject) for subject in SUBJECTS),
            # The same two wake-ups as far apart, without the slow exec: what cold caches do.
            *(
                _measure("stall", subject, "child runs as long", count=scale.held, command=sleep)
                for subject in SUBJECTS
            ),
            *(_measure("slow", variant, "slow exec", **slow) for variant in variants),
            *(_measure("hung", variant, "hung exec", seconds=scale.hung, **stall) for variant in variants),
            *(_measure("slow_lag", variant, "lag", **{**slow, "count": lags}) for variant in variants),
        ),
    )


def _peer(peer: Peer, arguments: tuple[str, ...]) -> Measurement:
    return Measurement(peer.label, "", PeerRun(peer, arguments))


def _at_a_time(peer: Peer) -> str:
    return str(LIMIT_THREADS if peer is peer_programs.LIMIT else 16)


def _count(scale: Scale, peer: Peer) -> str:
    return str(scale.spawns // 2 if peer is peer_programs.NODE else scale.spawns)


def _rates(scale: Scale) -> Iterator[Group]:
    def rate(variant: Variant, condition: str = "", **settings: Any) -> Measurement:
        return _measure("rate", variant, condition, count=int(scale.spawns * variant.share), **settings)

    yield Group(
        "rate",
        ("T1", "C1"),
        scale.rounds,
        (
            *(
                _peer(peer, ("/bin/true", _at_a_time(peer), _count(scale, peer)))
                for peer in peer_programs.SPAWNING
            ),
            *(rate(variant) for variant in EVERYBODY),
        ),
    )
    yield Group(
        "rate and fds",
        ("T2",),
        scale.few_rounds,
        tuple(
            rate(variant, condition, fds=count)
            for condition, count in (("", 0), (scale.many_fds, scale.fds))
            for variant in (AIOVFORK, AIOVFORK_UVLOOP, ASYNCIO, UVLOOP, THREAD)
        ),
    )
    yield Group(
        "captured and fds",
        ("T2",),
        scale.few_rounds,
        tuple(
            _measure(
                "captured",
                variant,
                condition,
                count=int(scale.spawns * variant.share),
                command="/bin/echo captured",
                fds=count,
            )
            for condition, count in (("", 0), (scale.many_fds, scale.fds))
            for variant in (AIOVFORK, RUN, ASYNCIO)
        ),
    )


def _lags(scale: Scale) -> Iterator[Group]:
    variants = (AIOVFORK, AIOVFORK_UVLOOP, ASYNCIO, UVLOOP, THREAD)
    spawns: dict[str, Any] = {"count": int(500 * scale.lag), "seconds": scale.lag}
    for scenario in ("tick", "heartbeat"):
        yield Group(
            scenario,
            ("L1",),
            scale.few_rounds,
            tuple(_measure(scenario, variant, **spawns) for variant in (*variants, NOTHING)),
        )
    yield Group(
        "beat",
        ("L1",),
        scale.few_rounds,
        tuple(_measure("beat", variant, seconds=scale.lag) for variant in variants),
    )
    yield Group(
        "burst",
        ("L1",),
        scale.rounds,
        tuple(_measure("burst", variant, count=scale.burst) for variant in variants),
    )


def _captures(scale: Scale) -> Iterator[Group]:
    def peers() -> Iterator[Measurement]:
        for peer in peer_programs.CAPTURING:
            count = _count(scale, peer)
            if peer is peer_programs.CAPTURE_LIMIT:
                yield _peer(peer, ("rate", "/bin/echo", str(CAPTURE_THREADS), count))
            else:
                yield _peer(peer, ("/bin/echo", "16", count, "captured"))

    def rate(scenario: str, variant: Variant, condition: str = "", option: str = "") -> Measurement:
        count = int(scale.spawns * variant.share)
        command = "/bin/echo captured"
        return _measure(scenario, variant, condition, count=count, command=command, option=option)

    yield Group(
        "captured",
        ("T3", "C2"),
        scale.rounds,
        (
            *peers(),
            *(rate("captured", variant) for variant in CAPTURING),
            *(rate("rate", variant, "without capture", "devnull") for variant in (*SUBJECTS, ASYNCIO)),
        ),
    )
    for scenario, goal, size_mb in (("bulk", "B1", scale.bulk_mb), ("through", "B2", scale.through_mb)):
        size = str(size_mb << 20)
        yield Group(
            scenario,
            (goal,),
            scale.few_rounds,
            (
                _peer(peer_programs.CAPTURE_LIMIT, (scenario, size)),
                *(
                    _measure(scenario, variant, view, size_mb=size_mb, view=view, seconds=scale.lag / 2)
                    for view in VIEWS
                    for variant in CAPTURING
                ),
            ),
        )
    yield Group(
        "captures",
        ("B3",),
        1,
        tuple(
            _measure("captures", variant, count=int(scale.captures * variant.share), size_mb=1)
            for variant in CAPTURING
            if variant is not THREAD
        ),
    )


def _many(scale: Scale) -> Iterator[Group]:
    def many(scenario: str, variant: Variant, condition: str, count: int) -> Measurement:
        return _measure(scenario, variant, condition, count=count, command="cat")

    yield Group(
        "many",
        ("M1",),
        1,
        (
            *(many("many", subject, "all", scale.many) for subject in SUBJECTS),
            *(many("many", subject, "a quarter", scale.many // 4) for subject in SUBJECTS),
            *(many("many", variant, "all", scale.many_peers) for variant in (ASYNCIO, UVLOOP, THREAD)),
            *(
                many("objects", variant, "objects", scale.many // 10)
                for variant in (*SUBJECTS, ASYNCIO, UVLOOP, THREAD)
            ),
        ),
    )


def _workers(scale: Scale) -> Iterator[Group]:
    variants = (AIOVFORK, AIOVFORK_UVLOOP, ASYNCIO, UVLOOP, THREAD)
    spawns: dict[str, Any] = {
        "count": int(WORKER_RATE * scale.lag),
        "per_second": WORKER_RATE,
        "seconds": scale.lag,
        "heap_mb": scale.worker_mb,
    }
    slow: dict[str, Any] = {
        "count": max(scale.held // 4, 1),
        "seconds": scale.held_exec,
        "heap_mb": scale.worker_mb,
    }
    yield Group(
        "workers",
        ("W1",),
        scale.few_rounds,
        (
            *(_measure("workers", variant, **spawns) for variant in (*variants, NOTHING)),
            *(_measure("workers_slow", variant, "slow exec", **slow) for variant in variants),
        ),
    )


def groups(scale: Scale) -> list[Group]:
    """Everything."""
    return [
        *_rates(scale),
        *_stalls(scale),
        *_slow_execs(scale),
        *_lags(scale),
        *_captures(scale),
        *_many(scale),
        *_workers(scale),
    ]


def only(selected: list[Group], goals: set[str]) -> list[Group]:
    """The groups that these goals need."""
    return [group for group in selected if goals.intersection(group.goals)]


def reduced(selected: list[Group], labels: set[str]) -> list[Group]:
    """The groups with the measurements of these labels only."""
    return [
        dataclasses.replace(group, measurements=tuple(m for m in group.measurements if m.label in labels))
        for group in selected
    ]
