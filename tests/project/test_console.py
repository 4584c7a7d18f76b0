"""The ```console blocks of README and tutorial, run in the order of the page, as a newcomer would run them.

Each page gets a clone of the tree in which nothing is installed or built, and a fresh environment of Python, which
`pip install .` on the page fills. pip's cache is that of the user.
"""

from __future__ import annotations

import faulthandler
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import ROOT, console_blocks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PAGES = ("README.md", "docs/tutorial.md")
#: doctor's exit status where something is degraded, which is no fault of the page.
DEGRADED = 1


def in_environment(environment: Path) -> dict[str, str]:
    """Return the variables of a shell in which that environment is active, and nothing else of ours."""
    ours = ("PYTHON", "PYTEST", "AIOVFORK", "VIRTUAL_ENV", "MAKE", "MFLAGS")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    path = [
        part for part in os.environ["PATH"].split(os.pathsep) if Path(part) != Path(sys.executable).parent
    ]
    return {
        **variables,
        "PATH": os.pathsep.join([str(environment / "bin"), *path]),
        "DEMO_ARGS": "--quick --heap 64M",  # the page's command is `make demo`; its full length proves no more
    }


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Clone the tree, with what is not committed yet."""
    if not (ROOT / "aiovfork").is_dir():
        pytest.skip("tests of a wheel run without the package's folder")
    listing = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    names = subprocess.check_output(listing, cwd=ROOT, text=True).split("\0")
    clone = tmp_path / "clone"
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            (clone / name).write_bytes((ROOT / name).read_bytes())
            (clone / name).chmod((ROOT / name).stat().st_mode)
    for command in ("init -q", "add -A", "-c user.name=t -c user.email=t@localhost commit -qm clone"):
        subprocess.run(("git", *command.split()), cwd=clone, check=True)
    return clone


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run_in_order(page: str, clone: Path, tmp_path: Path) -> None:
    """In a fresh clone each command of the page ends well, and prints what the page says it prints."""
    environment = tmp_path / "environment"
    subprocess.run((sys.executable, "-m", "venv", str(environment)), check=True)
    faulthandler.cancel_dump_traceback_later()  # what compiles and installs may take longer than that
    blocks = console_blocks(ROOT / page)
    assert blocks
    for command, expected in blocks:
        ended = subprocess.run(
            ("bash", "-c", command),
            cwd=clone,
            env=in_environment(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        allowed = (0, DEGRADED) if "doctor" in command else (0,)
        assert ended.returncode in allowed, f"$ {command}\n{ended.stdout}\n{ended.stderr}"
        if expected:
            assert ended.stdout == expected, f"$ {command}"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_begins_with_the_installation(page: str) -> None:
    """No command of a page needs what a later one installs."""
    commands = [command for command, _ in console_blocks(ROOT / page)]
    installed = commands.index("pip install .")
    assert all(command == "make demo" for command in commands[:installed])
    assert "aiovfork doctor" in [command.partition("#")[0].strip() for command in commands[installed:]]
