"""Compiles the C helpers of tests/native when a test needs one."""

from __future__ import annotations

import atexit
import functools
import pathlib
import shutil
import subprocess
import tempfile

import pytest

NATIVE = pathlib.Path(__file__).parents[1] / "native"


@functools.cache
def _directory() -> pathlib.Path:
    made = tempfile.mkdtemp(prefix="aiovfork-native-")
    pathlib.Path(made).chmod(0o755)  # some are run by another user
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return pathlib.Path(made)


@functools.cache
def compiled(name: str, *flags: str, shared: bool = True) -> str:
    """Return the path of tests/native/NAME.c, compiled with these flags as a library or as a program."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    digest = "".join(c if c.isalnum() else "-" for c in "".join(flags))
    target = str(_directory() / f"{name}{digest}{'.so' if shared else ''}")
    how = ["-shared", "-fPIC"] if shared else []
    command = [compiler, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", *how, *flags]
    subprocess.run([*command, "-o", target, str(NATIVE / f"{name}.c")], check=True, timeout=60)
    return target
