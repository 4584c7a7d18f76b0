"""Fuzzes the check of a plan, the child's interpreter and the launcher, over a fake kernel (plan.c).

Needs clang with its libFuzzer. Starts from the corpus beside this file. An input that breaks something is
printed, and kept in the folder of --findings. `--grow` adds inputs that reach new code to the corpus;
`--seeds` writes its first inputs anew, after a change of the plan's layout.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CORPUS = HERE / "corpus"
SANITIZERS = "address,undefined"
FLAGS = [
    *("-std=gnu11", "-D_GNU_SOURCE", "-g", "-O1", "-Wall", "-Wextra", "-Werror"),
    *(f"-I{ROOT / 'csrc'}", f"-I{HERE}", '-DAVF_FAKE_KERNEL="fake_kernel.h"'),
    *(f"-fsanitize=fuzzer-no-link,{SANITIZERS}", "-fno-sanitize-recover=undefined"),
]


def build(folder: Path) -> Path:
    """Compile the code under test with its harness; return the program."""
    csrc = ROOT / "csrc"
    objects: list[Path] = []
    for source in (csrc / "child.c", csrc / "plan.c", csrc / "launcher.c", HERE / "plan.c"):
        made = folder / f"{len(objects)}.o"
        subprocess.run(["clang", *FLAGS, "-Dmain=launcher_main", "-c", source, "-o", made], check=True)
        objects.append(made)
    program = folder / "fuzz"
    subprocess.run(["clang", f"-fsanitize=fuzzer,{SANITIZERS}", *objects, "-o", program], check=True)
    return program


def main() -> int:
    """Fuzz for some seconds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=60, help="how long (default: %(default)s)")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"), help="where crashes are put")
    parser.add_argument("--grow", action="store_true", help="add new inputs to the corpus, as few as will do")
    parser.add_argument("--seeds", action="store_true", help="write the first inputs anew, and end")
    options = parser.parse_args()
    if options.seeds:
        from tools.fuzz.seeds import write  # noqa: PLC0415  # needs aiovfork

        write(CORPUS)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        program = build(Path(folder))
        found = Path(folder, "found")
        shutil.copytree(CORPUS, found)
        options.findings.mkdir(exist_ok=True)
        limits = [f"-max_total_time={options.seconds}", "-timeout=10", "-print_final_stats=1"]
        command = [str(program), *limits, f"-artifact_prefix={options.findings}/", str(found)]
        status = subprocess.run(command, check=False).returncode
        if options.grow and status == 0:
            shutil.rmtree(CORPUS)
            CORPUS.mkdir()
            subprocess.run([program, "-merge=1", CORPUS, found], check=True)
    if not any(options.findings.iterdir()):
        options.findings.rmdir()
    return status


if __name__ == "__main__":
    sys.exit(main())
