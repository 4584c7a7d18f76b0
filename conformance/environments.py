"""What runs need on disk, made once and kept: peers' sdists, a wheel of this tree, virtual environments.

Everything is named after what it was made from, in one folder. pip fetches, as its user has set it up.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from conformance import pins
from conformance.pythons import Python

_ROOT: Final = Path(__file__).parent.parent
# What a wheel is made of.
_SOURCES: Final = (
    "LICENSE",
    "README.md",
    "aiovfork",
    "csrc",
    "meson.build",
    "pyproject.toml",
    "tools/symbol_gate.py",
)
_COMPLETE: Final = ".complete"
_INSTALLED_WHEEL: Final = ".wheel"
_TIMEOUT: Final = 600.0


class PreparationError(Exception):
    """Something that runs need could not be had."""


class Store:
    """The folder of what is kept."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder = folder.absolute()
        self._say = say

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other runs out of the folder; wait for one that is there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._say(f"waiting for another run in {self.folder}")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def sdist(self, name: str) -> Path:
        """Return the folder of a peer's unpacked sdist."""
        release = f"{name}-{pins.SDISTS[name]}"
        return self.made(f"sdists/{release}", lambda folder: _fetch_sdist(name, folder)) / release

    def wheel(self, oldest: Python) -> Path:
        """Return a wheel of this tree, built with the oldest interpreter, so that all can import it."""
        key = _digest(oldest.path, oldest.release, *_contents_of_sources())
        folder = self.made(f"wheels/{key}", lambda folder: _build_wheel(oldest, folder))
        return next(folder.glob("*.whl"))

    def environment(self, python: Python, requirements: Sequence[str], wheel: Path) -> Path:
        """Return the interpreter of a virtual environment that has these, and this wheel."""
        key = _digest(python.path, python.release, *requirements)
        folder = self.made(
            f"environments/{python.version}-{key}",
            lambda folder: _make_environment(python, [*requirements, str(wheel)], folder),
        )
        interpreter = folder / "bin" / "python"
        installed = folder / _INSTALLED_WHEEL
        wheel_key = _digest(wheel.read_bytes())
        if not installed.exists() or installed.read_text() != wheel_key:
            installed.unlink(missing_ok=True)
            _pip("install", "--force-reinstall", "--no-deps", str(wheel), python=interpreter)
            _pip("install", str(wheel), python=interpreter)  # what it has come to depend on since
            installed.write_text(wheel_key)
        return interpreter

    def made(self, name: str, make: Callable[[Path], None]) -> Path:
        """Return the folder of this name, made if it is not there or was left unfinished."""
        folder = self.folder / name
        if not (folder / _COMPLETE).exists():
            self._say(f"making {name}")
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            make(folder)
            (folder / _COMPLETE).touch()
        return folder


def _fetch_sdist(name: str, folder: Path) -> None:
    requirement = f"{name}=={pins.SDISTS[name]}"
    _pip("download", "--no-deps", f"--no-binary={name}", f"--dest={folder}", requirement)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")


def _build_wheel(oldest: Python, folder: Path) -> None:
    for other in folder.parent.iterdir():
        if other != folder:
            shutil.rmtree(other)
    # A copy, so that nothing is written into the tree, nor read from it but this.
    source = folder / "source"
    for name in _SOURCES:
        origin, copy = _ROOT / name, source / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if origin.is_dir():
            shutil.copytree(origin, copy, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(origin, copy)
    _pip("wheel", "--no-deps", f"--wheel-dir={folder}", str(source), python=Path(oldest.path))


def _make_environment(python: Python, requirements: Sequence[str], folder: Path) -> None:
    _call(python.path, "-m", "venv", "--without-pip", str(folder))
    _pip("install", *requirements, python=folder / "bin" / "python")


def _contents_of_sources() -> Iterator[str | bytes]:
    for name in _SOURCES:
        origin = _ROOT / name
        for file in sorted(origin.rglob("*")) if origin.is_dir() else [origin]:
            if file.is_file() and "__pycache__" not in file.parts:
                yield str(file.relative_to(_ROOT))
                yield file.read_bytes()


def _digest(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.hexdigest()[:12]


def _pip(*arguments: str, python: Path | None = None) -> None:
    where = [] if python is None else ["--python", str(python)]
    _call(sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *where, *arguments)


def _call(*command: str) -> None:
    """Run a command.

    Raises:
        PreparationError: It failed; the message has its output.
    """
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, check=False, timeout=_TIMEOUT,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise PreparationError(str(exc)) from exc
    if done.returncode != 0:
        raise PreparationError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout.strip()}")
