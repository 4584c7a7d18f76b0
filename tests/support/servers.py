"""Starts a server as its how-to page says, on loopback, asks it, stops it, and tells what it leaves behind.

The server is the leader of a session of its own: whatever it starts can be found by that, however it ends.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import http.client
import json
import os
import pathlib
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import psutil

ROOT: Final = pathlib.Path(__file__).parents[2]
EXAMPLES: Final = ROOT / "examples" / "hosts"
PAGES: Final = ROOT / "docs" / "how-to" / "hosts"

#: Seconds that anything here may take on a machine that others load.
PATIENCE: Final = 30.0

#: What a server that has nothing to complain about does not say.
NOISE: Final = re.compile(r"Traceback|Exception|Error\b|Warning|closed loop|never awaited|\bERROR\b|CRITICAL")
# What is nobody's way to end a request.
_MISHAP: Final = re.compile(r"Event loop is closed|Exception ignored|never awaited|was destroyed|\wWarning")
# The warnings, and the source line of one of them.
_UNCLOSED: Final = re.compile(r"^.*(unclosed (transport|resource|file)|Enable tracemalloc).*$", re.MULTILINE)
# The last line of a traceback.
_RAISED: Final = r"^[ |+-]*([\w.]+(?:Error|Exception|ExceptionGroup|Interrupt|Exit))(?::|$)"


def commands_of(page: str) -> list[list[str]]:
    """Return the commands that a how-to page gives, ready to be started in EXAMPLES."""
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    return [startable(line) for line in re.findall(r"^\$ (.*)$", text, re.MULTILINE)]


def startable(line: str) -> list[str]:
    """Split a command; its program is the one that is installed beside this interpreter."""
    program, *args = shlex.split(line, comments=True)
    if program == "python":
        return [sys.executable, *args]
    return [f"{sysconfig.get_path('scripts')}/{program}", *args]


def until(condition: Callable[[], Any], what: str) -> Any:
    """Ask for something that nothing announces until it is so, and return it."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {PATIENCE:.0f} s: {what}"
        time.sleep(0.01)
    return found


@dataclasses.dataclass(frozen=True)
class Ending:
    """How a server has ended."""

    #: As Popen has it.
    status: int
    #: What is still alive of all that it had started, by name.
    left: list[str]
    #: All that it has ever written.
    log: str

    def assert_clean(self) -> None:
        """Nothing is left, and nobody complained."""
        assert not self.left, self.log
        assert not NOISE.search(self.log), self.log

    def assert_only_cancellations(self, *, unclosed: bool = False) -> None:
        """Nothing is left, and each traceback is that of a request that the server itself has cancelled.

        Args:
            unclosed: Whether the server cancels so hastily that transports are left to be collected.
        """
        assert not self.left, self.log
        reasons = re.findall(_RAISED, self.log, re.MULTILINE)
        assert set(reasons) <= {"asyncio.exceptions.CancelledError"}, self.log
        log = _UNCLOSED.sub("", self.log) if unclosed else self.log
        assert not _MISHAP.search(log), self.log


class Server:
    """A running server. As a context manager: nothing of it is left after the block."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        ready: str = r"http://127\.0\.0\.1:(?P<port>\d+)",
        port: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start it in EXAMPLES, and wait until it says that it is ready.

        Args:
            command: Its command line.
            ready: What it writes then, and where it names its port.
            port: Its port, if it cannot choose and name one itself.
            env: Added to the environment.
        """
        self.log = ""
        added = {"PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "default", **(env or {})}
        self._process = subprocess.Popen(
            command,
            cwd=EXAMPLES,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **added},
            start_new_session=True,
        )
        self.pid = self._process.pid
        try:
            found = self.wait_line(ready)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self.port = int(found["port"]) if port is None else port

    # ---- what it says ----

    def _read(self, deadline: float) -> bool:
        """Add to the log what has come, waiting for it; False at the end, which is when nobody can write."""
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError(
                f"nothing more is said, but the server or a child of it still could:\n{self.log}"
            )
        data = os.read(fd, 2**16)
        self.log += data.decode(errors="replace")
        return bool(data)

    def wait_line(self, pattern: str, start: int = 0) -> re.Match[str]:
        """Wait until it has written something, from a position in the log on."""
        deadline = time.monotonic() + PATIENCE
        while not (found := re.compile(pattern, re.MULTILINE).search(self.log, start)):
            assert self._read(deadline), f"it ended without {pattern!r}:\n{self.log}"
        return found

    def read_on(self) -> str:
        """Return the log, with all of it that has come by now."""
        with contextlib.suppress(TimeoutError):
            while self._read(time.monotonic()):
                pass
        return self.log

    # ---- requests ----

    def begin(self, path: str) -> http.client.HTTPConnection:
        """Send a request and leave it at that."""

        def connected() -> http.client.HTTPConnection | None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
            try:
                connection.request("GET", path)
            except ConnectionRefusedError:  # a server may say that it is ready before it listens
                connection.close()
                return None
            return connection

        connection: http.client.HTTPConnection = until(connected, "a connection")
        return connection

    def get(self, path: str = "/") -> tuple[int, Any]:
        """Return the status and the body, which is JSON, of an answer."""
        with contextlib.closing(self.begin(path)) as connection:
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def get_many(self, number: int, path: str = "/") -> list[tuple[int, Any]]:
        """Send so many requests at once."""
        with concurrent.futures.ThreadPoolExecutor(number) as threads:
            return list(threads.map(self.get, [path] * number))

    # ---- its processes ----

    def processes(self) -> list[psutil.Process]:
        """Return what is alive of all that the server has started, itself included."""
        alive = []
        for process in psutil.process_iter():
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                if os.getsid(process.pid) == self.pid and process.status() != psutil.STATUS_ZOMBIE:
                    alive.append(process)
        return alive

    def wait_child(self, name: str) -> psutil.Process:
        """Wait until a process of this name runs, and return it."""

        def found() -> psutil.Process | None:
            with contextlib.suppress(psutil.NoSuchProcess):
                return next((process for process in self.processes() if process.name() == name), None)
            return None

        process: psutil.Process = until(found, f"a child {name}")
        return process

    # ---- its end ----

    def signal(self, number: int) -> None:
        """Send a signal to the server, and to nobody else."""
        self._process.send_signal(number)

    def stop(self, number: int, left: Sequence[str] = ()) -> Ending:
        """Send a signal, wait for the exit and until no more than this is left; see what is, and end that too."""
        self.signal(number)
        pidfd = os.pidfd_open(self.pid)
        try:
            ended = select.select([pidfd], [], [], PATIENCE)[0]
        finally:
            os.close(pidfd)
        assert ended, f"still there after {PATIENCE:.0f} s:\n{self.read_on()}"
        # multiprocessing's resource tracker follows its server a moment later.
        deadline = time.monotonic() + PATIENCE
        while (names := list(map(_name, self.processes()))) != list(left) and time.monotonic() < deadline:
            time.sleep(0.01)
        self.__exit__(None, None, None)
        return Ending(self._process.returncode, names, self.log)

    def __enter__(self) -> Self:
        """Return the server."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Kill what is left. The leader is reaped last: until then the number of its group is nobody else's."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            assert self._process.stdout is not None
            with self._process.stdout:
                deadline = time.monotonic() + PATIENCE
                while self._read(deadline):
                    pass
            self._process.wait(PATIENCE)


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return "gone by now"


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """Reserve a port of 127.0.0.1, for a server that binds with SO_REUSEPORT."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", 0))
        # It does not listen: no connection ever comes here.
        yield sock.getsockname()[1]
