"""unsupported="native": a plugged loop hands what aiovfork refuses to its own implementation."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import warnings
from collections.abc import Callable
from typing import Any, Final

import pytest

import aiovfork
from tests.support.backends import PLAIN, LoopFactory, in_thread
from tests.support.isolated import isolated
from tests.support.protocols import Recorder


def installed(factory: LoopFactory) -> LoopFactory:
    """Have install() plug into each loop of a factory."""

    def new_loop() -> asyncio.AbstractEventLoop:
        loop = factory()
        aiovfork.install(loop, unsupported="native")
        return loop

    return new_loop


def of_factory(factory: Callable[..., Any]) -> LoopFactory:
    """Have the factory make loops that hand over."""
    return lambda: factory(unsupported="native")


#: Loops that hand over, by name.
NATIVE: Final[dict[str, LoopFactory]] = {
    "loop-asyncio": of_factory(aiovfork.new_event_loop),
    "loop-uvloop": of_factory(aiovfork.new_uvloop_event_loop),
    **{f"install-{name}": installed(factory) for name, factory in PLAIN.items()},
}
every_native_loop = pytest.mark.parametrize("name", NATIVE)
every_plain_loop = pytest.mark.parametrize("factory", PLAIN.values(), ids=PLAIN)


def go_to_usr() -> None:
    """What a library does in a child."""
    os.chdir("/usr")


def is_ours(process: Any) -> bool:
    """Whether aiovfork has started this child."""
    return isinstance(process._transport, aiovfork.SubprocessTransport)


def run(name: str, body: Callable[[], Any]) -> None:
    """Run a body on a loop that hands over."""
    with asyncio.Runner(loop_factory=NATIVE[name]) as runner:
        runner.run(body())


@every_native_loop
@pytest.mark.filterwarnings("ignore:preexec_fn:RuntimeWarning")
def test_a_call_with_preexec_fn_is_the_loops_own(name: str) -> None:
    """preexec_fn runs in the child; asyncio's Process works wholly, over the transport that the plain loop gives."""

    async def kind_of_plain_transport() -> type:
        transport, protocol = await asyncio.get_running_loop().subprocess_exec(Recorder, "true")
        await protocol.wait_for("lost")
        transport.close()
        return type(transport)

    with asyncio.Runner(loop_factory=PLAIN[name.split("-")[1]]) as runner:
        plain = runner.run(kind_of_plain_transport())

    async def body() -> None:
        before = aiovfork.stats()
        pipes: dict[str, Any] = {"stdin": -1, "stdout": -1, "preexec_fn": go_to_usr}
        for process in (
            await asyncio.create_subprocess_exec("sh", "-c", "pwd; cat; exit 7", **pipes),
            await asyncio.create_subprocess_shell("pwd; cat; exit 7", **pipes),
        ):
            assert type(process) is asyncio.subprocess.Process
            assert type(process._transport) is plain  # type: ignore[attr-defined]
            assert (await process.communicate(b"input\n"))[0] == b"/usr\ninput\n"
            assert process.returncode == await process.wait() == 7
        after = aiovfork.stats()
        assert (after.native - before.native, after.spawned - before.spawned) == (2, 0)
        process = await asyncio.create_subprocess_exec("true", preexec_fn=None)
        assert is_ours(process)
        assert await process.wait() == 0
        assert aiovfork.stats().native == after.native

    run(name, body)


@every_native_loop
@pytest.mark.filterwarnings("ignore:preexec_fn:RuntimeWarning")
def test_native_children_end_as_the_loops_own(name: str) -> None:
    """A signal's returncode arrives, close() of a transport kills its child, beside children of aiovfork's."""

    async def body() -> None:
        loop = asyncio.get_running_loop()
        ours = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
        process = await asyncio.create_subprocess_exec("cat", stdin=-1, preexec_fn=go_to_usr)
        process.terminate()
        assert await process.wait() == -signal.SIGTERM
        transport, protocol = await loop.subprocess_shell(Recorder, "exec cat", preexec_fn=go_to_usr)
        transport.close()
        await protocol.wait_for("lost")
        assert transport.get_returncode() == -signal.SIGKILL
        assert is_ours(ours)
        assert (await ours.communicate(b"input"))[0] == b"input"

    run(name, body)


@every_native_loop
@pytest.mark.filterwarnings("ignore:preexec_fn:RuntimeWarning")
def test_options_and_errors_are_the_loops_own(name: str) -> None:
    """The other options go along; a program that is missing is FileNotFoundError, but no SpawnError."""

    async def body() -> None:
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", "pwd; echo $NAME; cut -d ' ' -f 6 /proc/$$/stat"),
            stdout=-1,
            cwd="/",
            env={"NAME": "value"},
            start_new_session=True,
            preexec_fn=int,
        )
        assert (await process.communicate())[0].decode().split() == ["/", "value", str(process.pid)]
        with pytest.raises(FileNotFoundError) as info:
            await asyncio.create_subprocess_exec("/no/such/program", preexec_fn=int)
        assert not isinstance(info.value, aiovfork.SpawnError)
        with pytest.raises(ValueError, match="spawn_timeout cannot be had together with preexec_fn"):
            await asyncio.get_running_loop().subprocess_exec(
                Recorder, "true", spawn_timeout=1, preexec_fn=int
            )

    run(name, body)


@every_native_loop
@pytest.mark.filterwarnings("ignore:preexec_fn:RuntimeWarning")
def test_a_loop_in_a_thread(name: str) -> None:
    """A loop hands over in any thread, and hears how its children end."""

    async def body() -> list[int]:
        processes = [
            await asyncio.create_subprocess_exec("sh", "-c", f"exit {code}", preexec_fn=go_to_usr)
            for code in range(3)
        ]
        return list(await asyncio.gather(*(process.wait() for process in processes)))

    def in_its_thread() -> list[int]:
        with asyncio.Runner(loop_factory=NATIVE[name]) as runner:
            return runner.run(body())

    assert in_thread(in_its_thread) == [0, 1, 2]


@every_native_loop
def test_each_place_is_warned_of_once(name: str) -> None:
    """The first call of a line has a RuntimeWarning that names that line and the function; the next has none."""

    async def body() -> None:
        unheard_of: Any = type(f"On-{name}", (), {"__call__": staticmethod(go_to_usr)})()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for _ in range(2):
                await (await asyncio.create_subprocess_exec("true", preexec_fn=unheard_of)).wait()
            assert len(said) == 1
            await (await asyncio.create_subprocess_shell("true", preexec_fn=unheard_of)).wait()
        first, second = said
        assert first.category is RuntimeWarning
        assert first.filename == second.filename == __file__
        here = inspect.currentframe()
        assert here is not None
        assert here.f_code.co_firstlineno < first.lineno < second.lineno < here.f_lineno
        assert f"(On-{name})" in str(first.message)
        assert "subprocess_shell" in str(second.message)

    run(name, body)


@every_plain_loop
def test_the_warning_may_be_an_error(factory: LoopFactory) -> None:
    """With warnings as errors each such call is one, and starts nothing."""

    async def body() -> None:
        before = aiovfork.stats().native
        with aiovfork.install(unsupported="native"):
            for _ in range(2):
                with pytest.raises(RuntimeWarning, match="by a fork of the whole process"):
                    await asyncio.create_subprocess_exec("true", preexec_fn=go_to_usr)
        assert aiovfork.stats().native == before

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(body())


@every_native_loop
def test_aiovforks_own_functions_refuse(name: str) -> None:
    """aiovfork's functions refuse preexec_fn on such a loop too, and the loop what its own would refuse as well."""

    async def body() -> None:
        wrong: Any = {"preexec_fn": go_to_usr}
        with pytest.raises(ValueError, match="preexec_fn is not supported"):
            await aiovfork.create_subprocess_exec("true", **wrong)
        with pytest.raises(ValueError, match="preexec_fn is not supported"):
            await aiovfork.subprocess_shell(Recorder, "true", **wrong)
        with pytest.raises(ValueError, match="text must be False"):
            await asyncio.create_subprocess_exec("true", text=True)  # type: ignore[arg-type]

    run(name, body)


async def _is_handed_over() -> bool:
    try:
        process = await asyncio.create_subprocess_exec("true", preexec_fn=go_to_usr)
    except ValueError:
        return False
    assert not is_ours(process)
    await process.wait()
    return True


@pytest.mark.filterwarnings("ignore:preexec_fn:RuntimeWarning")
@pytest.mark.parametrize("factory", [*PLAIN.values(), aiovfork.new_event_loop], ids=[*PLAIN, "ours"])
def test_install_and_undo(factory: LoopFactory) -> None:
    """A loop hands over as long as an Installation that asked for it is not undone; then it is as it was."""

    async def body() -> None:
        attributes = dict(vars(asyncio.get_running_loop()))
        with aiovfork.install():
            assert not await _is_handed_over()
            first, second = (aiovfork.install(unsupported="native") for _ in range(2))
            assert await _is_handed_over()
            with aiovfork.install():  # it does not ask for more than is there
                assert await _is_handed_over()
            first.undo()
            first.undo()
            assert await _is_handed_over()
            second.undo()
            assert not await _is_handed_over()
        assert dict(vars(asyncio.get_running_loop())) == attributes

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(body())


@pytest.mark.filterwarnings("ignore:preexec_fn:RuntimeWarning")
def test_the_mixins_attribute() -> None:
    """A loop class says it for its loops, a loop for itself."""

    class Loop(aiovfork.SubprocessLoopMixin, asyncio.SelectorEventLoop):  # type: ignore[misc]  # as EventLoop
        unsupported = "native"

    with asyncio.Runner(loop_factory=Loop) as runner:
        loop: Any = runner.get_loop()
        assert runner.run(_is_handed_over())
        loop.unsupported = "refuse"
        assert not runner.run(_is_handed_over())
    assert aiovfork.SubprocessLoopMixin.unsupported == aiovfork.EventLoop.unsupported == "refuse"


def test_wrong_values() -> None:
    """A value that means nothing is a ValueError at once, wherever it is given."""
    wrong: Any = {"unsupported": "Native"}
    error = "unsupported must be 'refuse' or 'native', not 'Native'"
    for function in (aiovfork.new_event_loop, aiovfork.new_uvloop_event_loop, aiovfork.install):
        with pytest.raises(ValueError, match=error):
            function(**wrong)
    with pytest.raises(ValueError, match=error):
        type("Loop", (aiovfork.SubprocessLoopMixin, asyncio.SelectorEventLoop), wrong)

    async def body() -> None:
        loop: Any = asyncio.get_running_loop()
        loop.unsupported = "Native"
        with pytest.raises(ValueError, match=error):
            await asyncio.create_subprocess_exec("true", preexec_fn=go_to_usr)

    with asyncio.Runner(loop_factory=aiovfork.new_event_loop) as runner:
        runner.run(body())


async def _count_in_a_fork() -> list[int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        await (await asyncio.create_subprocess_exec("true", preexec_fn=go_to_usr)).wait()
    pid = os.fork()
    if pid == 0:
        os._exit(aiovfork.stats().native)
    return [aiovfork.stats().native, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]


def _native_in_a_fork() -> list[int]:
    with asyncio.Runner(loop_factory=NATIVE["loop-asyncio"]) as runner:
        return runner.run(_count_in_a_fork())


def test_a_fork_counts_anew() -> None:
    """Stats.native, as every counter, is zero in a forked child."""
    assert isolated(_native_in_a_fork, check_leaks=False) == [1, 0]
