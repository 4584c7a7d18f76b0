"""Session, process group, umask, and that no option changes anything but what it names."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import pytest

from tests.support.backends import PIPES, REFERENCE, Spawner, compare, run, run_on_each
from tests.support.view import view_of

pytestmark = pytest.mark.usefixtures("engine_mode")


@pytest.mark.parametrize(
    ("options", "session", "group"),
    [
        ({}, "inherited", "inherited"),
        ({"start_new_session": False}, "inherited", "inherited"),
        ({"start_new_session": True}, "its own", "its own"),
        ({"process_group": None}, "inherited", "inherited"),
        ({"process_group": 0}, "inherited", "its own"),
        ({"process_group": os.getpgid(0)}, "inherited", "inherited"),
    ],
    ids=str,
)
def test_session_and_process_group(options: dict[str, Any], session: str, group: str) -> None:
    """start_new_session is setsid, process_group is setpgid, both before exec."""

    async def body(spawn: Spawner) -> tuple[str, str]:
        view = await view_of(spawn, **options)
        return view.session, view.group

    assert compare(body) == (session, group)


def test_joining_the_group_of_another_child() -> None:
    """process_group=N joins a group that exists, so a pipeline is one job."""

    async def body(spawn: Spawner) -> bool:
        leader = await spawn.exec("sleep", "1000", process_group=0)
        view = await view_of(spawn, process_group=leader.pid)
        return view.group == str(leader.pid)

    assert compare(body)


@pytest.mark.parametrize("umask", [-1, 0, 0o022, 0o077, 0o777], ids=oct)
def test_umask(umask: int) -> None:
    """umask is the child's; -1 is the caller's own, which never changes."""

    async def body(spawn: Spawner) -> str:
        return (await view_of(spawn, umask=umask)).status["Umask"]

    before = os.umask(0o027)
    try:
        expected = 0o027 if umask == -1 else umask
        assert int(compare(body), 8) == expected
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


@pytest.mark.parametrize("cwd", [None, "/", "/usr/../usr/bin", b"/tmp"], ids=repr)
def test_cwd(cwd: str | bytes | None) -> None:
    """cwd is the child's; the caller's stays."""

    async def body(spawn: Spawner) -> str:
        return (await view_of(spawn, cwd=cwd)).cwd

    here = os.getcwd()
    assert compare(body) == os.path.realpath(os.fsdecode(cwd) if cwd is not None else here)
    assert os.getcwd() == here


OPTIONS: list[dict[str, Any]] = [
    {},
    {"cwd": "/"},
    {"umask": 0o077},
    {"restore_signals": False},
    {"start_new_session": True},
    {"process_group": 0},
    {"close_fds": False},
    {"env": {"PATH": "/bin", "A": "B"}},
    {"pipesize": 4096, **PIPES},
    {"executable": "/bin/sh"},
    {**PIPES},
    {
        "cwd": "/",
        "umask": 0,
        "restore_signals": False,
        "start_new_session": True,
        "env": {"PATH": "/bin"},
        "executable": "/bin/sh",
        "pipesize": 8192,
        **PIPES,
    },
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_everything_else_is_the_stdlibs(options: dict[str, Any]) -> None:
    """argv, cwd, env, descriptors, ids, capabilities, affinity, limits, signals: as the stdlib's child."""

    async def body(spawn: Spawner) -> object:
        view = await view_of(spawn, **options)
        if "env" in options:
            return view
        # What C code sets behind os.environ, as readline does on import, is a test of its own.
        known = tuple(item for item in view.environ if item.split(b"=")[0] in os.environb)
        return dataclasses.replace(view, environ=known)

    compare(body)


def test_what_the_thread_has_acquired_is_inherited() -> None:
    """Affinity of the calling thread, set after the first spawn, is the child's: workers are fresh."""

    async def body(spawn: Spawner) -> tuple[str, str, str]:
        await spawn.output("true")
        affinity = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(affinity)})
        try:
            view = await view_of(spawn)
        finally:
            os.sched_setaffinity(0, affinity)
        return view.status["Cpus_allowed"], view.nice, view.oom_score_adj

    compare(body)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_stays_on_the_fast_path(options: dict[str, Any], engine_mode: tuple[str, str]) -> None:
    """No option falls back to fork: each spawn says that it went by the engine that was chosen."""

    async def body(spawn: Spawner) -> None:
        process = await spawn.exec("true", **options)
        info = process._transport.get_extra_info("spawn_info")  # type: ignore[attr-defined]
        assert (info.engine, info.report) == engine_mode

    run_on_each(body)


def test_the_reference_really_is_asyncio() -> None:
    """What is compared against is a Process of asyncio's own: the comparisons compare two things."""

    async def body(spawn: Spawner) -> None:
        process = await spawn.exec("true")
        assert type(process).__module__ == "asyncio.subprocess"
        assert type(process._transport).__module__.startswith("asyncio.")  # type: ignore[attr-defined]

    run(REFERENCE, body)
