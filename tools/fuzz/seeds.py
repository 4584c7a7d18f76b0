"""The first inputs of the fuzzer: plans with each step, in each mode of the harness (plan.c)."""

import struct
from pathlib import Path

from aiovfork._binding import lib
from tests.support.core import Step, plan

_MODES = (0, 1, 4, 8, 16, 36)
_STEPS = [
    Step(lib.AVF_STEP_OOM_SCORE_ADJ, -5),
    Step(lib.AVF_STEP_UNSHARE, 1),
    Step(lib.AVF_STEP_CHROOT, b"/x\0"),
    Step(lib.AVF_STEP_CHDIR, b"/tmp\0"),
    Step(lib.AVF_STEP_UMASK, 1),
    Step(lib.AVF_STEP_RESTORE_SIGNALS),
    Step(lib.AVF_STEP_DEFAULT_SIGNALS, 5),
    Step(lib.AVF_STEP_IGNORED_SIGNALS, 3),
    Step(lib.AVF_STEP_SETSID),
    Step(lib.AVF_STEP_CONTROLLING_TTY),
    Step(lib.AVF_STEP_FOREGROUND),
    Step(lib.AVF_STEP_RLIMIT, struct.pack("=QQ", 1, 2), 1, lib.AVF_STEP_BEST_EFFORT),
    Step(lib.AVF_STEP_RLIMIT, struct.pack("=QQ", 1, 2), 7),
    Step(lib.AVF_STEP_NICE, 3, 0, lib.AVF_STEP_BEST_EFFORT),
    Step(lib.AVF_STEP_SCHEDULER, 3),
    Step(lib.AVF_STEP_CPU_AFFINITY, struct.pack("=IIQ", 8, 0, 3)),
    Step(lib.AVF_STEP_IO_PRIORITY, 2),
    Step(lib.AVF_STEP_CAP_BOUNDING, 2),
    Step(lib.AVF_STEP_SETGROUPS, struct.pack("=III", 2, 3, 4)),
    Step(lib.AVF_STEP_SETGID, 2),
    Step(lib.AVF_STEP_SETUID, 2),
    Step(lib.AVF_STEP_CAPABILITIES, 2),
    Step(lib.AVF_STEP_NO_NEW_PRIVS),
    Step(lib.AVF_STEP_PDEATHSIG, 9),
    Step(lib.AVF_STEP_SIGMASK, 2),
]
_DIRECT = [step for step in _STEPS if not lib.AVF_STEP_LAUNCHER < step.step < lib.AVF_STEP_NO_NEW_PRIVS]


def write(corpus: Path) -> None:
    """Put the first inputs into a folder that holds nothing else afterwards."""
    corpus.mkdir(exist_ok=True)
    for old in corpus.iterdir():
        old.unlink()
    environment = {"PATH": "/bin", "A": "b"}
    plans = [
        plan("/bin/true", env=environment),
        plan("/bin/true", env=environment, steps=_STEPS),
        plan("/bin/true", env=environment, steps=_DIRECT),
        plan("/bin/sh", "-c", "exit", env={**environment, "LISTEN_PID": ""}, flags=lib.AVF_PLAN_LISTEN),
    ]
    for number, block in enumerate(plans):
        for mode in _MODES:
            (corpus / f"{number}-{mode}").write_bytes(bytes([mode]) + block)
