"""How much of everything is measured."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Scale:
    """Counts, sizes and seconds."""

    rounds: int = 5
    few_rounds: int = 2
    stalls: int = 1000
    spawns: int = 3000
    heap_mb: int = 8192
    curve_mb: tuple[int, ...] = (256, 1024, 4096)
    fds: int = 15_000
    budget: float = 4.0
    held_exec: float = 0.3
    held: int = 20
    hung: float = 3.0
    lag: float = 4.0
    burst: int = 500
    many: int = 10_000
    many_peers: int = 2000
    worker_mb: int = 1024
    bulk_mb: int = 1024
    through_mb: int = 256
    captures: int = 1000

    @property
    def heap(self) -> str:
        """The name of the condition."""
        return _size(self.heap_mb)

    @property
    def worker(self) -> str:
        """How large a Dask worker is."""
        return _size(self.worker_mb)

    @property
    def many_fds(self) -> str:
        """The name of the condition."""
        return f"{self.fds:,} fds"


def _size(megabytes: int) -> str:
    return f"{megabytes / 1024:g} GB" if megabytes >= 1024 else f"{megabytes} MB"


FULL = Scale()
QUICK = Scale(
    rounds=1, few_rounds=1, stalls=300, spawns=1000, heap_mb=512, curve_mb=(128,), budget=2.0, held=5,
    hung=2.0, lag=2.0, many=2000, many_peers=500, worker_mb=256,
    bulk_mb=256, through_mb=64, captures=200,
)  # fmt: skip
SMOKE = Scale(
    rounds=1, few_rounds=1, stalls=10, spawns=48, heap_mb=32, curve_mb=(), fds=500, budget=1.0,
    held_exec=0.05, held=2, hung=0.2, lag=0.1, burst=20, many=40, many_peers=10, worker_mb=32,
    bulk_mb=4, through_mb=2, captures=8,
)  # fmt: skip
