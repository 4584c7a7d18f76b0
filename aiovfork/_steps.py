"""Options that are a step of the child: one table of them, and how the plan has them.

Layer: below the plan. Thread: any.
"""

from __future__ import annotations

import array
import functools
import itertools
import marshal
import operator
import os
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from aiovfork import _identity, _limits
from aiovfork._binding import PLAN_STEP, lib
from aiovfork._checks import same
from aiovfork._descriptors import descriptor
from aiovfork._options import Options, StrOrBytesPath
from aiovfork._values import (
    Encoded,
    Held,
    c_int,
    disposed_signals,
    integer,
    signal_bits,
    signal_number,
    strings,
)

_BEST_EFFORT: Final[int] = lib.AVF_STEP_BEST_EFFORT
_ALIGNED: Final = 8


def _text(value: StrOrBytesPath | None) -> bytes | None:
    return None if value is None else strings([os.fsencode(value)])


def _folder(value: StrOrBytesPath | int | None) -> bytes | Held | None:
    if not isinstance(value, int):
        return _text(value)
    if isinstance(value, bool):
        raise TypeError("cwd must be a path or a descriptor, not bool")
    return Held(descriptor(value, "cwd"))


def _switch(value: bool) -> int | None:  # it is the option's value
    return 0 if value else None


def _umask(value: int) -> int | None:
    value = integer(value, "umask")
    if value == -1:
        return None
    if value < 0:
        raise ValueError(f"umask must not be negative: {value}")
    return c_int(value)


def _process_group(value: int | None) -> int | None:
    if value is None:
        return None
    value = integer(value, "process_group")
    if value < 0:
        raise ValueError(f"process_group must not be negative: {value}")
    return c_int(value)


def _terminal(value: int | None) -> int | None:  # which descriptors there are is known to _descriptors.py
    return None if value is None else c_int(integer(value, "controlling_tty"))


def _unshare(value: int) -> int | None:
    flags = integer(value, "unshare")
    for flag, name in _NOT_UNSHARED.items():
        if flags & flag:
            raise ValueError(f"unshare cannot hold {name}")
    if flags & ~_NAMESPACES:
        raise ValueError(f"unshare must be flags of namespaces, not {flags:#x}")
    return flags or None


def _mask(value: Sequence[int] | None) -> int | None:
    return None if value is None else signal_bits(value, "signal_mask")


def _death_signal(value: int | None) -> int | None:
    return None if value is None else signal_number(value, "pdeathsig")


# sched.h. os has names for them since Python 3.12.
_NAMESPACES: Final = 0x80 | 0x20000 | 0x2000000 | 0x4000000 | 0x8000000 | 0x20000000 | 0x40000000
_NOT_UNSHARED: Final = {
    0x10000000: "CLONE_NEWUSER: its maps of user ids have to be written from outside",
    0x100: "CLONE_VM",
    0x200: "CLONE_FS",
    0x400: "CLONE_FILES",
    0x800: "CLONE_SIGHAND",
    0x10000: "CLONE_THREAD",
    0x40000: "CLONE_SYSVSEM",
}

# Each option, its step, and what makes the step's value of the option's. In the core's order of steps.
STEPS: Final[tuple[tuple[str, int, Callable[[Any], Encoded]], ...]] = (
    ("oom_score_adj", lib.AVF_STEP_OOM_SCORE_ADJ, _limits.oom_score_adj),
    ("unshare", lib.AVF_STEP_UNSHARE, _unshare),
    ("chroot", lib.AVF_STEP_CHROOT, _text),
    ("cwd", lib.AVF_STEP_CHDIR, _folder),
    ("umask", lib.AVF_STEP_UMASK, _umask),
    ("restore_signals", lib.AVF_STEP_RESTORE_SIGNALS, _switch),
    (
        "default_signals",
        lib.AVF_STEP_DEFAULT_SIGNALS,
        lambda value: disposed_signals(value, "default_signals"),
    ),
    (
        "ignored_signals",
        lib.AVF_STEP_IGNORED_SIGNALS,
        lambda value: disposed_signals(value, "ignored_signals"),
    ),
    ("start_new_session", lib.AVF_STEP_SETSID, _switch),
    ("process_group", lib.AVF_STEP_SETPGID, _process_group),
    ("controlling_tty", lib.AVF_STEP_CONTROLLING_TTY, _terminal),
    ("foreground", lib.AVF_STEP_FOREGROUND, _switch),
    ("rlimits", lib.AVF_STEP_RLIMIT, _limits.rlimits),
    ("nice", lib.AVF_STEP_NICE, _limits.nice),
    ("scheduler", lib.AVF_STEP_SCHEDULER, _limits.scheduler),
    ("cpu_affinity", lib.AVF_STEP_CPU_AFFINITY, _limits.cpu_affinity),
    ("io_priority", lib.AVF_STEP_IO_PRIORITY, _limits.io_priority),
    ("capabilities", lib.AVF_STEP_CAP_BOUNDING, _identity.bounding),
    ("extra_groups", lib.AVF_STEP_SETGROUPS, _identity.extra_groups),
    ("group", lib.AVF_STEP_SETGID, _identity.group),
    ("user", lib.AVF_STEP_SETUID, _identity.user),
    ("capabilities", lib.AVF_STEP_CAPABILITIES, _identity.ambient),
    ("no_new_privs", lib.AVF_STEP_NO_NEW_PRIVS, _switch),
    ("pdeathsig", lib.AVF_STEP_PDEATHSIG, _death_signal),
    ("signal_mask", lib.AVF_STEP_SIGMASK, _mask),
)
#: The options that build(), and what it calls, read by themselves; the port reads cgroup.
BUILT_IN: Final = frozenset(
    {
        *("executable", "env", "close_fds", "pass_fds", "fd_map", "listen_fds", "pipesize"),
        *("best_effort", "cgroup"),
    }
)

_values: Final = operator.itemgetter(*(Options._fields.index(option) for option, _, _ in STEPS))
# What need not be looked at: a default that is no step. Nothing is the default of an option that is one.
_QUIET: Final = tuple(
    default if encode(default) is None else object()
    for (_, _, encode), default in zip(STEPS, _values(Options()), strict=True)
)
_ROWS: Final = range(len(STEPS))


class Declared(NamedTuple):
    """The steps of one plan.

    Attributes:
        number: How many.
        held: The descriptors that they hold, as the plan has them.
        fields: Number, detail, flags and value of one after the other.
        data: Those of the fields that are offsets, and the bytes that lie there.
        block: The steps as the plan has them, if they are usual.
    """

    number: int
    held: bytes
    fields: list[int]
    data: Sequence[tuple[int, bytes]]
    block: bytes | None = None


def _chosen(values: tuple[Any, ...], best_effort: Any) -> Declared:
    fields: list[int] = []
    data: list[tuple[int, bytes]] = []
    held: list[int] = []
    for row in itertools.compress(_ROWS, map(operator.is_not, values, _QUIET)):
        option, number, encode = STEPS[row]
        encoded = encode(values[row])
        if encoded is None:
            continue
        flags = _BEST_EFFORT if option in best_effort else 0
        if isinstance(encoded, int):
            fields += (number, 0, flags, encoded)
        elif isinstance(encoded, bytes):
            data.append((len(fields) + 3, encoded))
            fields += (number, 0, flags, 0)
        elif isinstance(encoded, Held):
            fields += (number, 1, flags, len(held))
            held.append(encoded.fd)
        else:
            for detail, content in encoded:
                data.append((len(fields) + 3, content))
                fields += (number, detail, flags, 0)
    return Declared(len(fields) // 4, array.array("i", held).tobytes() if held else b"", fields, data)


def packed(fields: list[int], data: Sequence[tuple[int, bytes]], end: int) -> tuple[bytes, bytes]:
    """Return steps as the core reads them, and their data, which lies behind everything else: from end on."""
    if not data:
        return _packer(len(fields) // 4).pack(*fields), b""
    padding = -end % _ALIGNED
    pieces, at, fields = [bytes(padding)], end + padding, [*fields]
    for field, content in data:
        fields[field] = at
        padding = -len(content) % _ALIGNED
        pieces.append(content + bytes(padding))
        at += len(content) + padding
    return _packer(len(fields) // 4).pack(*fields), b"".join(pieces)


@functools.cache
def _packer(number: int) -> struct.Struct:
    """Return what packs so many steps."""
    return struct.Struct("=" + PLAN_STEP.format.removeprefix("=") * number)


# Of most children, packed once: what create_subprocess_exec() does by default, and run().
_USUAL: Final = [
    (values, usual._replace(block=packed(usual.fields, usual.data, 0)[0]))
    for values in (_values(Options()), _values(Options(process_group=0)))
    for usual in [_chosen(values, ())]
]


def declared_by(options: Options) -> Declared:
    """Return the declared steps.

    They are usual only if the value of every option that is a step is: none that is set can be missed.
    """
    values = _values(options)
    for usual, declared in _USUAL:
        if same(values, usual):
            return declared
    return _remembered(values, options.best_effort)


# What the table has made of values, by all of them. A program that starts children starts many of a kind.
_memory: Final[dict[bytes, Declared]] = {}
_MOST_REMEMBERED: Final = 128
_names: Final = operator.itemgetter(
    *(row for row, (option, _, _) in enumerate(STEPS) if option in ("user", "group", "extra_groups"))
)


def _remembered(values: tuple[Any, ...], best_effort: Any) -> Declared:
    """Return what _chosen() does.

    What is remembered is known by the bytes that marshal makes of it. Equal bytes are equal values, but for
    what has the buffer interface: that looks like bytes, which are therefore not remembered.
    """
    try:
        key = marshal.dumps((values, best_effort), 2)  # the last version that depends on values alone
    except ValueError:  # of what is no plain value: an enum, a path
        return _chosen(values, best_effort)
    known = _memory.get(key)
    if known is not None:
        return known
    declared = _chosen(values, best_effort)
    if _is_plain((values, best_effort)) and not _has_names(*_names(values)):
        if len(_memory) >= _MOST_REMEMBERED:
            _memory.clear()
        _memory[key] = declared
    return declared


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value)) and all(map(_is_plain, value.values()))
    if isinstance(value, (tuple, list, set, frozenset)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (int, str))


def _has_names(groups: Any, *ids: Any) -> bool:
    """Whether a user or group has a name, which is looked up each time."""
    return any(isinstance(who, str) for who in (*ids, *(groups or ())))
