"""Looks at a spawn that stands in exec, from another process: the one that spawns may stand still as a whole.

A lease on the program (tests.support.hold) keeps exec from going on. Nothing here is told by the clock, but
for what a process does not do while its child stands there: it is asked, and given a moment for the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
import mmap
import os
import select
import signal
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Final, NoReturn

from tests.support.backends import Backend, Spawner, run
from tests.support.hold import SIGNAL, Lease, copied

_MARK: Final = b"written since"
# What will answer gets the time that it needs; what cannot, this long.
_PATIENCE: Final = 30.0
_MOMENT: Final = 0.3
_LONG_MOMENT: Final = 1.0
_REFUSED: Final = 3


class _Bell:
    """Two pipes: one to ask a process by, and one for its answer."""

    def __init__(self) -> None:
        self.asked, self._ask = os.pipe()
        self._answered, self._answer = os.pipe()

    def answer(self) -> None:
        """In the process: answer a question, once it has been asked."""
        os.write(self._answer, os.read(self.asked, 1))

    def ring(self, seconds: float) -> bool:
        """Ask, and tell whether there is an answer in time."""
        os.write(self._ask, b"?")
        return bool(select.select([self._answered], [], [], seconds)[0])


@dataclasses.dataclass(frozen=True)
class _Bells:
    """What is asked of the process that spawns."""

    loop: _Bell = dataclasses.field(default_factory=_Bell)
    thread: _Bell = dataclasses.field(default_factory=_Bell)
    cancel: _Bell = dataclasses.field(default_factory=_Bell)


def _subject(backend: Backend, program: str, options: dict[str, Any], bells: _Bells) -> NoReturn:
    """Be the process that spawns."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    threading.Thread(target=bells.thread.answer, daemon=True).start()

    async def body(spawn: Spawner) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(bells.loop.asked, bells.loop.answer)
        spawning = asyncio.ensure_future(spawn.exec(program, **options))

        def cancel() -> None:
            loop.remove_reader(bells.cancel.asked)
            spawning.cancel()

        loop.add_reader(bells.cancel.asked, cancel)
        try:
            await (await spawning).wait()
        except asyncio.CancelledError:
            bells.cancel.answer()

    try:
        run(backend, body)
    except ValueError:
        os._exit(_REFUSED)
    except BaseException:  # noqa: BLE001  # this process must not go on as a second one of its parent
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _child_of(pid: int) -> tuple[int, int]:
    """Return the only child of a process, and the thread that made it."""
    found = []
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/children") as children:
            found += [(int(child), int(tid)) for child in children.read().split()]
    (child,) = found
    return child


class Standing:
    """A child that stands in exec, and the process that spawns it."""

    def __init__(self, parent: int, address: int, passed: int, bells: _Bells) -> None:
        self._parent = parent
        self._address = address
        self._passed = passed
        self._bells = bells
        self._child, tid = _child_of(parent)
        #: Whether the loop's own thread has made it.
        self.made_by_the_loop = tid == parent

    def shares_memory(self) -> bool:
        """Tell whether the child uses its parent's memory, or a copy."""
        with open(f"/proc/{self._parent}/mem", "r+b", buffering=0) as memory:
            os.pwrite(memory.fileno(), _MARK, self._address)
        with open(f"/proc/{self._child}/mem", "rb", buffering=0) as memory:
            return os.pread(memory.fileno(), len(_MARK), self._address) == _MARK

    def passed_is_inheritable(self) -> bool:
        """Tell whether what is passed to the child would be inherited by any other one, too."""
        with open(f"/proc/{self._parent}/fdinfo/{self._passed}") as file:
            flags = int(file.read().split("flags:")[1].split()[0], 8)
        return not flags & os.O_CLOEXEC

    def loop_goes_on(self) -> bool:
        """Tell whether the loop goes on."""
        return self._bells.loop.ring(_MOMENT if self.made_by_the_loop else _PATIENCE)

    def threads_go_on(self) -> bool:
        """Tell whether another thread that runs Python goes on."""
        return self._bells.thread.ring(_LONG_MOMENT if self.made_by_the_loop else _PATIENCE)

    def cancelled(self) -> bool:
        """Cancel the spawn, and tell whether that has ended the child."""
        answered = self._bells.cancel.ring(_MOMENT if self.made_by_the_loop else _PATIENCE)
        return answered and not os.path.exists(f"/proc/{self._child}")


@contextlib.contextmanager
def standing(backend: Backend, make_options: Callable[[int], dict[str, Any]]) -> Iterator[Standing]:
    """Have a backend spawn what stands in exec until the end of the block.

    Args:
        backend: The backend.
        make_options: Returns the options of the spawn, and is given a descriptor that may be passed.

    Raises:
        ValueError: The backend refuses the options.
    """
    page = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    passed = os.open("/dev/zero", os.O_RDONLY | os.O_CLOEXEC)
    bells = _Bells()
    told_by = {SIGNAL, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, told_by)
    with tempfile.TemporaryDirectory() as folder, Lease(copied(folder)) as lease:
        parent = os.fork()
        if not parent:
            _subject(backend, lease.path, make_options(passed), bells)
        told = signal.sigtimedwait(told_by, _PATIENCE)
        assert told is not None, "nobody executes the program"
        if told.si_signo == signal.SIGCHLD:
            assert os.waitstatus_to_exitcode(os.waitpid(parent, 0)[1]) == _REFUSED
            raise ValueError("refused")
        yield Standing(parent, address, passed, bells)
    assert os.waitpid(parent, 0) == (parent, 0)
