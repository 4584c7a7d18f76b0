"""P8: what a spawn was asked for is what it was at the call, however long it is queued."""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
from typing import Any

import pytest

import aiovfork
from aiovfork import DEVNULL, PIPE
from tests.support.backends import LOOP_FACTORIES
from tests.support.hold import held
from tests.support.isolated import isolated
from tests.support.view import STOPPED, View, look_at
from tests.support.window import in_queue, reaped


async def _view(task: asyncio.Task[aiovfork.Process]) -> View:
    process = await task
    try:
        return look_at(process.pid)
    finally:
        process.kill()
        await process.wait()


@pytest.mark.usefixtures("engine_mode")
async def test_a_reused_number_does_not_reach_a_queued_spawn(tmp_path: pathlib.Path) -> None:
    """P8. A descriptor that is closed, and its number reused, while the spawn waits: the child has the old one."""
    (tmp_path / "given").write_text("given")
    (tmp_path / "secret").write_text("secret")
    given = os.open(tmp_path / "given", os.O_RDONLY)
    passed = os.open(tmp_path / "given", os.O_RDONLY)
    pass_fds = [passed]
    async with held(tmp_path) as hold:
        task, others = await in_queue(
            hold,
            lambda: aiovfork.create_subprocess_exec(
                "sh", "-c", f"cat; cat /dev/fd/{passed}", stdin=given, stdout=PIPE, pass_fds=pass_fds
            ),
        )
        pass_fds.clear()
        secret = os.open(tmp_path / "secret", os.O_RDONLY)
        for fd in (given, passed):
            os.close(fd)
            assert os.dup2(secret, fd) == fd
        hold.release()
        output, _ = await (await task).communicate()
        await reaped(*others)
    for fd in (given, passed, secret):
        os.close(fd)
    assert output == b"givengiven"


async def _reopen_standard_output(directory: str) -> list[str]:
    async with held(pathlib.Path(directory)) as hold:
        expected = os.readlink("/proc/self/fd/1")
        task, others = await in_queue(hold, lambda: aiovfork.create_subprocess_exec(*STOPPED))
        secret = os.open(pathlib.Path(directory) / "secret", os.O_RDWR | os.O_CREAT)
        saved = [os.dup(number) for number in range(3)]
        for number in range(3):
            os.dup2(secret, number)
        hold.release()
        process = await task
        look_at(process.pid)
        found = [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in range(3)]
        for number, old in enumerate(saved):
            os.dup2(old, number)
            os.close(old)
        os.close(secret)
        process.kill()
        await process.wait()
        await reaped(*others)
    assert expected == found[1]
    return [target for target in found if "secret" in target]


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_standard_streams_that_are_reopened(loop: str, tmp_path: pathlib.Path) -> None:
    """P8. Descriptors 0 to 2 that are replaced while the spawn waits: the child has those of the call."""
    assert isolated(_reopen_standard_output, str(tmp_path), loop=loop) == []


class _Path(os.PathLike[str]):
    """A path that changes."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __fspath__(self) -> str:
        return self.text


@pytest.mark.usefixtures("engine_mode")
async def test_arguments_and_environment_are_those_of_the_call(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P8. What happens to the containers, to os.environ and to the mask while the spawn waits does not reach the child."""
    env = {"PATH": os.environ["PATH"], "GIVEN": "1"}
    path = _Path("given")
    argv: list[str | _Path] = [*STOPPED, path]
    monkeypatch.setenv("INHERITED", "at the call")
    async with held(tmp_path) as hold:
        explicit, others = await in_queue(hold, lambda: aiovfork.create_subprocess_exec(*argv, env=env))
        implicit = asyncio.ensure_future(aiovfork.create_subprocess_exec(*STOPPED))
        await asyncio.sleep(0)
        assert aiovfork.stats().queued == 2
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        env["GIVEN"], env["NEW"] = "2", "3"
        argv[:] = ["false"]
        path.text = "later"
        monkeypatch.setenv("INHERITED", "later")
        monkeypatch.setenv("SECRET", "later")
        hold.release()
        views = [await _view(explicit), await _view(implicit)]
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
        await reaped(*others)
    assert set(views[0].environ) == {
        b"GIVEN=1",
        os.fsencode(f"PATH={os.environ['PATH']}"),
        *_shells_own(views[0]),
    }
    assert b"INHERITED=at the call" in views[1].environ
    assert not any(entry.startswith(b"SECRET=") for entry in views[1].environ)
    assert [view.argv for view in views] == [
        tuple(map(os.fsencode, (*STOPPED, "given"))),
        tuple(map(os.fsencode, STOPPED)),
    ]
    for view in views:
        assert signal.SIGUSR2 not in view.signals("SigBlk")


def _shells_own(view: View) -> set[bytes]:
    """Return what a shell adds to its environment (PWD); the initial one is in /proc, so nothing."""
    return {entry for entry in view.environ if entry.startswith((b"PWD=", b"SHLVL=", b"_="))}


@pytest.mark.usefixtures("engine_mode")
async def test_no_descriptor_of_the_caller_reaches_a_child() -> None:
    """P8. Inheritable descriptors, low and high, open and opened meanwhile by others: the child has 0, 1 and 2 alone."""
    secrets = [os.open("/dev/zero", os.O_RDONLY) for _ in range(40)]
    for fd in secrets:
        os.set_inheritable(fd, True)
    high = os.dup2(secrets[0], 700, inheritable=True)

    opening = asyncio.Event()

    def open_and_close() -> None:
        while not opening.is_set():
            fd = os.open("/dev/zero", os.O_RDONLY)
            os.set_inheritable(fd, True)
            os.close(fd)

    opener = asyncio.create_task(asyncio.to_thread(open_and_close))
    try:
        for _ in range(20):
            task = asyncio.ensure_future(
                aiovfork.create_subprocess_exec(*STOPPED, stdin=DEVNULL, stdout=PIPE)
            )
            view = await _view(task)
            assert sorted(view.fds) == [0, 1, 2]
            assert "/dev/zero" not in view.fds.values()
    finally:
        opening.set()
        await opener
        for fd in [*secrets, high]:
            os.close(fd)


@pytest.mark.usefixtures("engine_mode")
async def test_no_variable_of_the_caller_reaches_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """P8. With env=, the child's environment is exactly that."""
    monkeypatch.setenv("SECRET", "value")
    env: dict[Any, Any] = {"ONLY": "this"}
    process = await aiovfork.create_subprocess_exec("/usr/bin/env", env=env, stdout=PIPE)
    assert list(await process.communicate()) == [b"ONLY=this\n", None]
