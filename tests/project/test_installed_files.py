"""What the build installs is what the package consists of."""

from __future__ import annotations

import pathlib
import re

import pytest

PACKAGE = pathlib.Path(__file__).parents[2] / "aiovfork"


@pytest.mark.skipif(
    not PACKAGE.exists(), reason="the sources of the package are not here: make test asks this"
)
def test_every_file_of_the_package_is_installed() -> None:
    """aiovfork/meson.build lists each module, stub and marker of the folder, each once, and nothing else."""
    listed = re.findall(
        r"^\s+'([\w/]+\.(?:pyi?|typed))',$", (PACKAGE / "meson.build").read_text(), re.MULTILINE
    )
    there = [
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*")
        if path.suffix in {".py", ".pyi", ".typed"} or path.name == "py.typed"
    ]
    assert sorted(listed) == sorted(there)
