"""Plugging into loops: mixin, factories and install(), and that nothing else is changed by them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Any

import pytest
import uvloop

import aiovfork
from tests.support.backends import PLAIN, PLUGGED, WAYS, LoopFactory, in_thread
from tests.support.isolated import isolated
from tests.support.protocols import Recorder

every_plugged_loop = pytest.mark.parametrize("factory", WAYS.values(), ids=WAYS)
every_plain_loop = pytest.mark.parametrize("factory", PLAIN.values(), ids=PLAIN)


async def transport_of_a_spawn() -> type:
    """Spawn with asyncio's function, and return the type of the transport that served it."""
    process = await asyncio.create_subprocess_exec("true")
    assert await process.wait() == 0
    transport: Any = process._transport  # type: ignore[attr-defined]
    return type(transport)


async def exit_status_of_a_spawn() -> int:
    """Spawn with asyncio's function something that exits with 7."""
    return await (await asyncio.create_subprocess_exec("sh", "-c", "exit 7")).wait()


# ---- what a plugged loop does ----


@every_plugged_loop
def test_asyncios_functions_are_served(factory: LoopFactory) -> None:
    """asyncio.create_subprocess_exec and _shell give asyncio's own Process, over aiovfork's transport."""

    async def body() -> None:
        command = "umask; cat /dev/stdin"
        for process in (
            await asyncio.create_subprocess_exec("sh", "-c", command, stdin=-1, stdout=-1, umask=0o027),
            await asyncio.create_subprocess_shell(command, stdin=-1, stdout=-1, umask=0o027),
        ):
            assert type(process) is asyncio.subprocess.Process
            assert isinstance(process._transport, aiovfork.SubprocessTransport)  # type: ignore[attr-defined]
            assert (await process.communicate(b"input\n"))[0] == b"0027\ninput\n"
            assert process.returncode == 0

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(body())


@every_plugged_loop
def test_the_methods_of_the_loop(factory: LoopFactory) -> None:
    """loop.subprocess_exec and subprocess_shell give a transport and the factory's protocol."""

    async def body() -> None:
        loop = asyncio.get_running_loop()
        for pair in (
            await loop.subprocess_exec(Recorder, "echo", "out"),
            await loop.subprocess_shell(Recorder, "echo out"),
        ):
            transport, protocol = pair
            assert isinstance(transport, aiovfork.SubprocessTransport)
            assert isinstance(protocol, Recorder)
            await protocol.wait_for("lost")
            assert protocol.output[1] == b"out\n"

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(body())


@every_plugged_loop
def test_our_own_functions_work_there_too(factory: LoopFactory) -> None:
    """aiovfork.create_subprocess_exec on a plugged loop gives aiovfork's Process, with what that adds."""

    async def body() -> None:
        async with await aiovfork.create_subprocess_exec("true") as process:
            assert await process.wait() == 0
            assert process.rusage is not None

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(body())


@every_plugged_loop
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"preexec_fn": print}, r"preexec_fn is not supported"),
        ({"text": True}, r"text must be False"),
        ({"shell": True}, r"shell must be False"),
    ],
    ids=str,
)
def test_what_cannot_be_had_is_refused_by_name(
    factory: LoopFactory, options: dict[str, Any], error: str
) -> None:
    """An option that aiovfork refuses is a ValueError that names it; nothing falls back to another spawn."""

    async def body() -> None:
        before = aiovfork.stats().spawned
        with pytest.raises(ValueError, match=error):
            await asyncio.create_subprocess_exec("true", **options)
        assert aiovfork.stats().spawned == before

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(body())


@pytest.mark.parametrize("factory", PLUGGED["loop"].values(), ids=PLUGGED["loop"])
def test_the_first_child_opens_nothing_that_stays(factory: LoopFactory) -> None:
    """What a loop of ours needs for children it has before the first one: no descriptor looks like a leak."""

    async def body() -> None:
        before = set(os.listdir("/proc/self/fd"))
        process = await asyncio.create_subprocess_exec("true", stdin=-1, stdout=-1)
        await process.communicate()
        assert set(os.listdir("/proc/self/fd")) <= before

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(body())


def _run_in_a_fork(name: str) -> list[int]:
    loop = PLUGGED["loop"][name]()
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            status = loop.run_until_complete(exit_status_of_a_spawn())
        finally:
            os._exit(status)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]
    loop.close()
    return statuses


@pytest.mark.parametrize("name", PLUGGED["loop"])
def test_a_loop_that_is_made_before_a_fork(name: str) -> None:
    """A loop made in one process and run in its fork, as servers do it, spawns there."""
    assert isolated(_run_in_a_fork, name) == [7]


def test_the_loops_are_what_they_say() -> None:
    """The factories' loops are asyncio's SelectorEventLoop and uvloop's Loop, so isinstance checks hold."""
    ours, uv, again = (
        aiovfork.new_event_loop(),
        aiovfork.new_uvloop_event_loop(),
        aiovfork.new_uvloop_event_loop(),
    )
    try:
        assert type(ours) is aiovfork.EventLoop
        assert isinstance(ours, asyncio.SelectorEventLoop)
        assert isinstance(uv, uvloop.Loop)
        assert isinstance(uv, aiovfork.SubprocessLoopMixin)
        assert type(again) is type(uv)
    finally:
        for loop in (ours, uv, again):
            loop.close()


def test_a_loop_of_ones_own() -> None:
    """The mixin in front of any loop class plugs it, and leaves its other methods alone."""

    class Loop(aiovfork.SubprocessLoopMixin, asyncio.SelectorEventLoop):  # type: ignore[misc]  # as EventLoop
        closings = 0

        def close(self) -> None:
            self.closings += 1
            super().close()

    with asyncio.Runner(loop_factory=Loop) as runner:
        loop = runner.get_loop()
        assert runner.run(transport_of_a_spawn()) is aiovfork.SubprocessTransport
    assert isinstance(loop, Loop)
    assert loop.closings == 1
    assert loop.is_closed()


def test_uvloop_run_takes_the_factory() -> None:
    """uvloop.run() insists on a loop of uvloop's: new_uvloop_event_loop gives one."""
    main: Any = transport_of_a_spawn()
    spawned = uvloop.run(main, loop_factory=aiovfork.new_uvloop_event_loop)  # type: ignore[arg-type]
    assert spawned is aiovfork.SubprocessTransport


def test_plugged_and_plain_loops_side_by_side() -> None:
    """A plugged loop changes nothing for the loops of other threads, whatever their kind."""

    def run(factory: LoopFactory) -> type:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(transport_of_a_spawn())

    async def body() -> None:
        assert in_thread(lambda: run(asyncio.SelectorEventLoop)) is not aiovfork.SubprocessTransport
        assert in_thread(lambda: run(aiovfork.new_uvloop_event_loop)) is aiovfork.SubprocessTransport
        assert await transport_of_a_spawn() is aiovfork.SubprocessTransport

    with asyncio.Runner(loop_factory=aiovfork.new_event_loop) as runner:
        runner.run(body())


def test_nothing_of_asyncio_is_replaced() -> None:
    """No policy, no child watcher, no signal handler, no patched function: in a fresh interpreter."""
    program = (
        "import asyncio, asyncio.events, signal\n"
        "before = [dict(vars(m)) for m in (asyncio, asyncio.subprocess, asyncio.base_events, asyncio.events)]\n"
        "import aiovfork\n"
        "async def main():\n"
        "    await (await asyncio.create_subprocess_exec('true')).wait()\n"
        "for new_loop in (aiovfork.new_event_loop, aiovfork.new_uvloop_event_loop):\n"
        "    with asyncio.Runner(loop_factory=new_loop) as runner:\n"
        "        runner.run(main())\n"
        "    with asyncio.Runner() as runner:\n"
        "        aiovfork.install(runner.get_loop())\n"
        "        runner.run(main())\n"
        "assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL\n"
        "policy = asyncio.events._event_loop_policy\n"
        "assert policy is None or type(policy).__module__ == 'asyncio.unix_events', policy\n"
        "assert getattr(policy, '_watcher', None) is None\n"
        "asyncio.events._event_loop_policy = before[3]['_event_loop_policy']\n"
        "after = [dict(vars(m)) for m in (asyncio, asyncio.subprocess, asyncio.base_events, asyncio.events)]\n"
        "assert before == after\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


# ---- uvloop is an extra ----


def test_without_uvloop() -> None:
    """new_uvloop_event_loop() without uvloop is an ImportError that names the extra; the rest works."""
    program = (
        "import asyncio, sys\n"
        "sys.modules['uvloop'] = None\n"
        "import aiovfork\n"
        "for attempt in range(2):\n"
        "    try:\n"
        "        aiovfork.new_uvloop_event_loop()\n"
        "    except ImportError as exc:\n"
        "        print(exc.name, exc)\n"
        "async def main():\n"
        "    print(await (await asyncio.create_subprocess_exec('true')).wait())\n"
        "with asyncio.Runner(loop_factory=aiovfork.new_event_loop) as runner:\n"
        "    runner.run(main())\n"
    )
    said = subprocess.check_output([sys.executable, "-c", program], text=True).splitlines()
    refusal = "uvloop new_uvloop_event_loop() needs uvloop: pip install 'aiovfork[uvloop]'"
    assert said == [refusal, refusal, "0"]


def test_uvloop_is_imported_only_when_asked_for() -> None:
    """Importing aiovfork, new_event_loop() and install() do not import uvloop."""
    program = (
        "import asyncio, sys, aiovfork\n"
        "async def main():\n"
        "    await (await asyncio.create_subprocess_exec('true')).wait()\n"
        "for new_loop in (aiovfork.new_event_loop, asyncio.new_event_loop):\n"
        "    with asyncio.Runner(loop_factory=new_loop) as runner:\n"
        "        aiovfork.install(runner.get_loop())\n"
        "        runner.run(main())\n"
        "print('uvloop' in sys.modules)\n"
        "aiovfork.new_uvloop_event_loop().close()\n"
        "print('uvloop' in sys.modules)\n"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True).split() == ["False", "True"]


# ---- install() ----


@every_plain_loop
def test_install_and_undo(factory: LoopFactory) -> None:
    """install() plugs the running loop at once, for good or for a block; undone, the loop is as it was."""

    async def body() -> None:
        attributes = dict(vars(asyncio.get_running_loop()))
        plain = await transport_of_a_spawn()
        assert plain is not aiovfork.SubprocessTransport
        with aiovfork.install() as installation:
            assert isinstance(installation, aiovfork.Installation)
            assert await transport_of_a_spawn() is aiovfork.SubprocessTransport
        assert await transport_of_a_spawn() is plain
        installation = aiovfork.install()
        assert await transport_of_a_spawn() is aiovfork.SubprocessTransport
        installation.undo()
        installation.undo()
        assert await transport_of_a_spawn() is plain
        with pytest.raises(KeyError), aiovfork.install():
            raise KeyError
        assert dict(vars(asyncio.get_running_loop())) == attributes

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(body())


@every_plain_loop
@pytest.mark.parametrize("first", ["outer", "inner"])
def test_install_again(factory: LoopFactory, first: str) -> None:
    """A loop stays plugged until everybody who has installed is done, in whatever order they end."""

    async def body() -> None:
        outer, inner = aiovfork.install(), aiovfork.install()
        installations = [outer, inner] if first == "outer" else [inner, outer]
        assert await transport_of_a_spawn() is aiovfork.SubprocessTransport
        installations[0].undo()
        installations[0].undo()
        assert await transport_of_a_spawn() is aiovfork.SubprocessTransport
        installations[1].undo()
        assert await transport_of_a_spawn() is not aiovfork.SubprocessTransport

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(body())


@pytest.mark.parametrize("factory", PLUGGED["loop"].values(), ids=PLUGGED["loop"])
def test_install_on_a_loop_that_has_the_mixin(factory: LoopFactory) -> None:
    """There is nothing to install on a loop that has the mixin, and nothing to undo."""

    async def body() -> None:
        attributes = dict(vars(asyncio.get_running_loop()))
        with aiovfork.install():
            assert dict(vars(asyncio.get_running_loop())) == attributes
            assert await transport_of_a_spawn() is aiovfork.SubprocessTransport
        assert await transport_of_a_spawn() is aiovfork.SubprocessTransport

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(body())


@every_plain_loop
def test_what_others_have_put_on_the_loop(factory: LoopFactory) -> None:
    """What was on the instance before comes back; what somebody laid over ours since is left to them."""

    async def theirs(*args: Any, **options: Any) -> Any:
        raise NotImplementedError

    async def body() -> None:
        loop: Any = asyncio.get_running_loop()
        loop.subprocess_exec = theirs
        with aiovfork.install():
            assert await transport_of_a_spawn() is aiovfork.SubprocessTransport
        assert loop.subprocess_exec is theirs
        with aiovfork.install():
            loop.subprocess_shell = theirs
        assert loop.subprocess_shell is theirs
        del loop.subprocess_exec, loop.subprocess_shell

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(body())


def test_install_on_what_is_no_loop() -> None:
    """Without a running loop, on a closed one, or on something else, install() is an error at once."""
    with pytest.raises(RuntimeError, match="no running event loop"):
        aiovfork.install()
    for factory in (*PLAIN.values(), *PLUGGED["loop"].values()):
        loop = factory()
        loop.close()
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            aiovfork.install(loop)
    for thing in (3, asyncio, asyncio.SelectorEventLoop):
        with pytest.raises(TypeError, match="loop must be an asyncio event loop, not"):
            aiovfork.install(thing)  # type: ignore[arg-type]
