"""Who a child is: user, groups, capabilities. Names become numbers here, on the calling thread, as in Popen.

Layer: below the options. Thread: any.
"""

from __future__ import annotations

import array
import dataclasses
import grp
import pwd
from collections.abc import Iterable
from typing import Any, Final

from aiovfork._values import between, items_of, signed

# (uid_t) -1: setresuid(2) takes it for "leave it as it is". Popen(user=4294967295) runs as the caller.
_NO_ID: Final = 2**32 - 1

_MOST_GROUPS: Final = 2**16  # NGROUPS_MAX of linux/limits.h

# linux/capability.h, each at its number.
_NAMES: Final = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT
SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP
MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
_NUMBERS: Final = {name: number for number, name in enumerate(_NAMES.split())}
_LAST: Final = 63


@dataclasses.dataclass(frozen=True)
class Capabilities:
    """What of root's power a child has or can get: capabilities(7).

    A capability is named as "CAP_NET_BIND_SERVICE" or "net_bind_service", or has its number.

    Attributes:
        ambient: Those that the child and its program have, as whatever user; all others it loses. An empty
            set leaves it none. But a program of user 0 gets its bounding set, unless no_new_privs says
            otherwise. None: those that the kernel gives to the child's user.
        bounding: Those that the child, its programs and descendants can ever have. None: the caller's.
    """

    ambient: Iterable[str | int] | None = None
    bounding: Iterable[str | int] | None = None

    def __post_init__(self) -> None:
        """Look the names up.

        Raises:
            TypeError: One is neither a name nor a number.
            ValueError: One is no capability.
        """
        for name in ("ambient", "bounding"):
            values = getattr(self, name)
            if values is not None:
                object.__setattr__(self, name, frozenset(map(_capability, items_of(values, name))))


def _capability(value: Any) -> int:
    if not isinstance(value, str):
        return between(value, "a capability", 0, _LAST)
    number = _NUMBERS.get(value.upper().removeprefix("CAP_"))
    if number is None:
        raise ValueError(f"there is no capability {value!r}")
    return number


def _set(values: Any) -> int | None:
    return None if values is None else signed(sum(1 << number for number in values))


def _checked(value: Any) -> Capabilities:
    if not isinstance(value, Capabilities):
        raise TypeError(f"capabilities must be Capabilities, not {type(value).__name__}")
    return value


def ambient(value: Capabilities | None) -> int | None:
    """Encode the ambient set of the option capabilities."""
    return None if value is None else _set(_checked(value).ambient)


def bounding(value: Capabilities | None) -> int | None:
    """Encode the bounding set of the option capabilities."""
    return None if value is None else _set(_checked(value).bounding)


# The types and messages of the following are Popen's.


def user(value: str | int | None) -> int | None:
    """Encode the option user.

    Raises:
        KeyError: There is no user of that name.
        TypeError: It is neither a name nor a number.
        ValueError, OverflowError: The number is none of a user.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return _id(pwd.getpwnam(value).pw_uid, "User")
    if isinstance(value, int):
        return _id(value, "User")
    raise TypeError("User must be a string or an integer")


def group(value: str | int | None) -> int | None:
    """Encode the option group; raises as user()."""
    if value is None:
        return None
    if isinstance(value, (str, int)):
        return _id(grp.getgrnam(value).gr_gid if isinstance(value, str) else value, "Group")
    raise TypeError(f"Group must be a string or an integer, not {type(value)}")


def extra_groups(values: Iterable[str | int] | None) -> bytes | None:
    """Encode the option extra_groups; raises as user()."""
    if values is None:
        return None
    if isinstance(values, str):
        raise ValueError("Groups must be a list, not a string")  # noqa: TRY004  # Popen's type
    gids = []
    for value in values:
        if not isinstance(value, (str, int)):
            raise TypeError(f"Items in extra_groups must be a string or integer, not {type(value)}")
        gid = grp.getgrnam(value).gr_gid if isinstance(value, str) else value
        if gid >= _NO_ID:
            raise ValueError("invalid group id")
        gids.append(_id(gid, "Group"))
    if len(gids) > _MOST_GROUPS:
        raise ValueError("too many extra_groups")  # as Popen says since Python 3.12
    return array.array("I", [len(gids), *gids]).tobytes()


def _id(value: int, kind: str) -> int:
    if value < 0:
        raise ValueError(f"{kind} ID cannot be negative, got {value}")
    if value >= _NO_ID:
        raise OverflowError(f"{'uid' if kind == 'User' else 'gid'} is greater than maximum")
    return int(value)
