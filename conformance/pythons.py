"""Finds the interpreters that are installed here."""

import dataclasses
import glob
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

_LOOK = """
import importlib.util, json, sys
def has(module):
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False
print(json.dumps({
    "path": sys.executable,
    "release": "%d.%d.%d" % sys.version_info[:3],
    "cpython": sys.implementation.name == "cpython",
    "venv": has("venv"),
    "tests": has("test.test_asyncio"),
}))
"""
_TIMEOUT = 30.0


@dataclasses.dataclass(frozen=True)
class Python:
    """An interpreter."""

    path: str
    release: str  # as in "3.13.0"
    has_tests: bool  # whether CPython's own tests are installed; Debian leaves them out

    @property
    def version(self) -> str:
        """As in "3.13"."""
        return self.release.rpartition(".")[0]


def find(version: str) -> Python | None:
    """A CPython of this version; one that has CPython's tests, if there is one."""
    found = [python for path in _candidates(version) if (python := _look_at(path, version))]
    return max(found, key=lambda python: python.has_tests, default=None)


def _candidates(version: str) -> Iterator[str]:
    """On PATH, in pyenv's folder, and ourselves."""
    # What is first on PATH may be a shim that runs no such version.
    for folder in os.get_exec_path():
        if path := shutil.which(f"python{version}", path=folder):
            yield path
    yield from sorted(glob.glob(f"{_pyenv_root()}/versions/{version}.*/bin/python"), reverse=True)
    yield sys.executable


def _pyenv_root() -> str:
    if pyenv := shutil.which("pyenv"):
        done = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False, timeout=_TIMEOUT)
        if done.returncode == 0:
            return done.stdout.strip()
    return os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))


def _look_at(path: str, version: str) -> Python | None:
    try:
        done = subprocess.run(
            [path, "-P", "-c", _LOOK], capture_output=True, text=True, check=True, timeout=_TIMEOUT
        )
    except (OSError, subprocess.SubprocessError):
        return None
    facts = json.loads(done.stdout)
    python = Python(facts["path"], facts["release"], facts["tests"])
    return python if facts["cpython"] and facts["venv"] and python.version == version else None
