"""Traces a process until the end of stdin, then leaves: what a debugger or strace does.

Usage: tracer.py PID. Says "traced" once it has seized the process. It does not wait for the end of its tracee,
which is then a zombie that its own parent cannot reap yet.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any, Final

_PTRACE_SEIZE: Final = 0x4206


def main(pid: int) -> None:
    """Seize, say so, wait to be told to leave."""
    libc: Any = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    if libc.ptrace(_PTRACE_SEIZE, pid, None, None) < 0:
        sys.exit(f"cannot trace {pid}: {os.strerror(ctypes.get_errno())}")
    print("traced", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(int(sys.argv[1]))
