"""A server that spawns with any table of descriptors 0 to 5, which would wreck the test process itself.

Usage: fd_table.py BACKEND DIRECTORY. Reads lists of cases as JSON, one per line: a spawn and the table it
starts from. Answers with what each child's table was, or with the exception.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import sys
from typing import Any, Final

# Behind everything else: what is installed is tested, not what lies beside the tests.
sys.path.append(str(pathlib.Path(__file__).parents[2]))

from tests.support.backends import BACKENDS, Raised, Spawner, run
from tests.support.view import STOPPED, open_files, target_of, wait_stopped

NUMBERS: Final = range(6)
_HIGH: Final = 50


def _high(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH)


class Table:
    """Descriptors 0 to 5, each on a file of its own, and the rest of the process out of their way."""

    def __init__(self, directory: str) -> None:
        self._sources = []
        for number in NUMBERS:
            fd = os.open(f"{directory}/file-{number}", os.O_RDWR | os.O_CREAT, 0o600)
            self._sources.append(_high(fd))
            if fd > 2:
                os.close(fd)
        self.lay([], [])

    def lay(self, closed: list[int], inheritable: list[int]) -> None:
        """Make the table that a case starts from."""
        for number in NUMBERS:
            if number in closed:
                with contextlib.suppress(OSError):
                    os.close(number)
            else:
                os.dup2(self._sources[number], number, inheritable=number in inheritable)

    @staticmethod
    def state(closed: list[int]) -> dict[int, tuple[str, bool]]:
        """Return where the descriptors of the table lead, and whether a child inherits them.

        The closed ones are free for the spawn to use meanwhile, so what is there tells nothing.
        """
        return {
            number: (target_of(f"/proc/self/fd/{number}"), os.get_inheritable(number))
            for number in NUMBERS
            if number not in closed
        }


async def _answer(spawn: Spawner, table: Table, case: dict[str, Any]) -> dict[str, Any]:
    closed = case.pop("closed", [])
    table.lay(closed, case.pop("inheritable", []))
    before = table.state(closed)
    answer: dict[str, Any] = {}
    try:
        process = await spawn.exec(*STOPPED, **case)
    except Exception as exc:  # noqa: BLE001  # it is the answer
        raised = Raised.of(exc)
        answer["error"] = {**dataclasses.asdict(raised), "type": raised.type.__name__}
    else:
        wait_stopped(process.pid)
        answer["fds"] = open_files(process.pid)[0]
    answer["untouched"] = before == table.state(closed)
    await spawn.clean_up()
    return answer


def main(name: str, directory: str) -> None:
    """Serve until the end of stdin."""
    requests, answers = os.fdopen(_high(0), "r"), os.fdopen(_high(1), "w")
    sys.stderr = os.fdopen(_high(2), "w")
    table = Table(directory)
    (backend,) = (backend for backend in BACKENDS if backend.name == name)

    async def serve(spawn: Spawner) -> None:
        await spawn.output("true")
        for line in requests:
            print(
                json.dumps([await _answer(spawn, table, case) for case in json.loads(line)]),
                file=answers,
                flush=True,
            )

    run(backend, serve)


if __name__ == "__main__":
    main(*sys.argv[1:])
