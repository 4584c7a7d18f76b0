"""Writes the tables of options of the reference, from the docstrings of SpawnOptions and RunOptions.

The order of steps comes from the table of steps, and the reasons of failures from those that errors name. Run
as `python -m tools.options`; with `--check` it changes nothing and fails if the page is out of date.
"""

import errno
import functools
import inspect
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiovfork
from aiovfork._binding import lib, step_name
from aiovfork._checks import BEST_EFFORT
from aiovfork._explanations import EXPLAINED
from aiovfork._steps import STEPS
from tools import pages

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"
#: Each page, the type that describes its options, and a function that has them.
PAGES: dict[Path, tuple[type, Callable[..., Any]]] = {
    REFERENCE / "options.md": (aiovfork.SpawnOptions, aiovfork.create_subprocess_exec),
    REFERENCE / "run.md": (aiovfork.RunOptions, aiovfork.run),
}

_TABLE = re.compile(r"(<!-- (?:run )?options -->\n).*?(<!-- end -->)", re.DOTALL)
_ORDER = re.compile(r"(<!-- order -->\n).*?(<!-- end -->)", re.DOTALL)
_MORE = {
    "close_fds": "see [pass descriptors](../how-to/pass-descriptors.md)",
    "pass_fds": "see [pass descriptors](../how-to/pass-descriptors.md)",
    "spawn_timeout": "see [deadlines](../how-to/timeouts-and-cancellation.md)",
    "preexec_fn": "see [replace `preexec_fn`](../how-to/replace-preexec-fn.md)",
}
# Defaults that have a name.
_NAMES = {
    ("stdin", subprocess.DEVNULL): "DEVNULL",
    ("stdout", subprocess.PIPE): "PIPE",
    ("stderr", subprocess.PIPE): "PIPE",
    ("stop_signal", signal.SIGTERM): "SIGTERM",
}
# Steps that the plan does not declare one by one, before and behind those that it does.
_BEFORE = (
    ("cgroup", lib.AVF_STEP_CGROUP),
    ("pass_fds", lib.AVF_STEP_PASS_FDS),
    ("fd_map", lib.AVF_STEP_PASS_FDS),
    ("listen_fds", lib.AVF_STEP_PASS_FDS),
    ("close_fds", lib.AVF_STEP_CLOSE_FDS),
)
_BEHIND = (("executable", lib.AVF_STEP_EXEC), ("env", lib.AVF_STEP_EXEC))
#: The manual page of each step.
MANUAL = {
    lib.AVF_STEP_CGROUP: "clone(2)",
    lib.AVF_STEP_PASS_FDS: "dup(2)",
    lib.AVF_STEP_CLOSE_FDS: "close_range(2)",
    lib.AVF_STEP_OOM_SCORE_ADJ: "proc_pid_oom_score_adj(5)",
    lib.AVF_STEP_UNSHARE: "unshare(2)",
    lib.AVF_STEP_CHROOT: "chroot(2)",
    lib.AVF_STEP_CHDIR: "chdir(2)",
    lib.AVF_STEP_UMASK: "umask(2)",
    lib.AVF_STEP_RESTORE_SIGNALS: "sigaction(2)",
    lib.AVF_STEP_DEFAULT_SIGNALS: "sigaction(2)",
    lib.AVF_STEP_IGNORED_SIGNALS: "sigaction(2)",
    lib.AVF_STEP_SETSID: "setsid(2)",
    lib.AVF_STEP_SETPGID: "setpgid(2)",
    lib.AVF_STEP_CONTROLLING_TTY: "TIOCSCTTY(2const)",
    lib.AVF_STEP_FOREGROUND: "TIOCSPGRP(2const)",
    lib.AVF_STEP_RLIMIT: "setrlimit(2)",
    lib.AVF_STEP_NICE: "setpriority(2)",
    lib.AVF_STEP_SCHEDULER: "sched_setscheduler(2)",
    lib.AVF_STEP_CPU_AFFINITY: "sched_setaffinity(2)",
    lib.AVF_STEP_IO_PRIORITY: "ioprio_set(2)",
    lib.AVF_STEP_CAP_BOUNDING: "PR_CAPBSET_DROP(2const)",
    lib.AVF_STEP_SETGROUPS: "setgroups(2)",
    lib.AVF_STEP_SETGID: "setresgid(2)",
    lib.AVF_STEP_SETUID: "setresuid(2)",
    lib.AVF_STEP_CAPABILITIES: "capabilities(7)",
    lib.AVF_STEP_NO_NEW_PRIVS: "PR_SET_NO_NEW_PRIVS(2const)",
    lib.AVF_STEP_PDEATHSIG: "PR_SET_PDEATHSIG(2const)",
    lib.AVF_STEP_SIGMASK: "sigprocmask(2)",
    lib.AVF_STEP_EXEC: "execve(2)",
}


def described(options: type) -> dict[str, str]:
    """What SpawnOptions or RunOptions says of each option."""
    _, _, attributes = inspect.cleandoc(options.__doc__ or "").partition("Attributes:\n")
    return dict(re.findall(r"^ +(\w+): (.+)$", attributes, re.MULTILINE))


def order() -> list[tuple[str, list[str]]]:
    """Each step's options, in the order of steps, and the other cells of its line: page, step, reasons."""
    steps: dict[int, list[str]] = {}
    for option, step in (*_BEFORE, *((option, step) for option, step, _ in STEPS), *_BEHIND):
        steps.setdefault(step, []).append(option)
    lines = []
    for step, options in steps.items():
        page, section = MANUAL[step].removesuffix(")").split("(")
        link = f"[{page}({section})](https://man7.org/linux/man-pages/man{section[0]}/{page}.{section}.html)"
        name = step_name(step).removesuffix(" RLIMIT_CPU")
        noted = ", or noted" if {*options} & BEST_EFFORT else ""
        names = ", ".join(f"`{option}`" for option in options)
        lines.append((names, [link, f"`{name}`{noted}", _reasons(step)]))
    return lines


def _reasons(step: int) -> str:
    """The reasons that errors name, with the errnos of each."""
    _, reasons = EXPLAINED.get(step, ("", {}))
    errnos: dict[str, list[str]] = {}
    for number, reason in reasons.items():
        if "doctor" not in reason:  # what a filter of system calls may refuse is the doctor's page
            errnos.setdefault(reason, []).append("" if number is None else errno.errorcode[number])
    return "; ".join(f"{', '.join(names)}: {reason}".removeprefix(": ") for reason, names in errnos.items())


def fill_in(page: str, options: type, function: Callable[..., Any]) -> str:
    """The page with its tables replaced."""
    lines = ["| option | default | what it does |\n| --- | --- | --- |\n"]
    parameters = inspect.signature(function).parameters
    for name, text in described(options).items():
        default = f"`{_NAMES.get((name, parameters[name].default), repr(parameters[name].default))}`"
        more = f"; {_MORE[name]}." if name in _MORE else "."
        lines.append(f"| `{name}` | {default} | {text.removesuffix('.')}{more} |\n")
    steps = ["| | option | manual page | step | when it fails |\n| --- | --- | --- | --- | --- |\n"]
    for number, (names, cells) in enumerate(order(), 1):
        steps.append(f"| {number} | {names} | {' | '.join(cells)} |\n")
    page = _TABLE.sub(lambda found: found[1] + "\n" + "".join(lines) + "\n" + found[2], page)
    return _ORDER.sub(lambda found: found[1] + "\n" + "".join(steps) + "\n" + found[2], page)


if __name__ == "__main__":
    results = [
        pages.main(
            page, functools.partial(fill_in, options=options, function=function), "tools.options", __doc__
        )
        for page, (options, function) in PAGES.items()
    ]
    sys.exit(max(results))
