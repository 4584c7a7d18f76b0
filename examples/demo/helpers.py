"""What the demo's children do: sha256sum and gzip on real files, head for a large output.

Python's own result judges each output.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import sysconfig
import zlib
from dataclasses import dataclass
from pathlib import Path

FILES = 64
SMALLEST, LARGEST = 4 << 10, 64 << 10
BULK = 256 << 20  # bytes of the large output


@dataclass(frozen=True, slots=True)
class Programs:
    """Absolute paths of the programs."""

    sha256sum: str
    gzip: str
    head: str

    @classmethod
    def find(cls, *names: str) -> Programs:
        """Look them up in PATH, in the order of the attributes.

        Raises:
            FileNotFoundError: if one is missing; the message is the program's name.
        """
        paths = []
        for name in names:
            path = shutil.which(name)
            if path is None:
                raise FileNotFoundError(name)
            paths.append(str(Path(path).absolute()))
        return cls(*paths)


@dataclass(frozen=True, slots=True)
class Helper:
    """One child to come: a program on a file."""

    kind: str  # "sha256sum", "gzip" or "head"
    program: str
    file: Path

    @property
    def argv(self) -> tuple[str, ...]:
        """The command line."""
        options = {"sha256sum": (), "gzip": ("-c",), "head": ("-c", str(BULK))}[self.kind]
        return (self.program, *options, str(self.file))

    def complaint(self, returncode: int | None, output: bytes | None) -> str | None:
        """Return what is wrong with a child's end, or None."""
        what = f"{self.kind} {self.file}"
        if returncode != 0:
            return f"{what}: exit status {returncode}"
        if output is None:
            return f"{what}: no output"
        content = b"" if self.kind == "head" else self.file.read_bytes()
        if self.kind == "head":
            good = len(output) == BULK == output.count(0)
        elif self.kind == "sha256sum":
            good = output.split(b" ")[0].decode("ascii", "replace") == hashlib.sha256(content).hexdigest()
        else:
            try:
                good = gzip.decompress(output) == content
            except (OSError, EOFError, zlib.error):
                good = False
        return None if good else f"{what}: wrong output ({len(output)} bytes)"


def installed_files() -> list[Path]:
    """Return some source files of this Python installation, always the same ones, 4 to 64 KiB each."""
    library = Path(sysconfig.get_path("stdlib"))
    files = [path for path in sorted(library.glob("*.py")) if SMALLEST <= path.stat().st_size <= LARGEST]
    return files[:: max(1, len(files) // FILES)][:FILES]


def bulk_helper(programs: Programs) -> Helper:
    """Return the child that writes much."""
    return Helper("head", programs.head, Path("/dev/zero"))


def helpers(programs: Programs) -> list[Helper]:
    """Return the children to start, in turn: each file by each program."""
    return [
        Helper(kind, program, file)
        for file in installed_files()
        for kind, program in (("sha256sum", programs.sha256sum), ("gzip", programs.gzip))
    ]
