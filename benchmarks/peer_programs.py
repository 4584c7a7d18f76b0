"""The peers in other languages: built where their tool is present, run, and told about where it is not."""

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
_SOURCES = _HERE / "peers"
_BUILD = _HERE / "build"
_TIMEOUT = 300.0


@dataclasses.dataclass(frozen=True)
class Peer:
    """A program in peers/; `{source}` and `{binary}` stand for its files."""

    label: str
    source: str
    tool: str
    version: tuple[str, ...]
    build: tuple[str, ...] = ()
    run: tuple[str, ...] = ("{binary}",)


LIMIT = Peer(
    "C posix_spawn",
    "climit.c",
    "cc",
    ("cc", "--version"),
    ("cc", "-O2", "-Wall", "-Wextra", "-pthread", "-o", "{binary}", "{source}"),
)
RUST = Peer(
    "Rust std",
    "spawn.rs",
    "rustc",
    ("rustc", "--version"),
    ("rustc", "-O", "--edition", "2021", "-o", "{binary}", "{source}"),
)
GO = Peer("Go os/exec", "spawn.go", "go", ("go", "version"), ("go", "build", "-o", "{binary}", "{source}"))
NODE = Peer("Node", "spawn.mjs", "node", ("node", "--version"), run=("node", "{source}"))
SPAWNING = (LIMIT, RUST, GO, NODE)
CAPTURE_LIMIT = dataclasses.replace(LIMIT, label="C, captured", source="capture.c")
CAPTURING = (CAPTURE_LIMIT, RUST, GO, NODE)
ALL = (*SPAWNING, CAPTURE_LIMIT)


def _command(peer: Peer, words: tuple[str, ...]) -> list[str]:
    source = _SOURCES / peer.source
    binary = _BUILD / source.name.replace(".", "-")
    return [word.format(source=source, binary=binary) for word in words]


def build(peer: Peer) -> str | None:
    """Build a peer if it is older than its source. Returns its tool's version, or None without the tool.

    Raises:
        subprocess.CalledProcessError: The tool is there and failed.
    """
    if shutil.which(peer.tool) is None:
        return None
    version = subprocess.run(peer.version, check=True, capture_output=True, text=True, timeout=_TIMEOUT)
    if peer.build:
        binary = Path(_command(peer, ("{binary}",))[0])
        _BUILD.mkdir(exist_ok=True)
        if not binary.exists() or binary.stat().st_mtime < (_SOURCES / peer.source).stat().st_mtime:
            subprocess.run(_command(peer, peer.build), check=True, timeout=_TIMEOUT, cwd=_BUILD)
    return version.stdout.splitlines()[0]


def run(peer: Peer, arguments: tuple[str, ...]) -> dict[str, Any]:
    """Let a peer spawn; its line of JSON."""
    command = [*_command(peer, peer.run), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT)
    values: dict[str, Any] = json.loads(done.stdout)
    return values
