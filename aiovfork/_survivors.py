"""What the exited members of a ProcessGroup have left behind, until it is ended, or has ended by itself.

Each costs a descriptor, its leader's pidfd, and before Linux 6.9 a zombie, the leader itself. So when there
are many, those in which nobody lives are let go of. That asks the kernel, and looks through /proc where the
kernel does not tell the living from zombies.

Layer: above the tree. Thread: the loop's.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Iterator
from typing import Final

from aiovfork._cgroup import off_loop
from aiovfork._members import Tree, leaders_of_the_living
from aiovfork._tree import TransportChild, kill_now

# So many may wait until somebody looks.
_FEW: Final = 64


class Survivors:
    """The exited leaders of trees in which somebody may live."""

    def __init__(self, tree: Tree | None) -> None:
        self._tree = tree
        self._children: dict[TransportChild, None] = {}  # a set that keeps its order
        self._many = _FEW
        self._looking: asyncio.Task[None] | None = None

    def __iter__(self) -> Iterator[TransportChild]:
        """Iterate over those that there are now."""
        return iter(list(self._children))

    def add(self, child: TransportChild) -> None:
        """Note a child that has exited."""
        self._children[child] = None
        if len(self._children) >= self._many and (self._looking is None or self._looking.done()):
            self._looking = asyncio.get_running_loop().create_task(self.look())

    def remove(self, child: TransportChild) -> None:
        """Forget one. Idempotent."""
        self._children.pop(child, None)

    def stop_looking(self) -> list[asyncio.Task[None]]:
        """Cancel the look under way, and return it if there is one."""
        looking, self._looking = self._looking, None
        if looking is None:
            return []
        looking.cancel()
        return [looking]

    async def look(self, *, finally_: bool = False) -> None:
        """Let go of those in whose trees nobody lives; in the end, whatever hides there is killed."""
        children = list(self)
        with contextlib.suppress(OSError):  # no descriptor, no /proc: then at the end
            if self._tree == "cgroup":
                dead = await off_loop(functools.partial(_removed, children))
            else:
                dead = await _without_members(children, self._tree, 1 if finally_ else _FEW)
            for child in dead:
                if finally_:
                    kill_now(child, self._tree)
                self.remove(child)
                child.release()
        self._many = max(_FEW, 2 * len(self._children))


def _removed(children: list[TransportChild]) -> list[TransportChild]:
    """Remove the cgroups that are empty, and return whose they were. Blocks."""
    return [child for child in children if child.cgroup is not None and child.cgroup.remove()]


async def _without_members(
    children: list[TransportChild], tree: Tree | None, many: int
) -> list[TransportChild]:
    dead = [child for child in children if not child.kill_group(0)]
    if len(children) - len(dead) < many:
        return dead
    # Zombies, perhaps: their leaders before Linux 6.9, or what a slow pid 1 does not reap. A process that is
    # forked meanwhile has a higher pid than its parent, nearly always, and is found.
    alive = await leaders_of_the_living(tree)
    return [child for child in children if child in dead or child.pid not in alive]
