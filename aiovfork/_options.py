"""The keywords of a spawn: names, types, defaults, and what is refused.

Layer: beside the plan. Thread: any. A new keyword is added here, in _plan.py and in csrc.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any, Final, TypeAlias, TypedDict

from aiovfork._errors import PREEXEC_REPLACEMENTS

StrOrBytesPath: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Env: TypeAlias = Mapping[str, StrOrBytesPath] | Mapping[bytes, StrOrBytesPath]
Stdio: TypeAlias = int | IO[Any] | None


class SpawnOptions(TypedDict, total=False):
    """The keywords beyond stdin, stdout, stderr and limit, as type checkers see them."""

    executable: StrOrBytesPath | None
    cwd: StrOrBytesPath | None
    env: Env | None
    close_fds: bool
    pass_fds: Iterable[int]
    start_new_session: bool
    process_group: int | None
    umask: int
    restore_signals: bool
    pipesize: int
    spawn_timeout: float | None
    startupinfo: None
    creationflags: int
    user: None
    group: None
    extra_groups: None
    preexec_fn: None
    shell: bool
    text: None
    encoding: None
    errors: None
    universal_newlines: bool
    bufsize: int


# What shell= is where nobody gave it; None is a wrong value of it.
NOT_GIVEN: Final = object()


@dataclasses.dataclass(slots=True)
class Options:
    """The keywords of one spawn, checked. The fields are those of SpawnOptions."""

    executable: StrOrBytesPath | None = None
    cwd: StrOrBytesPath | None = None
    env: Env | None = None
    close_fds: bool = True
    pass_fds: Iterable[int] = ()
    start_new_session: bool = False
    process_group: int | None = None
    umask: int = -1
    restore_signals: bool = True
    pipesize: int = -1
    spawn_timeout: float | None = None
    startupinfo: object = None
    creationflags: int = 0
    user: str | int | None = None
    group: str | int | None = None
    extra_groups: Iterable[str | int] | None = None
    preexec_fn: Callable[[], Any] | None = None
    shell: object = NOT_GIVEN
    text: bool | None = None
    encoding: str | None = None
    errors: str | None = None
    universal_newlines: bool = False
    bufsize: int = 0

    def __post_init__(self) -> None:
        """Refuse, as asyncio and Popen on POSIX do, what cannot be had."""
        # In asyncio's order and words (base_events.subprocess_exec).
        if self.universal_newlines:
            raise ValueError("universal_newlines must be False")
        if self.bufsize != 0:
            raise ValueError("bufsize must be 0")
        if self.text:
            raise ValueError("text must be False")
        if self.encoding is not None:
            raise ValueError("encoding must be None")
        if self.errors is not None:
            raise ValueError("errors must be None")
        if self.preexec_fn is not None:
            raise ValueError(PREEXEC_REPLACEMENTS)
        if self.startupinfo is not None:
            raise ValueError("startupinfo is only supported on Windows platforms")
        if self.creationflags != 0:
            raise ValueError("creationflags is only supported on Windows platforms")
        for name in ("user", "group", "extra_groups"):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"The {name!r} parameter is not supported yet: credentials must not change in a child "
                    "that shares its parent's memory"
                )
        if not isinstance(self.pipesize, int):
            raise TypeError("pipesize must be an integer")
        if self.spawn_timeout is not None and not self.spawn_timeout > 0:
            raise ValueError(f"spawn_timeout must be positive or None, not {self.spawn_timeout!r}")


DEFAULT = Options()
