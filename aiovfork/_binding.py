"""The C core as Python sees it: constants, calls with errors as exceptions or plain numbers.

The only importer of the extension module. Layer: lowest. Thread: any.
"""

from __future__ import annotations

import dataclasses
import os
import resource
import struct
import sys
from typing import Final, Literal

try:
    from aiovfork._core import ffi, lib
except ModuleNotFoundError as exc:
    if exc.name != "aiovfork._core":
        raise
    message = (
        f"the C core of aiovfork is not built in {os.path.dirname(__file__)}. "
        "If this is a checkout, its folder aiovfork hides the package that is installed: "
        "run from another folder, or build it here with `make test` or `pip install -e .`"
    )
    # With the package's name, `python -m aiovfork` prints this sentence without a traceback.
    raise ImportError(message, name="aiovfork") from None

__all__ = [
    "EVENT",
    "EVENT_SIZE",
    "PLAN",
    "PLAN_STEP",
    "Facts",
    "ffi",
    "force",
    "lib",
    "park_workers",
    "probe",
    "step_name",
]


def _struct(name: str, fields: dict[str, str]) -> struct.Struct:
    """Return the format of the first fields of a struct; where each begins is checked."""
    layout, offset = "=", 0
    for field, kind in fields.items():
        assert ffi.offsetof(name, field) == offset, f"{name}.{field}"
        layout += kind
        offset = struct.calcsize(layout)
    declared = [field for field, _ in ffi.typeof(name).fields]
    assert declared[: len(fields)] == list(fields), name
    end = ffi.offsetof(name, declared[len(fields)]) if len(declared) > len(fields) else ffi.sizeof(name)
    assert offset == end, f"{name} is {end} bytes long there, not {offset}"
    return struct.Struct(layout)


_EVENT_FIELDS: Final = {
    "ticket": "Q",
    "kind": "i",
    "pid": "i",
    "pidfd": "i",
    "error": "i",
    "step": "i",
    "status": "i",
    "flags": "i",
    "parent_end": "3i",
    "queue_ns": "q",
    "clone_ns": "q",
    "exec_ns": "q",
    "notes": "64s",
}
#: avf_event up to the rusage.
EVENT: Final = _struct("avf_event", _EVENT_FIELDS)
EVENT_SIZE: Final[int] = _struct("avf_event", {**_EVENT_FIELDS, "rusage": "18q"}).size
#: The rusage of an avf_event, behind EVENT.
RUSAGE: Final = struct.Struct("=18q")
#: avf_plan; offsets count from its start.
PLAN: Final = _struct(
    "avf_plan",
    {
        "size": "I",
        "version": "I",
        "flags": "I",
        "pipesize": "i",
        "stdio": "3i",
        "step_count": "I",
        "fd_count": "I",
        "held_count": "I",
        "path_offset": "I",
        "path_count": "I",
        "argv_offset": "I",
        "argv_count": "I",
        "envp_offset": "I",
        "envp_count": "I",
        "cgroup_fd": "i",
        "reserved": "I",
    },
)
PLAN_STEP: Final = _struct("avf_plan_step", {"step": "I", "detail": "H", "flags": "H", "value": "q"})

# RLIMIT_OFILE is an old name of RLIMIT_NOFILE.
_RLIMITS: Final = {
    number: name
    for name, number in vars(resource).items()
    if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"
}

_Engine = Literal["clone3", "clone"]
_Report = Literal["memory", "pipe"]
_Group = Literal["pidfd", "number"]


@dataclasses.dataclass(frozen=True)
class Facts:
    """What this kernel and sandbox allow; the fields of avf_facts (0, or the -errno of a refusal)."""

    kernel_major: int
    kernel_minor: int
    cpus: int
    clone3: int
    clear_sighand: int
    close_range: int
    pidfd_wait: int
    pidfd_signal: int
    pidfd_signal_group: int
    kcmp: int
    pidfd_info_exit: int
    launcher: int
    probe_child: int
    memory_shared: int
    parent_suspended: int
    engine_flags: int


def probe() -> Facts:
    """Find out, once, what this kernel and sandbox allow. Blocks for under a millisecond the first time."""
    facts = ffi.new("avf_facts *")
    lib.avf_probe(facts)
    return Facts(**{field.name: getattr(facts, field.name) for field in dataclasses.fields(Facts)})


def step_name(step: int) -> str:
    """Return the name of an avf_step; with the detail of a failure, as in "rlimit RLIMIT_NOFILE"."""
    name: bytes = ffi.string(lib.avf_step_name(step))
    if step & lib.AVF_STEP_MASK != lib.AVF_STEP_RLIMIT:
        return name.decode("ascii")
    number = step >> lib.AVF_STEP_DETAIL_SHIFT
    return f"{name.decode('ascii')} {_RLIMITS.get(number, number)}"


def park_workers(enabled: bool) -> bool:
    """Switch the parking of workers on or off for this process, and return what it was.

    A program may ask for a signal at its parent's death by itself: prctl(PR_SET_PDEATHSIG). Linux sends that
    when the *thread* that created the child ends. So workers wait, parked, for their children: up to 64.
    Off, no worker waits, and those that do are woken: their children get such a signal now. A process that
    has one thread only may call os.fork() without a warning, and unshare(CLONE_NEWUSER).

    AIOVFORK_PARK=0 in the environment switches it off from the start. Callable from any thread.
    """
    return bool(lib.avf_park(bool(enabled)))


def force(engine: _Engine | None = None, report: _Report | None = None, group: _Group | None = None) -> None:
    """Force an engine and a report mode for the spawns to come, and how groups are signalled (for tests).

    None is as probed.
    """
    engines = {None: -1, "clone": 0, "clone3": 1}
    reports = {None: -1, "memory": 0, "pipe": 1}
    groups = {None: -1, "number": 0, "pidfd": 1}
    lib.avf_force(engines[engine], reports[report])
    lib.avf_force_group(groups[group])


#: The program that finishes what changes credentials, beside the core.
LAUNCHER: Final = os.path.join(os.path.dirname(str(sys.modules["aiovfork._core"].__file__)), "_launcher")
if lib.avf_set_launcher(os.fsencode(LAUNCHER)) < 0:
    raise ImportError(f"the path is too long: {LAUNCHER}")

force(
    os.environ.get("AIOVFORK_ENGINE") or None,  # type: ignore[arg-type]  # a wrong word is a KeyError
    os.environ.get("AIOVFORK_REPORT") or None,  # type: ignore[arg-type]
)
# Not with the first port: a server may have thousands of connections by then, and no low number is left.
if os.environ.get("AIOVFORK_MAILBOXES") != "0":
    lib.avf_keep_mailboxes()
if os.environ.get("AIOVFORK_PARK") == "0":
    park_workers(enabled=False)
