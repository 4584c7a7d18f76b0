"""What runs need on disk: interpreters, peers' sdists, a wheel of this tree, virtual environments.

sdists and environments are made once and kept, named after what they were made from. pip fetches, as its user
has set it up.
"""

import glob
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from conformance.suites import SDISTS, Suite

_ROOT: Final = Path(__file__).parent.parent
_COMPLETE: Final = ".complete"
_HAS_TESTS: Final = "import test.test_asyncio"


class PreparationError(Exception):
    """Something that runs need could not be had."""


def find(version: str) -> str | None:
    """Return a CPython of this version that is installed here; one that has its tests, if there is one.

    What is first on PATH may be a shim that runs no such version. pyenv's own are looked for as well.
    """
    on_path = [shutil.which(f"python{version}", path=folder) for folder in os.get_exec_path()]
    pyenv = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    candidates = [
        *filter(None, on_path),
        *glob.glob(f"{pyenv}/versions/{version}.*/bin/python"),
        sys.executable,
    ]
    check = f"import sys, venv; assert sys.version.startswith({version + '.'!r})"
    found = [path for path in candidates if _works(path, check)]
    return next(filter(has_tests, found), found[0] if found else None)


def has_tests(python: str) -> bool:
    """Whether CPython's own tests are installed; Debian leaves them out."""
    return _works(python, _HAS_TESTS)


def _works(python: str, code: str) -> bool:
    return subprocess.run([python, "-P", "-c", code], capture_output=True, check=False).returncode == 0


class Store:
    """The folder of what is kept."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder = folder.absolute()
        self._say = say

    def sdist(self, name: str) -> Path:
        """Return the folder of a peer's unpacked sdist."""
        release = f"{name}-{SDISTS[name]}"
        return self._made(f"sdists/{release}", partial(_fetch_sdist, name)) / release

    def wheel(self, oldest: str) -> Path:
        """Return a wheel of this tree, built with the oldest interpreter, so that all can import it."""
        folder = self.folder / "wheel"
        shutil.rmtree(folder, ignore_errors=True)
        _pip("wheel", "--no-deps", f"--wheel-dir={folder}", str(_ROOT), python=oldest)
        return next(folder.glob("*.whl"))

    def environment(self, version: str, python: str, suite: Suite, wheel: Path) -> Path:
        """Return the interpreter of a virtual environment that has what a suite needs, and this wheel."""
        key = hashlib.sha256(repr((os.path.realpath(python), suite.requirements)).encode()).hexdigest()[:12]
        folder = self._made(f"environments/{version}-{key}", partial(_make_environment, python, suite))
        interpreter = folder / "bin" / "python"
        _pip("install", "--force-reinstall", "--no-deps", str(wheel), python=str(interpreter))
        _pip("install", str(wheel), python=str(interpreter))  # what it depends on
        return interpreter

    def _made(self, name: str, make: Callable[[Path], None]) -> Path:
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
    _pip("download", "--no-deps", f"--no-binary={name}", f"--dest={folder}", f"{name}=={SDISTS[name]}")
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")


def _make_environment(python: str, suite: Suite, folder: Path) -> None:
    _call(python, "-m", "venv", "--without-pip", str(folder))
    _pip("install", *suite.requirements, python=str(folder / "bin" / "python"))


def _pip(*arguments: str, python: str = sys.executable) -> None:
    _call(
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--quiet",
        f"--python={python}",
        *arguments,
    )


def _call(*command: str) -> None:
    """Run a command.

    Raises:
        PreparationError: It failed; the message has its output.
    """
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise PreparationError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}")
