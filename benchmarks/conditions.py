"""What makes a spawn dear elsewhere: a large heap, many descriptors, options."""

import contextlib
import mmap
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import psutil

_MB = 1 << 20
# Descriptors that the measurement itself may need beside those that it holds open.
_SPARE_FDS = 1024


def _inherited() -> dict[str, Any]:
    return {"pass_fds": (os.open(os.devnull, os.O_RDONLY), os.open(os.devnull, os.O_WRONLY))}


def _user() -> dict[str, Any]:
    """Another user where that is allowed; else the own one, which takes the same way."""
    nobody = 65534
    if os.geteuid() == 0:
        return {"user": nobody, "group": nobody, "extra_groups": []}
    return {"user": os.geteuid(), "group": os.getegid()}


def _limits() -> dict[str, Any]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return {
        "rlimits": {resource.RLIMIT_NOFILE: (min(soft, 256), hard), resource.RLIMIT_CORE: 0},
        "nice": 5,
        "cpu_affinity": os.sched_getaffinity(0),
        "oom_score_adj": 500,
        "io_priority": 3,
        "scheduler": os.SCHED_BATCH,
    }


def _signals() -> dict[str, Any]:
    return {
        "signal_mask": {signal.SIGHUP},
        "default_signals": {signal.SIGUSR1},
        "ignored_signals": {signal.SIGUSR2},
        "pdeathsig": signal.SIGKILL,
        "no_new_privs": True,
    }


# The keyword arguments that an option's name stands for.
OPTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "": dict,
    "cwd": lambda: {"cwd": "/"},
    "umask": lambda: {"umask": 0o027},
    "start_new_session": lambda: {"start_new_session": True},
    "process_group": lambda: {"process_group": 0},
    "pass_fds": _inherited,
    "restore_signals=False": lambda: {"restore_signals": False},
    "close_fds=False": lambda: {"close_fds": False},
    "pipes": lambda: dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE),
    "limits": _limits,
    "signals": _signals,
    "user": _user,
    "devnull": lambda: dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL),
    "spawn_timeout": lambda: {"spawn_timeout": 30.0},
    "preexec_fn": lambda: {"preexec_fn": int},  # any callable makes Popen fork
}


def raise_fd_limit() -> int:
    """Raise the limit of open descriptors as far as it goes, and return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


@contextlib.contextmanager
def heap(megabytes: int) -> Iterator[int]:
    """Hold private memory in 4 KiB pages, each of its own; yields how much (less on a small machine).

    Shared memory, or huge pages, would hide what a fork has to copy.
    """
    megabytes = min(megabytes, int(psutil.virtual_memory().available / _MB * 0.6))
    if megabytes == 0:
        yield 0
        return
    size = megabytes * _MB
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        # A kernel without huge pages refuses, and needs no telling.
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_NOHUGEPAGE)
        memory[:: mmap.PAGESIZE] = b"\1" * (size // mmap.PAGESIZE)
        yield megabytes


@contextlib.contextmanager
def open_fds(count: int) -> Iterator[int]:
    """Hold descriptors open; yields how many (fewer where the limit is lower)."""
    if count == 0:
        yield 0
        return
    count = min(count, raise_fd_limit() - _SPARE_FDS)
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(count)]
    try:
        yield count
    finally:
        for fd in held:
            os.close(fd)
