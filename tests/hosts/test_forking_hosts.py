"""Hosts that fork, or start, their workers after the application's module has run a plugged loop."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
from typing import Any, Final

import pytest

from tests.support.backends import WAYS
from tests.support.isolated import isolated
from tests.support.servers import ROOT, Server
from tests.support.servers import commands_of as commands

ENV: Final = {
    "PYTHONPATH": os.pathsep.join([str(ROOT / "tests/children"), str(ROOT / "examples/hosts")]),
    "PYTHONWARNINGS": "ignore",  # a parked worker is a thread, and gunicorn forks beside it
}
GUNICORN: Final = ["--preload", "-b", "127.0.0.1:0", "--no-control-socket"]
# Forked processes share the epoll of a loop that they have inherited. asyncio's bears that several use it at
# once; libuv aborts when it meets another's descriptors, with or without aiovfork.
WORKERS: Final = {"asyncio": "2", "uvloop": "1"}


def _served(command: list[str], **named: Any) -> None:
    command = ["preloaded_app:app" if word == "app:app" else word for word in command]
    with Server(command, env=ENV, **named) as server:
        for status, said in server.get_many(6):
            assert (status, said) == (200, ["Linux\n"] * 3)
        ending = server.stop(signal.SIGTERM)
    assert not ending.left, ending.log


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_gunicorn_with_preload(loop: str) -> None:
    """Workers that gunicorn forks start children on their own loop, and on one that ran in the master."""
    command, *_ = commands("gunicorn")
    at = command.index("--asgi-loop") + 1
    _served([*command[:at], loop, *command[at + 1 :], *GUNICORN, "-w", WORKERS[loop]])


@pytest.mark.slow
def test_uvicorn_with_workers() -> None:
    """So do uvicorn's."""
    command, *_ = commands("uvicorn")
    with socket.socket() as free:  # with workers, uvicorn does not say which port it was given
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    _served([*command, "--port", str(port), "--workers", "2"], port=port)


def _child(loop: Any, write_end: int) -> None:
    async def output() -> bytes:
        process = await asyncio.create_subprocess_exec("uname", stdout=asyncio.subprocess.PIPE)
        return (await process.communicate())[0]

    os.write(write_end, loop.run_until_complete(output()))


def _by_multiprocessing(way: str) -> list[Any]:
    loop: Any = WAYS[way]()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(asyncio.sleep(0))
    read_end, write_end = os.pipe()
    codes = []
    for _ in range(3):  # one after the other, see WORKERS
        process = multiprocessing.get_context("fork").Process(target=_child, args=(loop, write_end))
        process.start()
        process.join()
        codes.append(process.exitcode)
    os.close(write_end)
    with open(read_end) as file:
        said = file.read()
    loop.close()
    return [said, codes]


@pytest.mark.parametrize("way", WAYS)
def test_multiprocessing(way: str) -> None:
    """Processes that multiprocessing forks go on with a loop that ran before."""
    assert isolated(_by_multiprocessing, way, check_leaks=False) == ["Linux\n" * 3, [0, 0, 0]]
