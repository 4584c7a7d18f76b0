"""Rate: spawns a second, several at a time, and the loop's CPU time for each (T1, T2, C1)."""

from benchmarks.scenarios.run import Clocks, Run
from benchmarks.spawners import repeat


async def rate(run: Run) -> None:
    """Spawn and wait, at_a_time at once."""
    await run.subject.spawn_and_wait()
    clocks = Clocks()
    await repeat(run.subject, run.settings.count, run.settings.at_a_time)
    wall, cpu = clocks.wall, clocks.cpu
    run.values["rate"] = run.settings.count / wall
    run.values["cpu_us"] = cpu / run.settings.count * 1e6
