"""Fails the build if the code that runs in the vfork child needs any symbol from outside.

That code shares memory with the parent while it runs, so it may call nothing of libc: no locks, no
thread-local storage, no cancellation points, and no instrumentation that a sanitizer or a stack
protector slips in. The proof is that its object file has no undefined symbol. The build calls this
script with the interpreter that builds, so it uses the standard library only.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

# The architectures whose system calls are made by our own inline assembly. Elsewhere the child goes
# through libc's syscall(), which is an undefined symbol by necessity.
FREESTANDING = frozenset({"x86_64", "aarch64"})

_LINE = re.compile(r"^(?:[0-9a-fA-F]+|\s+)\s+([A-Za-z?-])\s+(\S+)$", re.MULTILINE)
_UNDEFINED = frozenset("Uwv")
_CODE = frozenset("Tt")


def read_symbols(binary: Path, nm: str) -> list[tuple[str, str]]:
    """Every symbol of an object file or static library, as pairs of nm's type letter and the name."""
    listing = subprocess.run([nm, "--", str(binary)], check=True, capture_output=True, text=True).stdout
    return [(kind, name) for kind, name in _LINE.findall(listing)]


def judge(binary: Path, nm: str, machine: str) -> tuple[int, str]:
    """The exit status and the line to print for one object file or static library."""
    symbols = read_symbols(binary, nm)
    undefined = sorted({name for kind, name in symbols if kind in _UNDEFINED})
    if not any(kind in _CODE for kind, _ in symbols):
        return 1, f"symbol gate: {binary}: no function found, so nothing was proved (is it LTO bytecode?)"
    if not undefined:
        return 0, f"symbol gate: {binary}: no undefined symbol"
    names = ", ".join(undefined)
    if machine not in FREESTANDING:
        return 0, f"symbol gate: warning: {binary}: needs {names}, since {machine} has no assembly here"
    return 1, f"symbol gate: {binary}: the child's code needs {names}"


def main(argv: list[str] | None = None) -> int:
    """Check one binary; write the stamp only if it passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary", type=Path, help="object file or static library")
    parser.add_argument("--stamp", type=Path, help="file to write once the check has passed")
    parser.add_argument("--machine", default=platform.machine(), help="architecture of the binary")
    options = parser.parse_args(argv)

    try:
        status, line = judge(options.binary, os.environ.get("NM", "nm"), options.machine)
    except OSError as error:
        status, line = 1, f"symbol gate: cannot run nm: {error}"
    except subprocess.CalledProcessError as error:
        status, line = 1, f"symbol gate: {error.stderr.strip()}"
    print(line, file=sys.stderr if status else sys.stdout)
    if status == 0 and options.stamp:
        options.stamp.write_text(f"{line}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
