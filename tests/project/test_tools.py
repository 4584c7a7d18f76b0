"""The checks of the build can fail: each is shown something good and something bad."""

import subprocess
import sys
from pathlib import Path

import pytest

from tools.reach import __main__ as reach

TOOLS = Path(__file__).parents[2] / "tools"

TAGGED = """\
/* DESIGN: a sample. */
#define INLINE static inline __attribute__((always_inline))

/* THREAD worker|child. RETURNS its argument. */
INLINE int same(int value)
{
    return value;
}

/* What it is for.
 * THREAD loop or any, under the lock. */
const char *
name_of(int (*callback)(void), struct thing *thing)
{
    return thing->name;
}
"""

UNTAGGED = """\
static int silent(void)
{
    return 0;
}

/* Says nothing of threads. */
int mute(void)
{
    return 0;
}

/* THREAD main. */
int wrong(void)
{
    return 0;
}

/* THREAD any. */

int apart(void)
{
    return 0;
}
"""


def run(tool: str, *arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a tool as the build does."""
    command = [sys.executable, str(TOOLS / tool), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env or None)


def compile_object(folder: Path, source: str) -> Path:
    """Compile C to an object file."""
    output = folder / "sample.o"
    command = ["cc", "-c", "-O2", "-ffreestanding", "-fno-stack-protector", "-x", "c", "-", "-o", str(output)]
    subprocess.run(command, input=source, text=True, check=True)
    return output


def test_thread_tags_accept_tagged_functions(tmp_path: Path) -> None:
    """Functions with a tag directly above them pass, whatever the rest of the comment says."""
    (tmp_path / "good.c").write_text(TAGGED)
    done = run("thread_tags.py", tmp_path)
    assert done.returncode == 0, done.stdout
    assert "2 functions in 1 files" in done.stdout


def test_thread_tags_name_every_untagged_function(tmp_path: Path) -> None:
    """A missing comment, tag or blank line, and an unknown thread, are named by file and line."""
    sample = tmp_path / "bad.h"
    sample.write_text(UNTAGGED)
    done = run("thread_tags.py", tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"{sample}:1: silent: no comment directly above",
        f"{sample}:7: mute: the comment above has no THREAD tag",
        f"{sample}:13: wrong: THREAD main is none of any, child, collector, loop, reaper, worker",
        f"{sample}:20: apart: no comment directly above",
    ]


@pytest.mark.parametrize("source", ["int broken( {\n", ""], ids=["not C", "no function"])
def test_thread_tags_do_not_pass_what_they_cannot_see(tmp_path: Path, source: str) -> None:
    """A file that cannot be parsed, and a folder without any function, are errors."""
    (tmp_path / "odd.c").write_text(source)
    assert run("thread_tags.py", tmp_path).returncode == 1


def test_symbol_gate_passes_freestanding_code(tmp_path: Path) -> None:
    """Code without an undefined symbol passes, and leaves the stamp that the build waits for."""
    good = compile_object(tmp_path, "int twice(int value) { return 2 * value; }")
    done = run("symbol_gate.py", good, "--stamp", tmp_path / "stamp")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "stamp").exists()


@pytest.mark.parametrize(
    ("source", "symbol"),
    [
        ('int puts(const char *); int call(void) { return puts(""); }', "puts"),
        ("extern __thread int errno_of; int read_tls(void) { return errno_of; }", "errno_of"),
        ("__attribute__((weak)) int maybe(void); int ask(void) { return maybe ? maybe() : 0; }", "maybe"),
    ],
    ids=["call of libc", "thread-local storage", "weak symbol"],
)
def test_symbol_gate_names_what_is_undefined(tmp_path: Path, source: str, symbol: str) -> None:
    """An undefined symbol of any kind fails the build, is named, and leaves no stamp."""
    bad = compile_object(tmp_path, source)
    done = run("symbol_gate.py", bad, "--stamp", tmp_path / "stamp", "--machine", "x86_64")
    assert done.returncode == 1
    assert symbol in done.stderr
    assert not (tmp_path / "stamp").exists()


def test_symbol_gate_only_warns_where_libc_makes_the_calls(tmp_path: Path) -> None:
    """On an architecture without assembly of ours, syscall() is undefined, and that is said."""
    object_file = compile_object(tmp_path, "long syscall(long, ...); long pid(void) { return syscall(39); }")
    done = run("symbol_gate.py", object_file, "--machine", "riscv64")
    assert done.returncode == 0
    assert "warning" in done.stdout


def test_symbol_gate_proves_nothing_from_nothing(tmp_path: Path) -> None:
    """A file without code, a file that is no object, and a missing nm fail."""
    assert run("symbol_gate.py", compile_object(tmp_path, "int data = 1;")).returncode == 1
    (tmp_path / "text").write_text("not an object file")
    assert run("symbol_gate.py", tmp_path / "text").returncode == 1
    assert run("symbol_gate.py", tmp_path / "sample.o", NM="/no/such/nm").returncode == 1


def test_set_up_check_names_what_is_missing(tmp_path: Path) -> None:
    """A missing compiler and a missing Python are one clear line each."""
    for name in ("sh", "uname"):
        (tmp_path / name).symlink_to(Path("/bin", name))
    done = run_check("python-none", PATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "aiovfork: no C compiler found (cc/gcc): install gcc",
        "aiovfork: no python-none found: install Python 3.11 or later, or say which with 'make PYTHON=...'",
    ]


def test_set_up_check_is_silent_where_nothing_is_missing() -> None:
    """The interpreter that runs the tests has all that a build needs."""
    done = run_check(sys.executable)
    assert (done.returncode, done.stderr) == (0, "")


def run_check(python: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the check that comes before `make` sets anything up."""
    command = ["/bin/sh", str(TOOLS / "check_setup.sh"), python]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env or None)


MESON = """\
child_args = cc.get_supported_arguments(
  '-ffreestanding',
  '-fno-such-flag-anywhere',
)
other_args = ['-Wall']
"""


def test_reach_reads_the_childs_flags_from_the_build(tmp_path: Path) -> None:
    """The flags of the child's file are those of meson.build, but for those that a compiler does not know."""
    flags = reach.child_flags(MESON)
    assert flags == ["-ffreestanding", "-fno-such-flag-anywhere"]
    compiler = reach.Compiler("cc", tmp_path)
    assert [flag for flag in flags if compiler.knows(flag)] == ["-ffreestanding"]
    with pytest.raises(reach.ReachError, match="child_args"):
        reach.child_flags("child_args = 1")


def test_reach_goes_on_after_a_failure_and_reports_it() -> None:
    """A compiler that fails or is not there is named, and the exit status is 1."""
    command = [sys.executable, "-m", "tools.reach", "false", "/no/such/compiler"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=TOOLS.parent)
    assert done.returncode == 1
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == [
        "FAILED false",
        "FAILED /no/such/compiler",
    ]
