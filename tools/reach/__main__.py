"""Compiles csrc with each of the given compilers, without Python, and runs the smoke program.

`python -m tools.reach gcc clang-14 musl-gcc`. A compiler is a command, words and all: `"zig cc -target
x86_64-linux-gnu.2.17"`, `aarch64-linux-gnu-gcc`. `--runner` starts programs of another architecture.
Every warning is an error, the child's object passes the symbol gate, and a smoke program that hangs is a
failure.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tools import symbol_gate

ROOT = Path(__file__).parent.parent.parent
SMOKE = Path(__file__).parent / "smoke.c"
#: A program of its own.
NOT_CORE = frozenset({"launcher.c"})
#: As meson.build, which says them through its options.
STRICT = shlex.split(
    "-std=gnu11 -O2 -D_GNU_SOURCE -pthread -Werror -Wall -Wextra -Wshadow"
    " -Wmissing-prototypes -Wstrict-prototypes -Wvla"
)
#: A few spawns take milliseconds; what takes this long hangs.
TIME_LIMIT_S = 120


class ReachError(Exception):
    """A compiler, the gate or the smoke program said no."""


def child_flags(meson: str) -> list[str]:
    """The flags of the child's file, as meson.build lists them."""
    found = re.search(r"^child_args = (.*?)^[\])]", meson, re.MULTILINE | re.DOTALL)
    flags = re.findall(r"'(-[^']+)'", found[1]) if found else []
    if not flags:
        raise ReachError("meson.build has no list child_args")
    return flags


class Compiler:
    """One compiler's command, and what it needs beside the flags of every compiler."""

    def __init__(self, command: str, folder: Path) -> None:
        self.name = command
        self.command = shlex.split(command)
        self.folder = folder
        beside = self.command[0].removesuffix("gcc") + "nm"  # as aarch64-linux-gnu-nm
        self.nm = os.environ.get("NM") or shutil.which(beside) or "nm"
        if Path(self.command[0]).name.startswith("musl-"):
            self.command += kernel_headers(folder / "headers")

    def run(self, *arguments: object) -> None:
        """Run it; its own words say what went wrong."""
        if subprocess.run([*self.command, *map(str, arguments)], check=False).returncode:
            raise ReachError("does not compile")

    def knows(self, flag: str) -> bool:
        """Whether it takes a flag without a word, as meson's get_supported_arguments() asks."""
        command = [*self.command, "-Werror", flag, "-x", "c", "-c", os.devnull, "-o", os.devnull]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    def macro(self, name: str) -> bool:
        """Whether it defines a macro by itself."""
        command = [*self.command, "-dM", "-E", "-x", "c", os.devnull]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return re.search(rf"^#define {name}\b", lines, re.MULTILINE) is not None

    def machine(self) -> str:
        """The architecture that it compiles for, as the symbol gate names it."""
        return next((name for name in symbol_gate.FREESTANDING if self.macro(f"__{name}__")), "another")

    def build(self) -> tuple[Path, int]:
        """Compile everything. Returns the smoke program and the number of the core's files."""
        flags = [flag for flag in child_flags((ROOT / "meson.build").read_text()) if self.knows(flag)]
        sources = sorted(path for path in (ROOT / "csrc").glob("*.c") if path.name not in NOT_CORE)
        objects = []
        for source in sources:
            objects.append(self.folder / f"{source.stem}.o")
            extra = flags if source.name == "child.c" else []
            self.run(*STRICT, *extra, "-c", source, "-o", objects[-1])
        status, line = symbol_gate.judge(self.folder / "child.o", self.nm, self.machine())
        if status:
            raise ReachError(line)
        self.build_launcher(flags)
        program = self.folder / "smoke"
        self.run(*STRICT, "-I", ROOT / "csrc", SMOKE, *objects, "-o", program, "-ldl")
        return program, len(sources)

    def build_launcher(self, flags: list[str]) -> None:
        """Link the launcher as meson.build does: without libc, where the machine has assembly of ours."""
        csrc, launcher = ROOT / "csrc", self.folder / "_launcher"
        sources = [csrc / "launcher.c", csrc / "plan.c", csrc / "child.c"]
        alone = ["-static", "-nostdlib", "-fno-pie"] if self.machine() != "another" else []
        self.run(*STRICT, *flags, *alone, *sources, "-o", launcher)


def kernel_headers(folder: Path) -> list[str]:
    """Flags by which a compiler for another libc finds the kernel's headers, but not this libc's."""
    search = ["gcc", "-print-multiarch"]
    multiarch = subprocess.run(search, check=True, capture_output=True, text=True).stdout.strip()
    folder.mkdir()
    for name in ("linux", "asm-generic"):
        (folder / name).symlink_to(Path("/usr/include", name))
    (folder / "asm").symlink_to(Path("/usr/include", multiarch, "asm"))
    return ["-idirafter", str(folder)]


def check(command: str, runner: list[str], *, run: bool) -> None:
    """Build with one compiler; run what it built."""
    with tempfile.TemporaryDirectory(prefix="avf-reach-") as name:
        folder = Path(name)
        program, count = Compiler(command, folder).build()
        print(f"{command}: {count} files of the core and the smoke program, without a warning", flush=True)
        if not run:
            return
        (folder / "work").mkdir()
        words = [*runner, str(program), str(folder / "work")]
        try:
            status = subprocess.run(
                words, check=False, timeout=TIME_LIMIT_S, stdin=subprocess.DEVNULL
            ).returncode
        except subprocess.TimeoutExpired:
            raise ReachError(
                f"the smoke program hangs: after {TIME_LIMIT_S} s it was in the check named last"
            ) from None
        if status:
            raise ReachError(f"the smoke program ended with {status}")


def main() -> int:
    """Go through all compilers, even after a failure."""
    parser = argparse.ArgumentParser(prog="python -m tools.reach", description=__doc__)
    parser.add_argument("compilers", nargs="+", metavar="COMPILER", help="for instance musl-gcc")
    parser.add_argument("--runner", default="", help="command that runs the program, as qemu-aarch64")
    parser.add_argument("--build-only", action="store_true", help="do not run the program")
    options = parser.parse_args()
    failed = 0
    for command in options.compilers:
        try:
            check(command, shlex.split(options.runner), run=not options.build_only)
        except (ReachError, OSError) as error:
            failed += 1
            print(f"FAILED {command}: {error}", file=sys.stderr)
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
