"""What is refused of the keywords of a spawn at once, before any of them is looked at by itself.

Layer: above the options, below the plan. Thread: any.
"""

from __future__ import annotations

import functools
import math
import operator
import os
from collections.abc import Callable
from typing import Any, Final, SupportsFloat

from aiovfork._errors import PREEXEC_REPLACEMENTS
from aiovfork._identity import Capabilities, user
from aiovfork._options import CHILD_OPTIONS, Options
from aiovfork._values import items_of


def _none(value: object) -> bool:
    return value is None


# What is refused, as asyncio and Popen on POSIX do: the option, whether a value is allowed, and what is said
# of others. In asyncio's order and words (base_events.subprocess_exec).
REFUSED: Final[tuple[tuple[str, Callable[[Any], bool], str], ...]] = (
    ("universal_newlines", operator.not_, "universal_newlines must be False"),
    ("bufsize", lambda value: bool(value == 0), "bufsize must be 0"),
    ("text", operator.not_, "text must be False"),
    ("encoding", _none, "encoding must be None"),
    ("errors", _none, "errors must be None"),
    ("preexec_fn", _none, PREEXEC_REPLACEMENTS),
    ("startupinfo", _none, "startupinfo is only supported on Windows platforms"),
    ("creationflags", lambda value: bool(value == 0), "creationflags is only supported on Windows platforms"),
)
#: The options that checked() looks at by itself.
CHECKED: Final = frozenset({"pipesize", "spawn_timeout", "shell", "best_effort"})
#: What best_effort may name: where a failure leaves the child no more rights than were asked for.
BEST_EFFORT: Final = frozenset(
    {"nice", "cpu_affinity", "scheduler", "io_priority", "oom_score_adj", "rlimits", "foreground"}
)

_FIRST_REFUSED: Final = len(CHILD_OPTIONS)
_options_of: Final = functools.partial(tuple.__new__, Options)  # a call of Options takes twice as long
_ITERABLES: Final = [
    place for place, kind in enumerate(Options.__annotations__.values()) if "Iterable[" in str(kind)
]
_iterables: Final = operator.itemgetter(*_ITERABLES)
# What their values nearly always are.
_CONTAINERS: Final = frozenset({type(None), tuple, list, set, frozenset, dict})
_WITHOUT_SHELL: Final = Options()
_IN_SHELL: Final = _WITHOUT_SHELL._replace(shell=True)  # noqa: S604  # an option, not a call


def checked(given: tuple[Any, ...], *, in_shell: bool) -> Options:
    """Return the options of a call, given in the order of Options, if they can be had.

    A test holds the callers to that order. They give a plain tuple because it is cheap.

    Raises:
        ValueError: An option that cannot be had, or a wrong value of one.
        TypeError: A value of a wrong type.
    """
    usual = _IN_SHELL if in_shell else _WITHOUT_SHELL
    if same(given, usual):
        return usual  # one for all: there may be thousands of living children
    options = _options_of(readable_again(given))
    if not same(given[_FIRST_REFUSED:], usual[_FIRST_REFUSED:]):
        for name, is_allowed, reason in REFUSED:
            if not is_allowed(getattr(options, name)):
                raise ValueError(reason)
    if not isinstance(options.pipesize, int):
        raise TypeError("pipesize must be an integer")
    if bool(options.shell) is not in_shell:
        raise ValueError(f"shell must be {in_shell}")
    if options.spawn_timeout is not None:
        options = options._replace(spawn_timeout=_positive_seconds(options.spawn_timeout))
    if options.best_effort != ():
        options = options._replace(best_effort=_best_effort(options.best_effort))
    if options.controlling_tty is not None and not options.start_new_session:
        raise ValueError("controlling_tty needs start_new_session=True")
    if options.chroot is not None and isinstance(options.cwd, int):
        raise ValueError("with chroot, cwd must be a path: a descriptor could lead out of the new root")
    if options.pdeathsig is not None and options.capabilities is not None and not options.no_new_privs:
        _check_death_signal(options)
    return options


def _check_death_signal(options: Options) -> None:
    """Refuse what Linux would forget: exec clears it where the program gains a capability (prctl(2))."""
    capabilities, uid = options.capabilities, user(options.user)
    of_root = os.geteuid() == 0 if uid is None else uid == 0
    if of_root and isinstance(capabilities, Capabilities) and capabilities.ambient is not None:
        raise ValueError(
            "pdeathsig with ambient capabilities needs a user other than root, or no_new_privs: exec gives "
            "root's program more capabilities, and Linux forgets the signal then"
        )


def same(values: tuple[Any, ...], usual: tuple[Any, ...]) -> bool:
    """Whether values are the usual ones. An item that is another object is asked whether it equals."""
    try:
        return values == usual
    except Exception:  # noqa: BLE001  # of an array, which compares each of its items
        return False


def readable_again(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return options, those of a child or all, of which each can be read twice: iterators become tuples."""
    if _CONTAINERS.issuperset(map(type, _iterables(given))):
        return given
    found = {place: tuple(given[place]) for place in _ITERABLES if hasattr(given[place], "__next__")}
    return tuple(found.get(place, value) for place, value in enumerate(given)) if found else given


def _best_effort(names: Any) -> frozenset[str]:
    chosen = frozenset(items_of(names, "best_effort"))
    for name in chosen - BEST_EFFORT:
        raise ValueError(f"best_effort cannot hold {name!r}, but {', '.join(sorted(BEST_EFFORT))}")
    return chosen


_REFUSED_ALL: Final = _WITHOUT_SHELL[len(CHILD_OPTIONS) :]
_REFUSED_ALL_IN_SHELL: Final = _IN_SHELL[len(CHILD_OPTIONS) :]
_GROUPED: Final = _WITHOUT_SHELL._replace(process_group=0)
_GROUPED_IN_SHELL: Final = _IN_SHELL._replace(process_group=0)
_GROUPED_GIVEN: Final = tuple(_GROUPED[: len(CHILD_OPTIONS)])


def grouped(given: tuple[Any, ...], *, in_shell: bool) -> Options:
    """As checked(), of a call that takes CHILD_OPTIONS and gives the child a process group of its own.

    That is the call's default, process_group=0; a new session has such a group by itself.

    Raises:
        ValueError: A wrong value of an option.
        TypeError: A value of a wrong type.
    """
    if same(given, _GROUPED_GIVEN):
        return _GROUPED_IN_SHELL if in_shell else _GROUPED
    options = checked((*given, *(_REFUSED_ALL_IN_SHELL if in_shell else _REFUSED_ALL)), in_shell=in_shell)
    if options.start_new_session and options.process_group == 0:
        return options._replace(process_group=None)
    return options


def _positive_seconds(value: SupportsFloat) -> float | None:
    """Return what any loop's call_later takes: no Decimal, and for uvloop no infinity."""
    if not isinstance(value, SupportsFloat):
        raise TypeError(f"spawn_timeout must be a real number or None, not {type(value).__name__}")
    seconds = float(value)
    if not seconds > 0:  # NaN too
        raise ValueError(f"spawn_timeout must be positive or None, not {value!r}")
    return seconds if seconds < math.inf else None


def seconds(value: SupportsFloat | None, name: str) -> float | None:
    """Return what any loop's call_later takes: no infinity. It may be over: what is left until a deadline."""
    if value is None:
        return None
    if not isinstance(value, SupportsFloat):
        raise TypeError(f"{name} must be a real number or None, not {type(value).__name__}")
    number = float(value)
    if math.isnan(number):
        raise ValueError(f"{name} must be a number of seconds or None, not {value!r}")
    return number if number < math.inf else None
