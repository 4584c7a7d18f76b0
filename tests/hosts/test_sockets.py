"""Servers that take their listening sockets from a parent: the how-to page on it, with real servers."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sysconfig

import pytest

import aiovfork
from tests.support import servers

PAGE = servers.PAGES.parent / "hand-over-a-socket.md"


@pytest.mark.slow
def test_a_server_is_replaced() -> None:
    """The page's example: two uvicorns take one socket as descriptor 3, and each request is answered."""
    said = re.findall(r"^\$ python (\S+)\n(.*)\n", PAGE.read_text(), re.MULTILINE)
    ((program, expected),) = said
    command = servers.startable(f"python -W error {program}")
    ended = subprocess.run(
        command, cwd=servers.EXAMPLES, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == (f"{expected}\n", "", 0)


@pytest.mark.slow
def test_a_server_that_systemd_would_activate() -> None:
    """gunicorn serves on a socket of listen_fds: it has checked LISTEN_PID against its own pid."""

    async def body() -> bytes:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = listener.getsockname()
            process = await aiovfork.create_subprocess_exec(
                *(
                    f"{sysconfig.get_path('scripts')}/gunicorn",
                    "-k",
                    "asgi",
                    "--no-control-socket",
                    "app:app",
                ),
                cwd=servers.EXAMPLES,
                listen_fds=[listener],
                stderr=aiovfork.DEVNULL,
                teardown=aiovfork.Teardown(tree="group"),
            )
        async with process:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
        return answer

    assert b'"output": "Linux' in asyncio.run(body())
