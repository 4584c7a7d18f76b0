"""A checkout whose C core is not built."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parents[2] / "aiovfork"


@pytest.mark.parametrize("command", [["-c", "import aiovfork"], ["-m", "aiovfork", "doctor"]], ids=" ".join)
def test_the_error_helps(tmp_path: pathlib.Path, command: list[str]) -> None:
    """It says that the core is not built, where, and what to do; it is no traceback about a private module."""
    shutil.copytree(PACKAGE, tmp_path / "aiovfork", ignore=shutil.ignore_patterns("*.so"))
    # -S: without the site packages, the hook of the editable install among them.
    done = subprocess.run(
        [sys.executable, "-S", *command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert f"the C core of aiovfork is not built in {tmp_path}/aiovfork" in last
    assert "make test" in last
    assert "No module named" not in done.stderr
