"""Who waits while a child starts, and what is copied: looked at while a child stands in exec."""

from __future__ import annotations

import os
from typing import Any, Final

from tests.support.backends import PIPES, Backend, Spawner
from tests.support.compatibility.rows import Group, Since, yes
from tests.support.compatibility.sight import standing

_SHARED: Final = "its parent's memory"
_COPY: Final = "a copy, by `fork()`"
_LAUNCHER: Final = "that of the launcher, a tiny program"

group = Group(__name__)


def _no_options(_fd: int) -> dict[str, Any]:
    return {}


def _memory(backend: Backend, **options: Any) -> str:
    with standing(backend, lambda _: options) as child:
        try:
            return _SHARED if child.shares_memory() else _COPY
        except OSError:  # nothing is mapped there
            return _LAUNCHER


@group.row("a worker", "the loop's", "the loop's", differs="better")
def thread_that_waits(backend: Backend) -> str:
    """The thread that makes the child, and is suspended until its program runs."""
    with standing(backend, _no_options) as child:
        return "the loop's" if child.made_by_the_loop else "a worker"


@group.row("yes", "no", "no", differs="better")
def loop_goes_on(backend: Backend) -> str:
    """The loop goes on while an exec hangs."""
    with standing(backend, _no_options) as child:
        return yes(child.loop_goes_on())


@group.row("the child is killed and reaped", "it stands", "it stands", differs="better")
def cancelled_in_exec(backend: Backend) -> str:
    """A spawn that is cancelled while its exec hangs."""
    with standing(backend, _no_options) as child:
        return "the child is killed and reaped" if child.cancelled() else "it stands"


@group.row("yes", Since({"3.11": "yes", "3.13": "no"}), "no", differs="better")
def threads_go_on(backend: Backend) -> str:
    """Other threads that run Python go on while an exec hangs."""
    with standing(backend, _no_options) as child:
        return yes(child.threads_go_on())


@group.row(_SHARED, uvloop=_COPY)
def memory(backend: Backend) -> str:
    """The memory that a child uses until its program runs."""
    return _memory(backend)


@group.row(_SHARED, uvloop=_COPY)
def memory_with_options(backend: Backend) -> str:
    """With `cwd`, `env`, `start_new_session`, `restore_signals=False`, `pass_fds` and pipes."""
    options = {"cwd": "/", "env": {}, "start_new_session": True, "restore_signals": False, **PIPES}
    return _memory(backend, pass_fds=[0, 1], **options)


@group.row(_SHARED, uvloop="`ValueError`")
def memory_with_more_options(backend: Backend) -> str:
    """With `umask`, `process_group`, `pipesize`."""
    return _memory(backend, umask=0o77, process_group=0, pipesize=2**12)


@group.row(_LAUNCHER, _COPY, "`ValueError`", differs="better")
def memory_with_user(backend: Backend) -> str:
    """With `user` and `group`."""
    return _memory(backend, user=os.getuid(), group=os.getgid())


@group.row("`ValueError`", _COPY, _COPY, differs="worse")
def memory_with_preexec_fn(backend: Backend) -> str:
    """With `preexec_fn`."""
    return _memory(backend, preexec_fn=int)


@group.row("no", uvloop="yes")
async def hooks_of_fork(spawn: Spawner) -> str:
    """The functions of `os.register_at_fork()` are called."""
    called = []
    os.register_at_fork(before=lambda: called.append(True))
    await spawn.exec("true")
    return yes(called)


@group.row("no", uvloop="yes, and another spawn could pass them on")
def passed_is_inheritable(backend: Backend) -> str:
    """`pass_fds` are inheritable in the parent while the child starts."""
    with standing(backend, lambda fd: {"pass_fds": [fd]}) as child:
        return "yes, and another spawn could pass them on" if child.passed_is_inheritable() else "no"
