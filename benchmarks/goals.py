"""The goals: what each asks for, and whether it was reached."""

import dataclasses
import statistics
from collections.abc import Callable, Iterator

from benchmarks.histogram import longest, percentile
from benchmarks.matrix import (
    ASYNCIO,
    ASYNCIO_NAME,
    OPTIONS,
    OWN_OPTIONS,
    PIPES,
    RUN_OF,
    USER,
    UVLOOP,
    WORKER_RATE,
)
from benchmarks.peer_programs import CAPTURE_LIMIT, GO, LIMIT, NODE, RUST
from benchmarks.results import Results, paired_ratio
from benchmarks.scale import Scale

# What counts as "the same" of two medians.
_SAME = 1.25


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One line of a goal, for one subject on one interpreter. Without `met`, it is a figure, not a goal."""

    goal: str
    what: str
    target: str
    reached: str
    met: bool | None = None


@dataclasses.dataclass(frozen=True)
class View:
    """The results of one subject on one interpreter."""

    results: Results
    scale: Scale
    subject: str
    python: str

    def percentile(
        self, percent: float, group: str, label: str = "", condition: str = "", name: str = "sum"
    ) -> float | None:
        """A percentile over all rounds, in microseconds."""
        values = self.results.histogram(group, label or self.subject, condition, self.python, name)
        return percentile(values, percent) if values else None

    def longest(self, group: str, condition: str = "", name: str = "sum") -> float | None:
        """The highest value of all rounds, in microseconds."""
        values = self.results.histogram(group, self.subject, condition, self.python, name)
        return longest(values) if values else None

    def percentiles(
        self, percent: float, group: str, label: str = "", condition: str = "", name: str = "sum"
    ) -> dict[int, float]:
        """A percentile in each round, in microseconds."""
        each = self.results.histograms(group, label or self.subject, condition, self.python, name)
        return {turn: percentile(values, percent) for turn, values in each.items()}

    def values(self, name: str, group: str, label: str = "", condition: str = "") -> dict[int, float]:
        """A value in each round."""
        return self.results.values(group, label or self.subject, condition, self.python, name)

    def median(self, name: str, group: str, condition: str = "") -> float | None:
        """A value's median over the rounds."""
        return self.results.median(group, self.subject, condition, self.python, name)


def _at_most(goal: str, what: str, value: float | None, limit: float, unit: str = "") -> Iterator[Verdict]:
    if value is not None:
        target = f"≤ {_number(limit, unit)}"
        yield Verdict(goal, what, target, _number(value, unit), value <= limit)


def _at_least(goal: str, what: str, value: float | None, limit: float, unit: str = "") -> Iterator[Verdict]:
    if value is not None:
        target = f"≥ {_number(limit, unit)}"
        yield Verdict(goal, what, target, _number(value, unit), value >= limit)


def _number(value: float, unit: str) -> str:
    if not unit:
        return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def _s1(view: View) -> Iterator[Verdict]:
    for group, name, what in (
        ("stall", "sum", "all callbacks of a spawn"),
        ("direct", "submit and drain", "submit + drain alone"),
    ):
        for percent, limit in ((50, 40), (99, 100)):
            value = view.percentile(percent, group, name=name)
            yield from _at_most("S1", f"{what}, p{percent}", value, limit, "µs")
    own = view.percentiles(50, "stall")
    ratios = [
        ratio
        for peer in (ASYNCIO, ASYNCIO_NAME)
        if (ratio := paired_ratio(own, view.percentiles(50, "stall", peer.label))) is not None
    ]
    yield from _at_most("S1", "all callbacks, p50 ÷ asyncio's best case", max(ratios, default=None), 0.5)


def _s2(view: View) -> Iterator[Verdict]:
    scale = view.scale
    for group, condition in (
        ("heap", scale.heap),
        ("fds", scale.many_fds),
        *(("options", option) for option in (*OPTIONS, *OWN_OPTIONS)),
    ):
        for percent in (50, 99):
            ratio = paired_ratio(
                view.percentiles(percent, group, condition=condition), view.percentiles(percent, group)
            )
            yield from _at_most("S2", f"{condition} ÷ without, p{percent}", ratio, _SAME)
    for option, what in ((PIPES, "three pipes"), (USER, "user, group, extra_groups")):
        ratio = paired_ratio(
            view.percentiles(50, "options", condition=option),
            view.percentiles(50, "options", ASYNCIO.label, option),
        )
        if ratio is not None:
            yield Verdict("S2", f"{what} ÷ asyncio with the same, p50", "", _number(ratio, ""))


def _s3(view: View) -> Iterator[Verdict]:
    group = "slow exec"
    plain = view.percentiles(50, group)
    apart = view.percentiles(50, group, condition="child runs as long")
    slow = view.percentiles(50, group, condition="slow exec")
    hung = view.percentiles(50, group, condition="hung exec")
    held = f"exec takes {view.scale.held_exec * 1000:.0f} ms"
    yield from _at_most("S3", f"{held} ÷ plain, p50", paired_ratio(slow, plain), _SAME)
    yield from _at_most("S3", f"{held} ÷ child that runs as long, p50", paired_ratio(slow, apart), _SAME)
    yield from _at_most("S3", "beside an exec that hangs ÷ plain, p50", paired_ratio(hung, plain), _SAME)
    still_hung = view.values("still_hung", group, condition="hung exec")
    if still_hung:
        met = all(still_hung.values())
        yield Verdict("S3", "the exec hung all that time", "yes", "yes" if met else "no", met)
    yield from _at_most(
        "S3", f"{held}: longest callback", view.longest(group, "slow exec", "longest"), 1000, "µs"
    )
    lag = view.longest(group, "lag", "lag")
    if lag is not None:
        yield Verdict("S3", f"{held}: latest answer to a 1 ms tick", "", _number(lag, "µs"))


def _t1(view: View) -> Iterator[Verdict]:
    own = view.values("rate", "rate")
    ratio = paired_ratio(own, view.values("rate", "rate", LIMIT.label))
    yield from _at_least("T1", f"rate ÷ {LIMIT.label}", ratio, 0.9)
    for peer in (RUST.label, GO.label, NODE.label, ASYNCIO.label, ASYNCIO_NAME.label, UVLOOP.label):
        ratio = paired_ratio(own, view.values("rate", "rate", peer))
        yield from _at_least("T1", f"rate ÷ {peer}", ratio, 1.0)


def _t2(view: View) -> Iterator[Verdict]:
    condition = view.scale.many_fds
    ratio = paired_ratio(
        view.values("rate", "rate and fds", condition=condition), view.values("rate", "rate and fds")
    )
    yield from _at_least("T2", f"rate with {condition} ÷ without", ratio, 0.85)
    for what, label in (("communicate()", ""), ("run()", RUN_OF[view.subject])):
        ratio = paired_ratio(
            view.values("rate", "captured and fds", label, condition),
            view.values("rate", "captured and fds", label),
        )
        yield from _at_least("T2", f"rate of {what} with {condition} ÷ without", ratio, 0.85)


def _c1(view: View) -> Iterator[Verdict]:
    yield from _at_most("C1", "loop CPU for a spawn", view.median("cpu_us", "rate"), 70, "µs")
    ratio = paired_ratio(view.values("cpu_us", "rate"), view.values("cpu_us", "rate", ASYNCIO.label))
    yield from _at_most("C1", "loop CPU ÷ asyncio", ratio, 1 / 3)


def _captured(view: View) -> Iterator[tuple[str, str]]:
    """How output is captured, and the label of the measurements: run() first."""
    yield "run()", RUN_OF[view.subject]
    yield "communicate()", view.subject


def _t3(view: View) -> Iterator[Verdict]:
    plain = view.values("rate", "captured", condition="without capture")
    for how, label in _captured(view):
        own = view.values("rate", "captured", label)
        yield from _at_least("T3", f"{how} ÷ without capture", paired_ratio(own, plain), 0.85)
        for peer in (RUST.label, GO.label, NODE.label, ASYNCIO.label, UVLOOP.label):
            ratio = paired_ratio(own, view.values("rate", "captured", peer))
            yield from _at_least("T3", f"{how} ÷ {peer}", ratio, 1.0)
        ratio = paired_ratio(own, view.values("rate", "captured", CAPTURE_LIMIT.label))
        if ratio is not None:
            yield Verdict("T3", f"{how} ÷ {CAPTURE_LIMIT.label}", "", _number(ratio, ""))


def _c2(view: View) -> Iterator[Verdict]:
    peer = view.values("cpu_us", "captured", ASYNCIO.label)
    for how, label in _captured(view):
        own = view.values("cpu_us", "captured", label)
        if own:
            yield Verdict("C2", f"loop CPU of {how}", "", _number(statistics.median(own.values()), "µs"))
        yield from _at_most("C2", f"loop CPU of {how} ÷ asyncio's", paired_ratio(own, peer), 0.25)


def _moved(view: View, goal: str, group: str, size: str) -> Iterator[Verdict]:
    """What B1 and B2 ask of a large output."""
    for how, label in _captured(view):
        what = f"{size} by {how}"
        own = view.values("gbps", group, label, "rate")
        if own:
            yield Verdict(goal, what, "", _number(statistics.median(own.values()), "GB/s"))
        ratio = paired_ratio(own, view.values("gbps", group, CAPTURE_LIMIT.label))
        yield from _at_least(goal, f"{what}: rate ÷ C into fresh memory", ratio, 0.9)
        ratio = paired_ratio(own, view.values("gbps", group, ASYNCIO.label, "rate"))
        yield from _at_least(goal, f"{what}: rate ÷ asyncio", ratio, 2.5)
        cpu = view.values("cpu_ms", group, label, "rate")
        median = statistics.median(cpu.values()) if cpu else None
        yield from _at_most(goal, f"{what}: loop CPU", median, 10, "ms")
        for name, which in (
            ("callbacks", "longest callback"),
            ("callbacks' cpu", "longest callback, its CPU time"),
        ):
            value = view.percentile(100, group, label, "callbacks", name)
            yield from _at_most(goal, f"{what}: {which}", value, 1000, "µs")
        ratio = paired_ratio(
            view.percentiles(99, group, label, "lag", "lag"),
            view.percentiles(99, group, label, "lag", "idle"),
        )
        yield from _at_most(goal, f"{what}: 1 ms tick ÷ idle, p99", ratio, 1.5)


def _b1(view: View) -> Iterator[Verdict]:
    yield from _moved(view, "B1", "bulk", f"{view.scale.bulk_mb} MiB of output")


def _b2(view: View) -> Iterator[Verdict]:
    yield from _moved(view, "B2", "through", f"{view.scale.through_mb} MiB through cat")


def _b3(view: View) -> Iterator[Verdict]:
    for how, label in _captured(view):
        ratio = view.values("peak_ratio", "captures", label)
        value = statistics.median(ratio.values()) if ratio else None
        what = f"{view.scale.captures} of 1 MiB at once by {how}: peak RSS ÷ sum"
        yield from _at_most("B3", what, value, 1.1)


def _l1(view: View) -> Iterator[Verdict]:
    for group, what in (("tick", "1 ms tick"), ("heartbeat", "1 ms asyncio.sleep")):
        ratio = paired_ratio(
            view.percentiles(99, group, name="lag"), view.percentiles(99, group, name="idle")
        )
        yield from _at_most("L1", f"{what}, 500 spawns/s ÷ idle, p99", ratio, 1.5)
    yield from _at_most("L1", "sleep(0) beat, p99", view.percentile(99, "beat", name="lag"), 50, "µs")
    ratio = paired_ratio(
        view.percentiles(99, "beat", name="lag"), view.percentiles(99, "beat", ASYNCIO.label, name="lag")
    )
    yield from _at_most("L1", "sleep(0) beat ÷ asyncio, p99", ratio, 1 / 20)
    for name, what in (
        ("callbacks", "longest callback"),
        ("callbacks' cpu", "longest callback, its CPU time"),
    ):
        value = view.longest("burst", name=name)
        yield from _at_most("L1", f"{view.scale.burst} at once: {what}", value, 1000, "µs")


def _m1(view: View) -> Iterator[Verdict]:
    rss = view.median("rss_bytes", "many", "all")
    objects = view.median("python_bytes", "many", "objects")
    count = view.median("count", "many", "all")
    if rss is None or objects is None or count is None:
        return
    yield Verdict("M1", "children alive at once", "", _number(count, ""))
    yield Verdict("M1", "RSS a child", "", _number(rss, "B"))
    yield Verdict("M1", "Python's objects a child", "", _number(objects, "B"))
    yield from _at_most("M1", "RSS a child beyond Python's objects", max(rss - objects, 0.0), 4096, "B")
    yield from _at_most("M1", "threads more", view.median("threads", "many", "all"), 0)
    for name, what in (("wait_us", "time"), ("wait_cpu_us", "loop CPU")):
        ratio = paired_ratio(
            view.values(name, "many", condition="all"), view.values(name, "many", condition="a quarter")
        )
        yield from _at_most("M1", f"wait for all: {what} a child ÷ for a quarter", ratio, _SAME)


def _w1(view: View) -> Iterator[Verdict]:
    group, slow = "workers", "slow exec"
    own = view.percentiles(99, group, name="lag")
    spawns = f"a worker of {view.scale.worker}, {WORKER_RATE} spawns/s"
    ratio = paired_ratio(own, view.percentiles(99, group, ASYNCIO.label, name="lag"))
    yield from _at_most("W1", f"{spawns} ÷ asyncio, p99", ratio, 1.0)
    ratio = paired_ratio(own, view.percentiles(99, group, name="idle"))
    if ratio is not None:
        yield Verdict("W1", f"{spawns} ÷ idle, p99", "", _number(ratio, ""))
    ratio = paired_ratio(
        view.percentiles(99, group, condition=slow, name="lag"),
        view.percentiles(99, group, ASYNCIO.label, slow, "lag"),
    )
    held = f"a worker, exec takes {view.scale.held_exec * 1000:.0f} ms"
    yield from _at_most("W1", f"{held} ÷ asyncio, p99", ratio, 1 / 20)


ALL: tuple[Callable[[View], Iterator[Verdict]], ...] = (
    _s1, _s2, _s3, _t1, _t2, _t3, _c1, _c2, _l1, _m1, _b1, _b2, _b3, _w1
)  # fmt: skip


def verdicts(view: View) -> list[Verdict]:
    """All lines for which there are results."""
    return [verdict for goal in ALL for verdict in goal(view)]
