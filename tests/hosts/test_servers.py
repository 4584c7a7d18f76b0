"""The servers that have a how-to page, started with its command: they serve, stop and leave no helper behind."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import pathlib
import shutil
import signal
from collections.abc import Iterator, Mapping
from typing import Any, Final

import psutil
import pytest

from tests.support import servers
from tests.support.hold import held_program
from tests.support.servers import Ending, Server

REQUESTS: Final = 8


@dataclasses.dataclass(frozen=True)
class Host:
    """A server, and how the command of its page is changed for a test."""

    #: Makes it take any port.
    any_port: tuple[str, ...] = ()
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    #: Makes it take the other loop.
    uvloop: tuple[str, ...] = ("uvloop",)
    #: The names of its loops, as app.py tells them.
    loops: tuple[str, str] = ("EventLoop", "UvloopEventLoop")
    #: Bounds how long it waits for requests at shutdown, to few seconds.
    hurry: tuple[str, ...] = ()
    hurry_env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    #: Whether it cancels a request twice in a row, so that a killed helper cannot be waited for.
    hasty: bool = False
    ready: str = r"http://127\.0\.0\.1:(?P<port>\d+)"
    status_after_sigterm: int = 0


HOSTS: Final = {
    "uvicorn": Host(
        any_port=("--port", "0"),
        uvloop=("--loop", "aiovfork:new_uvloop_event_loop"),
        hurry=("--timeout-graceful-shutdown", "1"),
        status_after_sigterm=-signal.SIGTERM,
    ),
    "hypercorn": Host(env={"PORT": "0"}, hurry_env={"PATIENCE": "1"}),
    "aiohttp": Host(env={"PORT": "0"}, hurry_env={"PATIENCE": "1"}, hasty=True),
    "gunicorn": Host(
        any_port=("-b", "127.0.0.1:0", "--no-control-socket"),
        uvloop=("--asgi-loop", "uvloop"),
        loops=("_UnixSelectorEventLoop", "Loop"),
        hurry=("--graceful-timeout", "4"),
    ),
    # It waits for requests and cancels none: they have a deadline of their own.
    "granian": Host(hurry_env={"HELPER_DEADLINE": "1"}, ready="Started worker-1"),
}
EACH = pytest.mark.parametrize("name", HOSTS)
EACH_WAY = pytest.mark.parametrize(
    ("uvloop", "number"),
    [(False, signal.SIGTERM), (False, signal.SIGINT), (True, signal.SIGTERM)],
    ids=["asyncio-SIGTERM", "asyncio-SIGINT", "uvloop-SIGTERM"],
)


def changed(command: list[str], was: str, becomes: str) -> list[str]:
    """Replace a word of a command."""
    assert was in command
    return [becomes if word == was else word for word in command]


@contextlib.contextmanager
def started(
    name: str,
    command: list[str],
    *options: str,
    uvloop: bool = False,
    hurry: bool = False,
    env: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Start a server on any port."""
    host = HOSTS[name]
    added = {**host.env, **(env or {})}
    command = [*command, *host.any_port, *options]
    if uvloop:
        command += host.uvloop
    if hurry:
        command += host.hurry
        added |= host.hurry_env
    with contextlib.ExitStack() as stack:
        port = None
        if name == "granian":  # it cannot say which port it was given
            port = stack.enter_context(servers.reserved_port())
            added["PORT"] = added["GRANIAN_PORT"] = str(port)
        yield stack.enter_context(Server(command, ready=host.ready, port=port, env=added))


def command_of(name: str) -> list[str]:
    """Return the command of a server's page."""
    return servers.commands_of(name)[0]


def command_that_installs(name: str) -> list[str]:
    """Return a server's command in the overview, where the application does the plugging."""
    (command,) = (
        command for command in servers.commands_of("index") if pathlib.Path(command[0]).name == name
    )
    return command


def check_answers(answers: list[tuple[int, Any]], *loops: str) -> None:
    """Each request had its helper, and aiovfork started them all."""
    assert [status for status, _ in answers] == [200] * len(answers)
    assert {body["output"] for _, body in answers} == {"Linux\n"}
    assert {body["loop"] for _, body in answers} <= set(loops)
    assert max(body["spawned"] for _, body in answers) == len(answers)


def check_replaced(server: Server, before: Any) -> None:
    """Another process answers than the one of an earlier answer, and has started its first helper."""
    _, after = server.get()
    assert after["server"] != before["server"]
    assert after["spawned"] == 1


def check_status(ending: Ending, name: str, number: int) -> None:
    """The exit status is what the page says."""
    expected = HOSTS[name].status_after_sigterm if number == signal.SIGTERM else 0
    assert ending.status == expected, ending.log


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs, and is no zombie that waits for init."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def serves_and_stops(name: str, number: signal.Signals, *, uvloop: bool) -> None:
    """The body of the two tests that follow."""
    with started(name, command_of(name), uvloop=uvloop) as server:
        check_answers(server.get_many(REQUESTS), HOSTS[name].loops[uvloop])
        ending = server.stop(number)
    ending.assert_clean()
    check_status(ending, name, number)


@EACH
def test_serves_and_stops(name: str) -> None:
    """The page's command serves requests whose helpers aiovfork starts, and ends in silence at SIGTERM."""
    serves_and_stops(name, signal.SIGTERM, uvloop=False)


@pytest.mark.slow
@EACH
@pytest.mark.parametrize(
    ("uvloop", "number"),
    [(False, signal.SIGINT), (True, signal.SIGTERM), (True, signal.SIGINT)],
    ids=["asyncio-SIGINT", "uvloop-SIGTERM", "uvloop-SIGINT"],
)
def test_serves_and_stops_otherwise(name: str, uvloop: bool, number: signal.Signals) -> None:
    """The same at SIGINT, and on uvloop."""
    serves_and_stops(name, number, uvloop=uvloop)


@pytest.mark.slow
@EACH
@EACH_WAY
def test_a_helper_that_runs_at_shutdown(name: str, uvloop: bool, number: signal.Signals) -> None:
    """A request that still waits for its helper: the server's patience is bounded, and the helper ends with it."""
    host = HOSTS[name]
    with (
        started(name, command_of(name), uvloop=uvloop, hurry=True) as server,
        contextlib.closing(server.begin("/slow")),
    ):
        helper = server.wait_child("sleep")
        ending = server.stop(number)
    assert not is_alive(helper)
    ending.assert_only_cancellations(unclosed=host.hasty)
    check_status(ending, name, number)


@pytest.mark.slow
@EACH
@EACH_WAY
def test_a_spawn_that_hangs_at_shutdown(
    name: str, uvloop: bool, number: signal.Signals, tmp_path: pathlib.Path
) -> None:
    """A request whose helper hangs in exec: the same, and the child in the window is gone."""
    host = HOSTS[name]
    with (
        held_program(tmp_path) as (program, wait_reached),
        started(name, command_of(name), uvloop=uvloop, hurry=True, env={"SLOW_HELPER": program}) as server,
        contextlib.closing(server.begin("/slow")),
    ):
        wait_reached()
        child = server.wait_child("aiovfork")  # its worker's name, until exec
        ending = server.stop(number)
        assert not is_alive(child)
    ending.assert_only_cancellations(unclosed=host.hasty)
    check_status(ending, name, number)


def _touch_until_seen(server: Server, path: pathlib.Path) -> None:
    """Change a file until uvicorn's reloader sees it: what it does not know yet is no change."""
    changes = itertools.count(1)

    def seen() -> bool:
        time = path.stat().st_mtime + next(changes)
        os.utime(path, (time, time))
        return "detected changes" in server.read_on()

    servers.until(seen, "the reloader sees the change")


@pytest.mark.slow
def test_uvicorn_reloads(tmp_path: pathlib.Path) -> None:
    """--reload: the old process ends its helpers, and the new one serves."""
    watched = tmp_path / "watched.py"
    watched.touch()
    options = ("--reload", "--reload-dir", str(tmp_path), "--reload-delay", "0.05")
    with started("uvicorn", command_of("uvicorn"), *options, hurry=True) as server:
        _, before = server.get()
        with contextlib.closing(server.begin("/slow")):
            helper = server.wait_child("sleep")
            _touch_until_seen(server, watched)
            server.wait_line("Application startup complete", server.log.index("detected changes"))
        assert not is_alive(helper)
        check_replaced(server, before)
        ending = server.stop(signal.SIGTERM)
    ending.assert_only_cancellations()
    assert ending.status == 0


@pytest.mark.slow
def test_gunicorn_reloads() -> None:
    """SIGHUP: the new worker serves at once, the old one ends its helpers within the graceful timeout."""
    with started("gunicorn", command_of("gunicorn"), hurry=True) as server:
        _, before = server.get()
        with contextlib.closing(server.begin("/slow")):
            helper = server.wait_child("sleep")
            server.signal(signal.SIGHUP)
            server.wait_line(rf"Worker exiting \(pid: {before['server']}\)")
        check_replaced(server, before)
        ending = server.stop(signal.SIGTERM)
        assert not is_alive(helper)
    ending.assert_clean()
    assert ending.status == 0


@pytest.mark.slow
def test_granian_reloads() -> None:
    """SIGHUP: the old worker stays until its requests are over, their helpers' deadline bounds that."""
    # Its main process has threads, and forks: Python 3.12 and later do not like that.
    env = {"PYTHONWARNINGS": "default,ignore:This process:DeprecationWarning"}
    with started("granian", command_of("granian"), hurry=True, env=env) as server:
        _, before = server.get()
        with contextlib.closing(server.begin("/slow")) as connection:
            helper = server.wait_child("sleep")
            server.signal(signal.SIGHUP)
            assert connection.getresponse().status == 504
        server.wait_line("Stopped old worker-1")
        assert not is_alive(helper)
        check_replaced(server, before)
        ending = server.stop(signal.SIGTERM)
    ending.assert_clean()
    assert ending.status == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["uvicorn", "hypercorn", "gunicorn", "granian"])
def test_an_application_that_installs(name: str) -> None:
    """The overview's commands: install() when the lifespan starts, on whatever loop the server has made."""
    options = ("--bind", "127.0.0.1:0") if name == "hypercorn" else ()
    with started(name, command_that_installs(name), *options) as server:
        check_answers(server.get_many(REQUESTS), "_UnixSelectorEventLoop", "Loop")
        ending = server.stop(signal.SIGTERM)
    ending.assert_clean()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number"),
    [("uvicorn", signal.SIGINT), ("gunicorn", signal.SIGTERM)],
    ids=["uvicorn", "gunicorn"],
)
def test_a_careless_application(name: str, number: signal.Signals) -> None:
    """Where a server closes its loop no helper is left, not even one that nobody had thought of ending."""
    command = changed(command_of(name), "app:app", "careless_app:app")
    env = {"PYTHONPATH": str(servers.ROOT / "tests" / "children")}
    with (
        started(name, command, hurry=True, env=env) as server,
        contextlib.closing(server.begin("/")),
    ):
        server.wait_child("sleep")
        ending = server.stop(number)
    ending.assert_only_cancellations(unclosed=True)


# Where the pages say that a process is ended by SIGKILL: one by hand, two by their own masters.
KILLED: Final = {
    "uvicorn": (command_of, {}, signal.SIGKILL),
    "gunicorn": (command_that_installs, {}, signal.SIGTERM),
    "granian": (command_of, {"PATIENCE": "1"}, signal.SIGTERM),
}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (util-linux)")
@pytest.mark.parametrize("name", KILLED)
@pytest.mark.parametrize(
    ("helper", "left"), [("sleep 1000", ["sleep"]), ("setpriv --pdeathsig KILL sleep 1000", [])]
)
def test_a_server_that_is_killed(name: str, helper: str, left: list[str]) -> None:
    """As the pages warn: a killed process leaves its helpers, unless the kernel was asked to end them with it."""
    command, env, number = KILLED[name]
    with (
        started(name, command(name), *HOSTS[name].hurry, env={**env, "SLOW_HELPER": helper}) as server,
        contextlib.closing(server.begin("/slow")),
    ):
        server.wait_child("sleep")
        ending = server.stop(number, left)
    assert ending.left == left, ending.log
