"""Environment, PATH, cwd and executable: which program runs, and what it is told."""

from __future__ import annotations

import os
import pathlib
import subprocess
from typing import Any

import pytest

from tests.support.backends import Spawner, compare, compare_error
from tests.support.view import STOPPED, view_of

pytestmark = pytest.mark.usefixtures("engine_mode")


@pytest.fixture
def place(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Make directories with programs that tell where they are, and go there.

    one/, two/: `tool`. text/: `tool` without #!. plain/: `tool` that may not be executed. file: no directory.
    """
    for name in ("one", "two", "text", "plain"):
        (tmp_path / name).mkdir()
        tool = tmp_path / name / "tool"
        tool.write_text(f"#!/bin/sh\necho {name} $0\n" if name != "text" else "echo text\n")
        tool.chmod(0o644 if name == "plain" else 0o755)
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _path(place: pathlib.Path, entries: str) -> str:
    """Make the entries of a PATH absolute, but for those in parentheses."""
    return ":".join(
        entry.strip("()") if entry.startswith("(") or not entry else str(place / entry)
        for entry in entries.split(":")
    )


@pytest.mark.parametrize(
    ("entries", "runs"),
    [
        ("one", "one"),
        ("one:two", "one"),
        ("two:one", "two"),
        ("missing:two", "two"),
        ("file:two", "two"),
        ("plain:two", "two"),
        ("text:two", "two"),
        ("missing:file:plain:text:two", "two"),
        ("(one)", "one"),
        ("(./two)", "two"),
        ("two/", "two"),
    ],
)
def test_each_entry_of_path_is_tried(place: pathlib.Path, entries: str, runs: str) -> None:
    """A program without a slash is tried in each entry, past those that fail."""

    async def body(spawn: Spawner) -> bytes:
        return await spawn.output("tool", env={"PATH": _path(place, entries)})

    assert compare(body).split()[0] == runs.encode()


@pytest.mark.parametrize(
    ("entries", "error"),
    [
        ("missing", FileNotFoundError),
        ("missing:file", NotADirectoryError),
        ("file:missing", FileNotFoundError),
        ("plain", PermissionError),
        ("plain:missing", PermissionError),
        ("missing:plain:file", PermissionError),
        ("plain:text", PermissionError),
        ("text:plain", OSError),
        ("missing:text:missing", OSError),
        ("", FileNotFoundError),
    ],
)
def test_the_error_of_a_search(place: pathlib.Path, entries: str, error: type[OSError]) -> None:
    """The first errno that is not ENOENT or ENOTDIR is reported, else the last one; filename is as given."""
    raised = compare_error(lambda spawn: spawn.exec("tool", env={"PATH": _path(place, entries)}))
    assert (raised.type, raised.filename) == (error, "tool")


def test_path_is_that_of_the_passed_environment(place: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """env's own PATH finds the program, not the caller's; without env it is the caller's of that moment."""

    async def body(spawn: Spawner) -> list[bytes]:
        monkeypatch.setenv("PATH", f"{place}/one:/usr/bin:/bin")
        found = [await spawn.output("tool"), await spawn.output("tool", env={"PATH": f"{place}/two"})]
        monkeypatch.setenv("PATH", f"{place}/two:/usr/bin:/bin")
        return [*found, await spawn.output("tool")]

    assert [line.split()[0] for line in compare(body)] == [b"one", b"two", b"two"]


@pytest.mark.parametrize("env", [{}, {"A": "B"}], ids=str)
def test_without_path_in_the_environment(place: pathlib.Path, env: dict[str, str]) -> None:
    """An env without PATH means os.defpath: neither the caller's PATH nor the current directory."""
    del place
    assert compare(lambda spawn: spawn.output("echo", "found", env=env)) == b"found\n"
    assert compare_error(lambda spawn: spawn.exec("tool", env=env)).type is FileNotFoundError


def test_without_path_in_the_own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller without PATH finds programs in os.defpath."""
    monkeypatch.delenv("PATH")
    assert compare(lambda spawn: spawn.output("echo", "found")) == b"found\n"


def test_an_empty_entry_of_path(place: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty entry is the current directory."""
    monkeypatch.chdir(place / "one")

    async def body(spawn: Spawner) -> list[bytes]:
        return [
            await spawn.output("tool", env={"PATH": path}) for path in (":/bin", "/bin:", "/bin::/usr/bin")
        ]

    assert [line.split()[0] for line in compare(body)] == [b"one"] * 3


def test_path_as_bytes(place: pathlib.Path) -> None:
    """An env of bytes has its PATH in bytes."""
    env = {b"PATH": os.fsencode(place / "two")}
    assert compare(lambda spawn: spawn.output("tool", env=env)).split()[0] == b"two"


def test_path_twice() -> None:
    """An env with PATH both as str and bytes is refused where it decides what runs."""
    env: dict[Any, str] = {"PATH": "/bin", b"PATH": "/usr/bin"}
    assert compare_error(lambda spawn: spawn.exec("true", env=env)).type is ValueError


def test_cwd_applies_before_a_relative_program_is_found(place: pathlib.Path) -> None:
    """./program and dir/program are relative to cwd, and so are relative entries of PATH."""

    async def body(spawn: Spawner) -> list[bytes]:
        return [
            await spawn.output("./tool", cwd=place / "one"),
            await spawn.output("two/tool", cwd=place),
            await spawn.output("../two/tool", cwd="one"),
            await spawn.output("tool", cwd=place / "two", env={"PATH": "."}),
            await spawn.output("tool", cwd=place / "two", env={"PATH": ""}),
        ]

    assert [line.split()[0] for line in compare(body)] == [b"one", b"two", b"two", b"two", b"two"]
    # What is there from the caller's directory is not found from cwd.
    assert compare_error(lambda spawn: spawn.exec("one/tool", cwd="/")).type is FileNotFoundError


def test_text_without_an_interpreter_is_never_given_to_a_shell(place: pathlib.Path) -> None:
    """A file without #! is OSError 8 (ENOEXEC), on PATH or by its name."""
    for program in ("text/tool", "tool"):
        raised = compare_error(lambda spawn: spawn.exec(program, env={"PATH": f"{place}/text"}))  # noqa: B023
        assert raised.errno == 8


def test_executable_replaces_the_program_and_argv0_stays(place: pathlib.Path) -> None:
    """executable= is what runs; argv[0] is what the child believes to be called."""

    async def body(spawn: Spawner) -> list[Any]:
        argv = ("-weird name", *STOPPED[1:])
        absolute = await view_of(spawn, *argv, executable="/bin/sh")
        searched = await view_of(spawn, *argv, executable="sh")
        relative = await view_of(spawn, *argv, executable=b"./sh", cwd="/bin")
        as_path = await view_of(spawn, *argv, executable=pathlib.Path("/bin/sh"))
        assert absolute.executable == searched.executable == relative.executable == as_path.executable
        return [
            absolute.executable,
            absolute.argv[0],
            await spawn.output("x", executable=place / "one" / "tool"),
        ]

    executable, argv0, line = compare(body)
    assert executable == os.path.realpath("/bin/sh")
    assert argv0 == b"-weird name"
    assert line.split() == [b"one", os.fsencode(place / "one/tool")]


def test_executable_of_a_shell_command() -> None:
    """executable= of create_subprocess_shell is the shell."""

    async def body(spawn: Spawner) -> bytes:
        process = await spawn.shell("a 'b c'", executable="/bin/echo", stdout=subprocess.PIPE)
        return (await process.communicate())[0]

    assert compare(body) == b"-c a 'b c'\n"


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"A": "1", "B": "", "Ü": "ü", "with space": "a=b=c"},
        {b"A\xff": b"\xfe", b"B": b"x"},
        {"A": pathlib.Path("/p"), "B": b"bytes"},
    ],
    ids=str,
)
def test_env_is_the_whole_environment(env: dict[Any, Any]) -> None:
    """The child has exactly env, in its order and encoding."""

    async def body(spawn: Spawner) -> tuple[bytes, ...]:
        return (await view_of(spawn, env=env)).environ

    expected = tuple(os.fsencode(key) + b"=" + os.fsencode(value) for key, value in env.items())
    assert compare(body) == expected


def test_the_own_environment_is_inherited_as_it_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without env a child has os.environ of the moment: variables set, changed and deleted."""

    async def body(spawn: Spawner) -> list[list[bytes]]:
        found = []
        for value in ("first", "second\udcff", None):
            if value is None:
                monkeypatch.delenv("AIOVFORK_TEST")
            else:
                monkeypatch.setenv("AIOVFORK_TEST", value)
            environ = (await view_of(spawn)).environ
            assert set(environ) >= {b"%s=%s" % item for item in os.environb.items()}
            found.append([item for item in environ if item.startswith(b"AIOVFORK_TEST=")])
        return found

    assert compare(body) == [[b"AIOVFORK_TEST=first"], [b"AIOVFORK_TEST=second\xff"], []]


def test_what_c_code_has_set_is_inherited() -> None:
    """Without env a child has the process' environment, and what setenv(3) changed behind os.environ."""

    async def body(spawn: Spawner) -> list[bytes]:
        os.putenv("AIOVFORK_PUT", "1")
        try:
            return [item for item in (await view_of(spawn)).environ if item.startswith(b"AIOVFORK_PUT=")]
        finally:
            os.unsetenv("AIOVFORK_PUT")

    assert compare(body) == [b"AIOVFORK_PUT=1"]


def test_any_mapping_is_an_environment() -> None:
    """env may be any mapping, os.environ itself included."""

    async def body(spawn: Spawner) -> list[tuple[bytes, ...]]:
        mappings = [os.environ, os.environb, os.environ.copy()]
        return [(await view_of(spawn, env=mapping)).environ for mapping in mappings]

    views = compare(body)
    assert views[0] == views[1] == views[2]
