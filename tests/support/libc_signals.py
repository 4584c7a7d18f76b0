"""Takes back what the program that started the tests may have left ignored: libc's own signals.

posix_spawn(3) of older glibcs (2.36 does, 2.41 does not), which make and CPython 3.13 start programs with, leaves
32 and 33 ignored in them, and so in all that they start. asyncio's children keep that; aiovfork's do not, on purpose. The
tests compare the two, so they begin where neither is ignored. libc refuses these numbers: a raw call.
"""

import ctypes
import os
import platform

_SYS_RT_SIGACTION = {"x86_64": 13, "aarch64": 134}
_LIBC_SIGNALS = (32, 33)
_SIG_IGN = 1


def reset() -> None:
    """Make 32 and 33 default where they are ignored; a handler that libc has installed stays."""
    number = _SYS_RT_SIGACTION[platform.machine()]
    libc = ctypes.CDLL(None, use_errno=True)
    # struct sigaction of the kernel begins with the handler; all zeros mean SIG_DFL.
    default, old = (ctypes.c_ulong * 8)(), (ctypes.c_ulong * 8)()
    for signal in _LIBC_SIGNALS:
        if libc.syscall(number, signal, None, old, 8):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        if old[0] == _SIG_IGN and libc.syscall(number, signal, default, None, 8):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def posix_spawn_ignores_them() -> bool:
    """Whether posix_spawn(3) of this libc leaves one of them ignored in a child."""
    reset()
    read_end, write_end = os.pipe()
    output = [(os.POSIX_SPAWN_DUP2, write_end, 1)]
    pid = os.posix_spawn("/bin/cat", ["cat", "/proc/self/status"], {}, file_actions=output)
    os.close(write_end)
    with open(read_end) as status:
        ignored = next(int(line.split()[1], 16) for line in status if line.startswith("SigIgn:"))
    os.waitpid(pid, 0)
    return any(ignored & 1 << signal - 1 for signal in _LIBC_SIGNALS)
