"""The checks that need an environment of their own. `make` serves the daily round in .venv.

`nox -s package` comes first: the test sessions install what it built, and run in a copy of the tree
without the package's folder, so that nothing but the installed package can answer.
"""

import os
import shutil
import subprocess
from pathlib import Path

import nox

nox.needs_version = ">=2025.2"
nox.options.sessions = ["lint", "types", "docs"]

ROOT = Path(__file__).parent
DIST = ROOT / "dist"
PYTHONS = ["3.13", "3.12", "3.11"]
# What tells whether a build, an engine or a report mode works at all; most other tests go through all modes.
CORE_TESTS = [
    "tests/project/test_examples.py",
    "tests/project/test_public_api.py",
    "tests/safety/test_cancellation.py",
    "tests/safety/test_collector.py",
    "tests/semantics/test_cancellation.py",
    "tests/semantics/test_errors.py",
    "tests/semantics/test_fd_tables.py",
    "tests/semantics/test_stdio.py",
]

# What AddressSanitizer cannot live with, so that a failure would be its own.
NOT_UNDER_ASAN = [
    "tests/faults/test_limits.py",  # it needs more memory, threads and static TLS than these leave
    "tests/faults/test_sandbox.py::test_neither_close_range_nor_proc",  # it reads /proc
    "tests/safety/test_fork.py",  # its locks are not ready for a fork beside threads
    "tests/safety/test_collector.py::test_fork_with_captures_under_way",
    "tests/safety/test_collector.py::test_no_memory",
    "tests/safety/test_collector.py::test_no_address_space_for_a_copy",
]


def built(pattern: str) -> str:
    """The one file in dist that matches."""
    files = list(DIST.glob(pattern))
    if len(files) != 1:
        message = f"dist holds {len(files)} files {pattern}: run `nox -s package` first"
        raise SystemExit(message)
    return str(files[0])


def tree_without_package(session: nox.Session) -> Path:
    """A copy of the project without aiovfork/."""
    listing = subprocess.check_output(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True
    )
    copy = Path(session.create_tmp(), "tree")
    shutil.rmtree(copy, ignore_errors=True)
    for name in filter(None, listing.split("\0")):
        if name.startswith("aiovfork/") or not (ROOT / name).is_file():
            continue
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    return copy


def run_tests(session: nox.Session, *arguments: str, env: dict[str, str] | None = None) -> None:
    """Run pytest on the installed package; AIOVFORK_JUNIT names a folder for the counts."""
    session.chdir(tree_without_package(session))
    check = "import aiovfork; assert 'site-packages' in aiovfork.__file__, aiovfork.__file__"
    session.run("python", "-c", check, env=env)
    if folder := os.environ.get("AIOVFORK_JUNIT"):
        stage = os.environ.get("AIOVFORK_STAGE", session.name)
        arguments = (*arguments, f"--junitxml={folder}/{stage}.xml")
    session.run("python", "-m", "pytest", "-n", "2", *arguments, *session.posargs, env=env)


def test_groups() -> list[str]:
    """What the tests need beside the package."""
    return ["--group", "test", "--group", "bench"]


@nox.session
def lint(session: nox.Session) -> None:
    """Style and layout of Python and C, and the thread tag of every C function."""
    session.install("--group", "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    folders = (ROOT / "csrc", ROOT / "tools")
    sources = [str(file) for folder in folders for file in sorted(folder.rglob("*.[ch]"))]
    session.run("clang-format", "--dry-run", "-Werror", *sources)
    session.run("python", "tools/thread_tags.py", "csrc")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy --strict over everything that is Python, as each version sees the standard library."""
    session.install("--group", "types", "cffi>=2.0")
    for version in PYTHONS:
        session.run("mypy", "--python-version", version)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation without a warning."""
    session.install("--group", "docs", ".")
    session.run("sphinx-build", "-W", "-n", "--keep-going", "-q", "docs", "docs/_build")


@nox.session
def package(session: nox.Session) -> None:
    """An sdist, and from it the abi3 wheel. Choose the oldest Python: --force-python 3.11."""
    session.install("--group", "package")
    for old in DIST.glob("aiovfork-*"):
        old.unlink()
    session.run("python", "-m", "build", "-Csetup-args=-Dwerror=true", "--outdir", str(DIST))
    session.run("abi3audit", "--strict", "--summary", built("*.whl"))


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Every test on the newest Python, the fast ones on the others; on the wheel."""
    session.install(*test_groups(), built("*.whl"))
    run_tests(session, *([] if session.python == PYTHONS[0] or session.posargs else ["-m", "not slow"]))


@nox.session
def sdist(session: nox.Session) -> None:
    """The core's tests, on a build from the sdist."""
    session.install(*test_groups(), built("*.tar.gz"))
    run_tests(session, "-m", "not slow", *CORE_TESTS)


@nox.session
def sanitizers(session: nox.Session) -> None:
    """The core's tests, on a build with AddressSanitizer and UndefinedBehaviorSanitizer."""
    session.install("--group", "build", *test_groups())
    session.install(
        "--no-build-isolation",
        "-Csetup-args=-Dbuildtype=debugoptimized",
        "-Csetup-args=-Db_sanitize=address,undefined",
        "-Csetup-args=-Db_lundef=false",
        ".",
    )
    library = subprocess.check_output(["gcc", "-print-file-name=libasan.so"], text=True).strip()
    signals = ["segv", "sigbus", "abort", "sigill", "sigfpe"]
    options = [
        "detect_leaks=0",  # CPython itself leaks at exit
        "detect_stack_use_after_return=0",  # the child has a stack of its own
        # Children inherit LD_PRELOAD, and die by such signals on purpose.
        *(f"handle_{name}=0" for name in signals),
    ]
    env = {
        "LD_PRELOAD": library,
        "ASAN_OPTIONS": ":".join(options),
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    }
    deselected = [f"--deselect={name}" for name in NOT_UNDER_ASAN]
    run_tests(session, "-m", "not slow", *CORE_TESTS, *deselected, env=env)


@nox.session
def clang(session: nox.Session) -> None:
    """A build by clang, every warning an error, and tests of what each spawn goes through."""
    session.install("--group", "build", *test_groups())
    session.install("--no-build-isolation", "-Csetup-args=-Dwerror=true", ".[demo]", env={"CC": "clang"})
    run_tests(session, "-m", "not slow", "tests/semantics/test_errors.py", "tests/semantics/test_stdio.py")


@nox.session
def fuzz(session: nox.Session) -> None:
    """A minute of random plans for their check, the child's interpreter and the launcher."""
    session.run("python", "-m", "tools.fuzz", *session.posargs)


@nox.session
def valgrind(session: nox.Session) -> None:
    """A few spawns where vfork shares no memory."""
    session.install(built("*.whl"))
    session.run(
        "valgrind", "--quiet", "--error-exitcode=99", "python", "tools/under_valgrind.py",
        env={"PYTHONMALLOC": "malloc"}, external=True,
    )  # fmt: skip
