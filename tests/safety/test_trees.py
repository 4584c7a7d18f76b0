"""Nobody of a child's tree outlives its end, whatever the descendants do; and nobody else is signalled."""

from __future__ import annotations

import asyncio
import ctypes
import functools
import gc
import os
import pathlib
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import aiovfork
from aiovfork import _binding
from aiovfork._cgroup import Cgroup, _remove
from tests.support.backends import LOOP_FACTORIES
from tests.support.isolated import isolated
from tests.support.speakers import Speakers
from tests.support.trees import Trees, state, trees
from tests.support.window import until

SET_CHILD_SUBREAPER = 36
#: A child that exits, and leaves a descendant with its pipes.
LEAVES_ONE = "sleep 60 & say ready $!; exit 3"
#: What runs a descendant in a group of its own.
_OWN_GROUP = (
    "import os; os.setpgid(0, 0); os.write(3, b'ready %d\\n' % os.getpid()); "
    "os.execlp('sleep', 'sleep', '60')"
)
OTHER_GROUP = f"{sys.executable} -I -S -c {shlex.quote(_OWN_GROUP)}"
#: A child and a descendant that ignore SIGTERM.
IGNORES = "trap '' TERM; sleep 60 & say ready $!; wait"


@pytest.fixture(params=["pidfd", "number"], autouse=True)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run each test with groups signalled by pidfd, and as before Linux 6.9."""
    if request.param == "pidfd" and _binding.probe().pidfd_signal_group:
        pytest.skip("Linux before 6.9, or a filter")
    _binding.force(group=request.param)
    yield request.param
    _binding.force()


@pytest.fixture
def started() -> Iterator[Trees]:
    """Trees of the test's own."""
    with trees() as found:
        yield found


@pytest.fixture
def delegated() -> None:
    """Skip the test where this process cannot have a cgroup."""
    try:
        Cgroup.create().remove()
    except OSError as exc:
        pytest.skip(f"cgroup v2 is not delegated here: {exc}")


async def test_a_descendant_that_outlives_the_child(started: Trees) -> None:
    """stop() reaches what a child has left behind, after its exit was seen."""
    tree = await started.start(LEAVES_ONE, process_group=0)
    assert await tree.process.wait() == 3
    assert tree.alive
    assert await tree.process.stop(patience=60) == 3
    assert not tree.alive


async def test_output_is_kept(started: Trees) -> None:
    """What the tree has written until its end can be read."""
    tree = await started.start("echo hi; " + LEAVES_ONE, process_group=0, stdout=aiovfork.PIPE)
    await tree.process.stop()
    assert (await tree.process.communicate())[0] == b"hi\n"


async def test_one_that_ignores_the_signal(started: Trees) -> None:
    """Whoever is alive when the patience is over gets SIGKILL."""
    tree = await started.start(IGNORES, process_group=0)
    assert await tree.process.stop(patience=0.05) == -signal.SIGKILL
    assert not tree.alive
    tree.process._transport.close()


async def test_only_a_descendant_ignores_the_signal(started: Trees) -> None:
    """The child's own exit does not end the wait for the others, nor save them."""
    tree = await started.start("(trap '' TERM; say ready; exec sleep 60) & wait", process_group=0)
    assert await tree.process.stop(patience=0.05) == -signal.SIGTERM
    assert not tree.alive
    tree.process._transport.close()


async def test_a_stopped_child_hears_the_signal(started: Trees) -> None:
    """SIGCONT follows, so a stopped child can end as it likes."""
    tree = await started.start("trap 'exit 7' TERM; say ready; kill -STOP $$", process_group=0)
    await tree.stops()
    assert await tree.process.stop(patience=60) == 7
    tree.process._transport.close()


async def test_the_group_only(started: Trees) -> None:
    """A child that leads no group is ended alone: its group is its caller's, which gets no signal."""
    tree = await started.start(LEAVES_ONE.replace("exit 3", "wait"))
    assert await tree.process.stop() == -signal.SIGTERM
    assert tree.alive
    os.kill(int(tree.words[0]), signal.SIGKILL)
    await until(lambda: not tree.alive)
    tree.process._transport.close()


async def test_the_child_alone(started: Trees) -> None:
    """With tree=None the descendants live on; a later stop() reaches them."""
    tree = await started.start(LEAVES_ONE.replace("exit 3", "wait"), process_group=0)
    assert await tree.process.stop(tree=None) == -signal.SIGTERM
    assert tree.alive
    await tree.process.stop()
    tree.process._transport.close()


async def test_a_session(started: Trees) -> None:
    """tree="session" reaches the groups of a shell with job control; tree="group" does not."""
    tree = await started.start(f"{OTHER_GROUP} & wait", start_new_session=True)
    assert await tree.process.stop(tree="group") == -signal.SIGTERM
    assert tree.alive
    os.kill(int(tree.words[0]), signal.SIGKILL)
    tree.process._transport.close()
    tree = await started.start(f"{OTHER_GROUP} & wait", start_new_session=True)
    await tree.process.stop(tree="session")
    assert not tree.alive
    tree.process._transport.close()


async def test_a_session_whose_leader_has_exited(started: Trees) -> None:
    """Asked for at its creation, the session can be ended even when only another group of it is left."""
    ended = aiovfork.Teardown(tree="session")
    tree = await started.start(f"{OTHER_GROUP} & exit 3", start_new_session=True, teardown=ended)
    async with tree.process:
        assert await tree.process.wait() == 3
        assert tree.alive
    assert not tree.alive


async def test_a_cgroup(started: Trees, delegated: None) -> None:
    """tree="cgroup" catches those too that have left the group and the session."""
    tree = await started.start("setsid sleep 60 & say ready $!; exit 3", own_cgroup=True)
    assert await tree.process.wait() == 3
    assert tree.alive
    path = path_of_cgroup(int(tree.words[0]))
    await tree.process.stop()
    assert not tree.alive
    assert not path.exists()
    tree.process._transport.close()


async def test_a_cgroup_that_ignores_the_signal(started: Trees, delegated: None) -> None:
    """A cgroup is killed as a whole when the patience is over."""
    tree = await started.start(IGNORES, own_cgroup=True)
    assert await tree.process.stop(patience=0.05) == -signal.SIGKILL
    assert not tree.alive
    tree.process._transport.close()


@pytest.mark.parametrize("end", ["exit", "close", "async with", "forget", "fail"])
async def test_no_cgroup_is_left(started: Trees, delegated: None, end: str) -> None:
    """A child's cgroup is removed when the child is over, and when nobody has it any more."""
    before = set(cgroups())
    if end == "fail":
        with pytest.raises(FileNotFoundError):
            await aiovfork.create_subprocess_exec("/nowhere", own_cgroup=True)
    else:
        script = LEAVES_ONE if end == "forget" else "say ready; sleep 60"
        tree = await started.start(script, own_cgroup=True)
        assert set(cgroups()) != before
        if end == "exit":
            os.kill(tree.process.pid, signal.SIGKILL)
            await tree.process.wait()
        elif end == "close":
            tree.process._transport.close()
            await tree.process.wait()
        elif end == "async with":
            async with tree.process:
                pass
        else:
            await tree.process.wait()
            assert tree.alive
        del tree
    await until(lambda: set(cgroups()) == before)


async def test_a_detached_run_in_a_cgroup(tmp_path: pathlib.Path, delegated: None) -> None:
    """A run in a cgroup that on_cancel="detach" lets go on does so, and whatever it has started."""
    with Speakers() as witness:
        go_on = tmp_path / "go on"
        os.mkfifo(go_on)
        script = f"echo ready >&2; read word < '{go_on}'; echo $word >&2"
        task = asyncio.ensure_future(
            aiovfork.run_shell(script, stderr=witness.fd, tree="cgroup", on_cancel="detach")
        )
        assert await witness.line() == "ready"
        await until(lambda: aiovfork.stats().capturing)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        gc.collect()
        for thread in threading.enumerate():
            if thread.name == "aiovfork-cgroup":
                await asyncio.to_thread(thread.join)
        await asyncio.to_thread(go_on.write_text, "went on\n")
        assert await witness.line() == "went on"
        await witness.end()
    for name in cgroups():  # it was left to the child, which may be about to exit
        await until(functools.partial(_remove, os.path.join(own_cgroup(), name)))


async def test_a_cgroup_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """The spawn fails, with the step "cgroup", and nothing runs outside of one."""
    monkeypatch.setattr("aiovfork._cgroup._own_directory", lambda: "/proc")
    with pytest.raises(aiovfork.SpawnError) as info:
        await aiovfork.create_subprocess_exec("true", own_cgroup=True)
    assert info.value.step == "cgroup"


def path_of_cgroup(pid: int) -> pathlib.Path:
    """The directory of a process' cgroup."""
    name = pathlib.Path(f"/proc/{pid}/cgroup").read_text().rstrip().rpartition("/")[2]
    return pathlib.Path(own_cgroup(), name)


def own_cgroup() -> str:
    """The directory of this process' cgroup."""
    from aiovfork._cgroup import _own_directory  # noqa: PLC0415

    return _own_directory()


def cgroups() -> list[str]:
    """The cgroups that this process has made."""
    return [name for name in os.listdir(own_cgroup()) if name.startswith(f"aiovfork-{os.getpid()}-")]


@pytest.mark.parametrize("times", [1, 20])
async def test_a_cancelled_stop_kills_at_once(started: Trees, times: int) -> None:
    """A cancellation ends the patience: all are killed, and dead when it propagates, however often it comes."""
    tree = await started.start(IGNORES, process_group=0)
    task = asyncio.ensure_future(tree.process.stop(patience=600))
    await asyncio.sleep(0)
    while times > 0 and not task.done():
        task.cancel()
        await asyncio.sleep(0)
        times -= 1
    with pytest.raises(asyncio.CancelledError):
        await task
    assert tree.process.returncode == -signal.SIGKILL
    await until(lambda: not tree.alive)
    tree.process._transport.close()


async def test_a_stop_that_is_destroyed_kills(started: Trees) -> None:
    """Without a loop to wait in, all are killed."""
    tree = await started.start(IGNORES, process_group=0)
    stop = tree.process.stop(patience=600)
    stop.send(None)
    stop.close()
    assert await tree.process.wait() == -signal.SIGKILL
    await until(lambda: not tree.alive)
    tree.process._transport.close()


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_zombies_are_not_alive(way: Any, loop: str) -> None:
    """stop() returns though a pid 1 that never reaps keeps the group's zombies."""
    isolated(_stop_where_nobody_reaps, way, loop=loop)


async def _stop_where_nobody_reaps(way: Any) -> None:
    ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1)  # as pid 1 of a container
    _binding.force(group=way)
    with trees() as started:
        tree = await started.start(LEAVES_ONE, process_group=0)
        descendant = int(tree.words[0])
        await tree.process.stop(patience=60)
        assert not tree.alive
        assert state(descendant) == "Z", state(descendant)
        await tree.process.stop(patience=60)
        tree.process._transport.close()
    os.waitpid(descendant, 0)


async def test_a_process_that_is_forgotten(started: Trees) -> None:
    """Whoever has asked for a teardown and forgets the process leaves nobody behind."""
    tree = await started.start(LEAVES_ONE, teardown=aiovfork.Teardown())
    await tree.process.wait()
    assert tree.alive
    del tree.process
    await until(lambda: not tree.alive)


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_a_detached_child(loop: str, started: Trees) -> None:
    """With on_cancel="detach" a child outlives its loop; the next one reaps it when it ends by itself."""
    with asyncio.Runner(loop_factory=LOOP_FACTORIES[loop]) as runner:
        tree = runner.run(_detached(started))
    pid = tree.process.pid
    assert tree.alive
    del tree.process
    gc.collect()
    assert tree.alive
    os.killpg(pid, signal.SIGKILL)
    with asyncio.Runner(loop_factory=LOOP_FACTORIES[loop]) as runner:
        runner.run(until(lambda: not tree.alive))
        runner.run(_reaped(pid))


async def _detached(started: Trees) -> Any:
    tree = await started.start(IGNORES, process_group=0, on_cancel="detach")

    async def block() -> None:
        async with tree.process:
            await tree.process.wait()

    task = asyncio.ensure_future(block())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    return tree


async def _reaped(pid: int) -> None:
    """Start children until the core has come by."""
    while True:
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        process = await aiovfork.create_subprocess_exec("true")
        await process.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_one_with_other_credentials(way: Any, loop: str) -> None:
    """A child that may not be signalled is an error of stop(), told at once; a cancellation is still one."""
    isolated(_stop_somebody_elses, way, loop=loop)


async def _stop_somebody_elses(way: Any) -> None:
    _binding.force(group=way)
    with trees() as started:
        tree = await started.start("say ready; exec sleep 60", on_cancel="kill", stdout=aiovfork.PIPE)
        os.setresuid(65534, 65534, 0)
        try:
            for whom in ("group", None):
                with pytest.raises(PermissionError):
                    await tree.process.stop(patience=600, tree=whom)
            task = asyncio.ensure_future(tree.process.communicate())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert tree.alive
        finally:
            os.setresuid(0, 0, 0)
        await tree.process.stop()
        assert not tree.alive
