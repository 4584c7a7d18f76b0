"""Arguments: what is accepted, what is refused, and with which exception."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.backends import Spawner, compare, compare_error
from tests.support.view import view_of

ENTRIES: dict[str, Callable[..., Any]] = {
    "exec": lambda spawn, **options: spawn.exec("true", **options),
    "shell": lambda spawn, **options: spawn.shell("true", **options),
    "protocol exec": lambda spawn, **options: spawn.protocol_exec(
        asyncio.SubprocessProtocol, "true", **options
    ),
    "protocol shell": lambda spawn, **options: spawn.protocol_shell(
        asyncio.SubprocessProtocol, "true", **options
    ),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize(
    "option",
    [
        {"text": True},
        {"encoding": "utf-8"},
        {"errors": "strict"},
        {"universal_newlines": True},
        {"bufsize": 1},
        {"bufsize": -1},
        {"universal_newlines": True, "bufsize": 1, "text": True},
        {"bufsize": 1, "text": True, "encoding": "utf-8"},
    ],
    ids=str,
)
def test_text_and_buffering_are_refused(entry: str, option: dict[str, Any]) -> None:
    """ValueError for text, encoding, errors, universal_newlines and bufsize, in asyncio's order and words."""
    raised = compare_error(lambda spawn: ENTRIES[entry](spawn, **option))
    assert raised.type is ValueError


@pytest.mark.parametrize(
    ("entry", "shell"),
    [
        ("exec", True),
        ("exec", 1),
        ("protocol exec", True),
        ("shell", False),
        ("shell", None),
        ("shell", 0),
        ("protocol shell", False),
    ],
)
def test_shell_of_the_wrong_kind_is_refused(entry: str, shell: object) -> None:
    """ValueError for shell=True with exec, and for shell=False with shell."""
    raised = compare_error(lambda spawn: ENTRIES[entry](spawn, shell=shell))
    assert raised.type is ValueError


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_values_that_mean_nothing_are_accepted(entry: str) -> None:
    """The refused options may be given with the values that change nothing."""

    async def body(spawn: Spawner) -> None:
        await ENTRIES[entry](
            spawn,
            text=False,
            encoding=None,
            errors=None,
            universal_newlines=False,
            bufsize=0,
            shell="shell" in entry,
            startupinfo=None,
            creationflags=0,
            preexec_fn=None,
            user=None,
            group=None,
            extra_groups=None,
        )

    compare(body)


@pytest.mark.parametrize(
    "cmd", [3, None, ["true"], pathlib.Path("true"), memoryview(b"true")], ids=lambda cmd: type(cmd).__name__
)
def test_a_shell_command_is_str_or_bytes(cmd: object) -> None:
    """ValueError for a shell command of another type."""
    raised = compare_error(lambda spawn: spawn.shell(cmd))
    assert raised.type is ValueError


def test_unknown_options_are_refused() -> None:
    """TypeError for an option that does not exist."""

    async def body(spawn: Spawner) -> str:
        with pytest.raises(TypeError, match="no_such_option") as info:
            await spawn.exec("true", no_such_option=1)
        return info.type.__name__

    compare(body)


@pytest.mark.parametrize(
    ("place", "odd"),
    [
        (place, odd)
        for place in ("program", "argument", "executable", "cwd", "env value", "env key")
        for odd in (3, None, 1.5, ["x"], object)
        if odd is not None or place not in {"executable", "cwd"}  # None is their default
        if (place, odd) != ("cwd", 3)  # a descriptor, here
    ],
    ids=str,
)
def test_an_argument_of_another_type_is_refused(place: str, odd: object) -> None:
    """TypeError for what is not str, bytes or PathLike."""

    async def body(spawn: Spawner) -> object:
        match place:
            case "program":
                return await spawn.exec(odd)
            case "argument":
                return await spawn.exec("true", "fine", odd)
            case "env value":
                return await spawn.exec("true", env={"A": odd})
            case "env key":
                return await spawn.exec("true", env={None if isinstance(odd, list) else odd: "A"})
            case _:
                return await spawn.exec("true", **{place: odd})

    assert compare_error(body).type is TypeError


@pytest.mark.parametrize(
    "option",
    [
        {"pass_fds": ["x"]},
        {"pass_fds": [-1]},
        {"pass_fds": [2**40]},
        {"pass_fds": 3},
        {"process_group": "x"},
        {"umask": "x"},
        {"umask": 2**40},
        {"pipesize": "x"},
        {"env": ["A=B"]},
        {"env": 3},
        {"startupinfo": "x"},
        {"creationflags": 8},
        {"stdin": "x"},
        {"stdin": object},
        {"stdout": 1.5},
        {"stdout": 2**40},
        {"stderr": b"x"},
    ],
    ids=str,
)
def test_an_option_of_a_wrong_kind_is_refused(option: dict[str, Any]) -> None:
    """The options of Popen are refused with Popen's exception types."""

    async def body(spawn: Spawner) -> str:
        with pytest.raises((TypeError, ValueError, AttributeError, OverflowError)) as info:
            await spawn.exec("true", **option)
        return info.type.__name__

    compare(body)


def test_a_closed_file_as_stdio_is_refused() -> None:
    """A file object without a descriptor raises what its fileno() raises."""

    async def body(spawn: Spawner) -> None:
        with open("/dev/null", "rb") as file:
            pass
        await spawn.exec("true", stdin=file)

    assert compare_error(body).type is ValueError


def _with_nul(place: str, spawn: Spawner) -> Any:
    match place:
        case "program":
            return spawn.exec("tr\0ue")
        case "program with a slash":
            return spawn.exec("/bin/tr\0ue")
        case "argument":
            return spawn.exec("true", "a", b"b\0c")
        case "executable":
            return spawn.exec("true", executable="/bin/\0true")
        case "env key":
            return spawn.exec("true", env={"A\0B": "C"})
        case "env value":
            return spawn.exec("true", env={"A": "B\0C"})
        case "cwd":
            return spawn.exec("true", cwd="/\0")
        case "shell command":
            return spawn.shell("tr\0ue")
        case _:
            raise AssertionError(place)


@pytest.mark.parametrize(
    "place",
    [
        "program",
        "program with a slash",
        "argument",
        "executable",
        "env key",
        "env value",
        "cwd",
        "shell command",
    ],
)
def test_nul_is_refused(place: str) -> None:
    """ValueError for NUL in any argument and in env: the kernel would cut the string there."""

    async def body(spawn: Spawner) -> str:
        # The words differ where CPython 3.13 takes posix_spawn instead of fork_exec.
        with pytest.raises(ValueError, match="embedded null") as info:
            await _with_nul(place, spawn)
        return info.type.__name__

    compare(body)


@pytest.mark.parametrize("key", ["A=B", b"A=B", "=", "=A"], ids=repr)
def test_equals_sign_in_an_environment_key_is_refused(key: str | bytes) -> None:
    """ValueError for `=` in a key of env: it would name another variable."""
    raised = compare_error(lambda spawn: spawn.exec("true", env={key: "C"}))
    assert raised.type is ValueError


def test_str_bytes_and_paths_are_arguments() -> None:
    """Program, arguments and cwd are str, bytes or PathLike, mixed; what cannot be decoded survives."""

    async def body(spawn: Spawner) -> tuple[bytes, ...]:
        args = ("kill -STOP $$", b"b\xff", "s\udcfe", pathlib.Path("/p"), "", "ü", "a b")
        first = await view_of(spawn, "/bin/sh", "-c", *args)
        second = await view_of(spawn, b"/bin/sh", b"-c", *args, cwd=b"/")
        third = await view_of(spawn, pathlib.Path("/bin/sh"), "-c", *args, cwd=pathlib.Path("/"))
        assert first.argv == second.argv == third.argv
        assert second.cwd == third.cwd == "/"
        return first.argv

    argv = compare(body)
    assert argv[3:] == (b"b\xff", b"s\xfe", b"/p", b"", "ü".encode(), b"a b")


def test_many_long_arguments() -> None:
    """Thousands of arguments and a hundred kilobytes in one of them arrive whole."""

    async def body(spawn: Spawner) -> list[bytes]:
        args = [f"argument {number}" for number in range(5_000)]
        return (await spawn.output("printf", "%s\\n", *args, "x" * 100_000)).splitlines()

    lines = compare(body)
    assert len(lines) == 5_001
    assert lines[-1] == b"x" * 100_000
