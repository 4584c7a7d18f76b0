"""Shared by all tests: the loops they run on, what they must not leave behind, and engines to force.

- `async def` tests run once on the stdlib's loop and once on uvloop (pytest-asyncio, see LOOP_FACTORIES).
- Tests that hold aiovfork against asyncio are `def` and use compare() of tests.support.backends.
- no_leaks is on for every test: descriptors, children, threads, tasks, signals, cwd, environment.
- engine_mode runs a test on each pair of engine and report mode.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

pytest.register_assert_rewrite("tests.support")

from aiovfork import _binding  # noqa: E402
from tests.support.backends import BACKENDS, LOOP_FACTORIES, LoopFactory, Spawner, left_over_tasks, run  # noqa: E402
from tests.support.leaks import Workers, wait_same  # noqa: E402

if TYPE_CHECKING:
    from typing import Literal

# A job in the background of a shell ignores these, and so would every child that a test interrupts.
for _number in (signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.SIG_DFL)

ENGINE_MODES = [(engine, report) for engine in ("clone3", "clone") for report in ("memory", "pipe")]


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, LoopFactory]:
    """Run each async test on each loop."""
    return LOOP_FACTORIES


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests time on a busy machine: pytest's timeout is for what hangs."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(900))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Write down which tests were run again, where AIOVFORK_RERUNS names a file."""
    path = os.environ.get("AIOVFORK_RERUNS")
    if path and not hasattr(config, "workerinput"):  # pytest-xdist's workers have a summary too
        with open(path, "a") as file:
            file.writelines(f"{report.nodeid}\n" for report in terminalreporter.stats.get("rerun", ()))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Fail a test whose loop has unfinished tasks when its body ends: the loop's close would hide them."""
    result = yield
    left = left_over_tasks()
    if left:
        pytest.fail(f"tasks left: {left}")
    return result


@pytest.fixture(scope="session")
def _workers() -> Iterator[Workers]:
    """Have everything made that is made once and kept, so that it is no leak of the first test."""

    async def body(spawn: Spawner) -> None:
        asyncio.get_running_loop().add_signal_handler(20, lambda: None)
        asyncio.get_running_loop().remove_signal_handler(20)
        await spawn.output("true")

    for backend in BACKENDS:
        run(backend, body)
    workers = Workers()
    yield workers
    assert not workers.wait_ended()


@pytest.fixture(autouse=True)
def no_leaks(_workers: Workers) -> Iterator[None]:
    """Fail a test that leaves a descriptor, child, thread or task, or changes what children inherit."""
    before = _workers.look_before()
    yield
    found = wait_same(before, look=_workers.look) + _workers.overdue()
    if found:
        pytest.fail("; ".join(found))


@pytest.fixture(params=ENGINE_MODES, ids="-".join)
def engine_mode(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """Run the test with each engine and report mode, all aiovfork spawns of it."""
    engine: Literal["clone3", "clone"]
    report: Literal["memory", "pipe"]
    engine, report = request.param
    facts = _binding.probe()
    if engine == "clone3" and facts.clone3:
        pytest.skip(f"clone3 is refused here: {os.strerror(facts.clone3)}")
    if report == "memory" and not facts.memory_shared:
        pytest.skip("vfork does not share memory here")
    _binding.force(engine, report)
    yield engine, report
    _binding.force(
        os.environ.get("AIOVFORK_ENGINE") or None,  # type: ignore[arg-type]  # checked at import
        os.environ.get("AIOVFORK_REPORT") or None,  # type: ignore[arg-type]
    )
