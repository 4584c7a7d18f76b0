"""Compiles csrc for another architecture, with the flags of a build that is there already.

The extension cannot be linked without that architecture's Python, but every file of ours can be
compiled, and the child's object must pass the symbol gate there too. Run as `python -m tools.cross_compile`.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from tools import symbol_gate


def cross_command(entry: dict[str, str], compiler: str, output: Path) -> list[str]:
    """One command of compile_commands.json for another compiler; dependency files are left out."""
    words = shlex.split(entry["command"])
    source = Path(entry["directory"], entry["file"]).resolve()
    start = next(i for i, word in enumerate(words) if word.startswith("-"))
    flags = [
        word for word in words[start:] if word.startswith(("-I", "-D", "-W", "-f", "-O", "-std", "-pthread"))
    ]
    return [compiler, *flags, "-Werror", "-c", str(source), "-o", str(output)]


def main() -> int:
    """Compile all of csrc with TRIPLET-gcc; then put the child's object through the gate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build", type=Path, help="a build directory with compile_commands.json")
    parser.add_argument("triplet", help="for instance aarch64-linux-gnu")
    options = parser.parse_args()

    entries = json.loads((options.build / "compile_commands.json").read_text())
    ours = [entry for entry in entries if Path(entry["file"]).parent.name == "csrc"]
    if not ours:
        print(f"{options.build}: its compile_commands.json names no file of csrc", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        for entry in ours:
            output = Path(folder, Path(entry["file"]).stem + ".o")
            command = cross_command(entry, f"{options.triplet}-gcc", output)
            if subprocess.run(command, cwd=entry["directory"], check=False).returncode:
                return 1
        print(f"{options.triplet}: {len(ours)} files compiled without a warning")
        machine = options.triplet.partition("-")[0]
        status, line = symbol_gate.judge(Path(folder, "child.o"), f"{options.triplet}-nm", machine)
    print(line)
    return status


if __name__ == "__main__":
    sys.exit(main())
