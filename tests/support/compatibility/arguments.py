"""What each keyword does."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import pathlib
import signal
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import aiovfork
from tests.support.backends import Spawner
from tests.support.compatibility.rows import Group, each_once, name_of, yes
from tests.support.view import STOPPED, look_at, view_of

PIPE, DEVNULL = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL

group = Group(__name__)


@contextlib.contextmanager
def tools(*names: str) -> Iterator[pathlib.Path]:
    """Make a folder for each name, with a program `tool` in it that says the name."""
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        for name in names:
            (place / name).mkdir()
            tool = place / name / "tool"
            tool.write_text(f"#!/bin/sh\necho {name}\n")
            tool.chmod(0o755)
        yield place


@contextlib.contextmanager
def opened(path: str, *, inheritable: bool = False) -> Iterator[int]:
    """Open a file, on a number that is free whatever the loop has opened."""
    fd = os.open(path, os.O_RDONLY)
    high = fcntl.fcntl(fd, fcntl.F_DUPFD if inheritable else fcntl.F_DUPFD_CLOEXEC, 200)
    os.close(fd)
    try:
        yield high
    finally:
        os.close(high)


def may_set_groups() -> bool:
    """Tell whether this process has the right to call setgroups(2)."""
    try:
        os.setgroups(os.getgroups())
    except PermissionError:
        return False
    return True


async def taken(spawn: Spawner, *options: dict[str, Any]) -> str:
    """Give each of some options. Returns yes where it is taken, else the exceptions."""
    found = []
    for option in options:
        try:
            await spawn.exec("true", **option)
        except Exception as exc:  # noqa: BLE001  # it is the answer
            found.append(name_of(exc))
        else:
            found.append("yes")
    return each_once(found)


@group.row("yes", uvloop="`argv[0]` is replaced too")
async def executable(spawn: Spawner) -> str:
    """`executable` is the program, while `argv[0]` stays as given."""
    view = await view_of(spawn, "called so", *STOPPED[1:], executable="/bin/sh")
    assert view.executable == os.path.realpath("/bin/sh")
    return yes(view.argv[0] == b"called so", "`argv[0]` is replaced too")


@group.row("yes", uvloop="`TypeError`")
async def env_kinds(spawn: Spawner) -> str:
    """`env` may be any mapping, such as `os.environ`, and a value may be path-like."""
    found = []
    for env in (os.environ, {"A": pathlib.Path("/p")}):
        try:
            environ = (await view_of(spawn, env=env)).environ
            found.append(yes(len(environ) == len(env) and (env is os.environ or environ == (b"A=/p",))))
        except TypeError as exc:
            found.append(name_of(exc))
    return each_once(found)


@group.row("yes", uvloop="text without `#!` is given to `/bin/sh`")
async def path_entries(spawn: Spawner) -> str:
    """An entry of `PATH` whose program cannot be executed is passed over."""
    with tools("plain", "text", "good") as place:
        (place / "plain/tool").chmod(0o644)
        (place / "text/tool").write_text("echo text\n")
        path = ":".join(f"{place}/{name}" for name in ("missing", "plain", "text", "good"))
        said = await spawn.output("tool", env={"PATH": path})
        return {b"good\n": "yes", b"text\n": "text without `#!` is given to `/bin/sh`"}[said]


@group.row("yes", uvloop="no, they are inherited in any case")
async def close_fds(spawn: Spawner) -> str:
    """Inheritable descriptors are closed in the child, unless `close_fds=False`."""
    with opened("/dev/zero", inheritable=True) as fd:
        views = [await view_of(spawn), await view_of(spawn, close_fds=False)]
        inherited = [fd in view.fds for view in views]
        assert inherited[1]
        return "no, they are inherited in any case" if inherited[0] else "yes"


@group.row("yes", uvloop="no")
async def pass_fds_overrides(spawn: Spawner) -> str:
    """`pass_fds` with `close_fds=False` closes the others all the same, with a `RuntimeWarning`."""
    with (
        opened("/dev/zero") as fd,
        opened("/dev/full", inheritable=True) as other,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        fds = (await view_of(spawn, pass_fds=[fd], close_fds=False)).fds
        return yes([warning.category for warning in caught] == [RuntimeWarning] and other not in fds)


@group.row("yes", uvloop="no")
async def nothing_else(spawn: Spawner) -> str:
    """The child of a default spawn has 0, 1 and 2, and nothing of what the loop or another spawn has open."""
    await spawn.exec("cat", stdin=PIPE, stdout=PIPE, stderr=PIPE)
    return yes(set((await view_of(spawn)).fds) == {0, 1, 2})


@group.row("yes")
async def snapshot(spawn: Spawner) -> str:
    """A descriptor may be closed, or its number reused, as soon as the call has begun."""
    with opened("/dev/zero") as fd, opened("/dev/full") as other:
        spawning = asyncio.ensure_future(spawn.exec(*STOPPED, stdin=fd))
        await asyncio.sleep(0)
        os.dup2(other, fd)
        return yes(look_at((await spawning).pid).fds[0] == "/dev/zero")


@group.row("yes", uvloop="`ValueError`")
async def process_group(spawn: Spawner) -> str:
    """`process_group` is a group of its own (0), or that of another child."""
    leader = await spawn.exec("sleep", "1000", process_group=0)
    follower = await view_of(spawn, process_group=leader.pid)
    return yes(os.getpgid(leader.pid) == leader.pid and follower.group == str(leader.pid))


@group.row("`PermissionError` EPERM", uvloop="`ValueError`")
async def session_and_group(spawn: Spawner) -> str:
    """`start_new_session` together with `process_group=0`."""
    try:
        await spawn.exec("true", start_new_session=True, process_group=0)
    except OSError as exc:
        return f"{name_of(exc)} {errno.errorcode[exc.errno or 0]}"
    return "yes"


@group.row("yes", uvloop="`ValueError`")
async def umask(spawn: Spawner) -> str:
    """`umask` is the child's."""
    return yes(int((await view_of(spawn, umask=0o027)).status["Umask"], 8) == 0o027)


@group.row("yes", uvloop="all signals are default in any case")
async def restore_signals(spawn: Spawner) -> str:
    """SIGPIPE and SIGXFSZ, which Python ignores, are default in the child, unless `restore_signals=False`."""
    views = [await view_of(spawn), await view_of(spawn, restore_signals=False)]
    restored = [not view.signals("SigIgn") & {signal.SIGPIPE, signal.SIGXFSZ} for view in views]
    assert restored[0]
    return "all signals are default in any case" if restored[1] else "yes"


@group.row("yes", uvloop="`ValueError`")
async def pipesize(spawn: Spawner) -> str:
    """`pipesize` is the capacity of the pipes."""
    process: Any = await spawn.exec("cat", stdin=PIPE, stdout=PIPE, pipesize=2**18)
    pipes = [process._transport.get_pipe_transport(fd).get_extra_info("pipe") for fd in (0, 1)]
    return yes([fcntl.fcntl(pipe.fileno(), fcntl.F_GETPIPE_SZ) for pipe in pipes] == [2**18] * 2)


@group.row("yes", "`TypeError`", "`ValueError`", plugged="yes", differs="better")
async def spawn_timeout(spawn: Spawner) -> str:
    """`spawn_timeout`: seconds until the program must run."""
    return await taken(spawn, {"spawn_timeout": 60})


@group.row("yes", uvloop="`ValueError`")
async def credentials(spawn: Spawner) -> str:
    """`user`, `group`, `extra_groups`."""
    uid, gid = os.getuid(), os.getgid()
    options: dict[str, dict[str, Any]] = {
        "Uid": {"user": uid},
        "Gid": {"group": gid},
        "Groups": {"extra_groups": [4321]},
    }
    expected = {"Uid": "\t".join([str(uid)] * 4), "Gid": "\t".join([str(gid)] * 4), "Groups": "4321"}
    found = []
    for name, option in options.items():
        try:
            found.append(yes((await view_of(spawn, **option)).status[name] == expected[name]))
        except ValueError as exc:
            found.append(name_of(exc))
        except PermissionError:
            found.append(yes(not may_set_groups()))  # it was tried
    return each_once(found)


@group.row("yes", "`TypeError`", "`ValueError`", plugged="yes", differs="better")
async def more_options(spawn: Spawner) -> str:
    """`rlimits`, `nice`, `cpu_affinity`, `scheduler`, `io_priority`, `oom_score_adj`, `pdeathsig`, `no_new_privs`, `signal_mask`, `default_signals`, `ignored_signals`, `chroot`, `cgroup`, `controlling_tty`, `foreground`, `fd_map`, `listen_fds`, `capabilities`, `unshare`, `best_effort`."""
    options: dict[str, Any] = {
        "rlimits": {},
        "nice": 1,
        "cpu_affinity": os.sched_getaffinity(0),
        "scheduler": os.SCHED_BATCH,
        "io_priority": 3,
        "oom_score_adj": 1000,
        "pdeathsig": 9,
        "no_new_privs": True,
        "signal_mask": [],
        "default_signals": [15],
        "ignored_signals": [15],
        "chroot": "/",
        "cgroup": "/no/such/cgroup",
        "controlling_tty": 0,
        "foreground": True,
        "fd_map": {5: 0},
        "listen_fds": [0],
        "capabilities": aiovfork.Capabilities(bounding=()),
        "unshare": 0x4000000,
        "best_effort": ["nice"],
    }
    found = []
    for name, value in options.items():
        try:
            await spawn.exec("true", start_new_session=True, **{name: value})
        except aiovfork.SpawnError:
            found.append("yes")  # it was tried
        except (TypeError, ValueError) as exc:
            found.append(name_of(exc))
        else:
            found.append("yes")
    return each_once(found)


@group.row("`ValueError`", "yes", differs="worse", uvloop="yes")
async def preexec_fn(spawn: Spawner) -> str:
    """`preexec_fn` is called in the child."""
    view = await view_of(spawn, preexec_fn=lambda: os.chdir("/usr"))
    return yes(view.cwd == os.path.realpath("/usr"))


@group.row("yes", uvloop="`ValueError` for most")
async def values_that_mean_nothing(spawn: Spawner) -> str:
    """An option that is refused may be given with the value that changes nothing (`text=False`, `user=None`)."""
    neutral: dict[str, Any] = {
        **dict.fromkeys(("startupinfo", "preexec_fn", "user", "group", "extra_groups", "process_group")),
        **dict.fromkeys(("encoding", "errors")),
        **dict.fromkeys(("text", "universal_newlines", "shell", "start_new_session"), False),
        **dict.fromkeys(("bufsize", "creationflags"), 0),
        **dict.fromkeys(("umask", "pipesize"), -1),
        "pass_fds": (),
    }
    found = [await taken(spawn, {name: value}) for name, value in neutral.items()]
    refused = [answer for answer in found if answer != "yes"]
    assert not refused or len(refused) > len(found) / 2
    return yes(not refused, f"{each_once(refused)} for most")


@group.row("`TypeError`", uvloop="`ValueError`")
async def unknown_option(spawn: Spawner) -> str:
    """An option that nobody knows."""
    return await taken(spawn, {"no_such_option": 1})
