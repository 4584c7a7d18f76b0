"""Helpers on a Dask cluster: the example of the how-to page, and what that page says of failures and ends."""

from __future__ import annotations

import ast
import os
import pathlib
import signal
import subprocess
import sys
from typing import Any

import psutil
import pytest

from tests.support.isolated import ROOT, isolated
from tests.support.servers import until

EXAMPLE = ROOT / "examples" / "scale_out"
LONGEST = 70  # lines
LOOPS = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


def _call(name: str, *args: Any) -> Any:
    import tests.support.on_dask  # noqa: PLC0415  # not in the process that runs the tests

    return getattr(tests.support.on_dask, name)(*args)


def on_dask(name: str, *args: Any) -> Any:
    """Do what tests.support.on_dask calls so, in an interpreter of its own."""
    # distributed keeps its threads.
    return isolated(_call, name, *args, check_leaks=False, env={"PYTHONPATH": str(EXAMPLE)})


def test_example_runs() -> None:
    """The example prints what it is there to show, and not a warning."""
    command = [sys.executable, "-W", "error", str(EXAMPLE / "checksums.py")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.stderr == ""
    assert ended.stdout.splitlines() == [
        "32 digests of 2 workers, all right: True",
        "failed at step exec: [Errno 2] No such file or directory: 'no-such-program'",
        "cancelled, helpers alive: 0",
    ]
    assert ended.returncode == 0


@pytest.mark.parametrize("path", sorted(EXAMPLE.glob("*.py")), ids=lambda path: path.stem)
def test_example_is_short_and_explained(path: pathlib.Path) -> None:
    """A file of the example is no longer than it has to be, and says first what it shows."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST
    assert ast.get_docstring(ast.parse(text))


@pytest.mark.slow
@LOOPS
def test_tasks_run_on_the_loop_of_their_worker(loop: str) -> None:
    """A task is awaited on its worker's own loop, in its main thread; the helper is the worker's child."""
    answers = on_dask("places", loop)
    assert all(answer["main thread"] and answer["the worker's loop"] for answer in answers)
    assert {answer["loop"] for answer in answers} == {loop}
    assert all(answer["helper's parent"] == answer["pid"] for answer in answers)
    assert len({answer["pid"] for answer in answers}) == 2


@pytest.mark.slow
@LOOPS
def test_plugin_serves_libraries(loop: str) -> None:
    """While the plugin is there, asyncio's functions start aiovfork's children, on workers that come later too."""
    assert on_dask("libraries", loop) == {
        "without": [0],
        "with": [2],
        "with a new worker": [2, 2],
        "after": [0, 0],
    }


@pytest.mark.slow
def test_failures_come_back_whole() -> None:
    """The client gets the exception itself: type, errno, filename, step and note; status and output of a helper."""
    cases: list[tuple[str, dict[str, Any]]] = [
        ("/no/such/program", {}),
        ("/etc/passwd", {}),
        ("true", {"cwd": "/no/such/folder"}),
        ("true", {"spawn_timeout": 1e-9}),
    ]
    *spawns, helper = on_dask("failures", cases)
    assert [spawn["type"] for spawn in spawns] == [
        "FileNotFoundError",
        "PermissionError",
        "FileNotFoundError",
        "TimeoutError",
    ]
    assert [(spawn["errno"], spawn["filename"], spawn["step"]) for spawn in spawns[:3]] == [
        (2, "/no/such/program", "exec"),
        (13, "/etc/passwd", "exec"),
        (2, "/no/such/folder", "chdir"),
    ]
    assert all(spawn["step"] and spawn["notes"][0].startswith("aiovfork: ") for spawn in spawns)
    assert helper == ["CalledProcessError", 3, "half\n", "why\n"]


@pytest.mark.slow
def test_cancelled_future_ends_its_helper() -> None:
    """Cancelling a future kills and reaps the helper of the task that runs, and frees the task's place."""
    assert on_dask("cancelled") == {"status": "cancelled", "next": 0}


@pytest.mark.slow
def test_forgotten_future_ends_its_helper() -> None:
    """A helper ends when nobody holds its future any more, and when the client goes that had it."""
    assert on_dask("forgotten") == [False, False]


@pytest.mark.slow
def test_tasks_may_be_cancelled_at_any_time() -> None:
    """Tasks that are cancelled while they begin leave no helper, no place taken, and nothing in the plugin."""
    found = on_dask("cancelled_early", 60)
    assert found == {"last": [0] * 16, "alive": [0, 0], "left": [0, 0]}


@pytest.mark.slow
def test_cancelled_key_may_be_asked_for_again() -> None:
    """Who asks for a key while its task is being cancelled gets a result of another run, not the cancellation."""
    assert on_dask("asked_again") == "ran again"


@pytest.mark.slow
def test_dask_alone_lets_a_cancelled_task_run() -> None:
    """A canary: the plugin is there since Dask by itself does not cancel an async task that runs."""
    assert on_dask("dask_alone") == -signal.SIGTERM


@pytest.mark.slow
def test_retired_worker_ends_its_helpers() -> None:
    """A worker that is retired ends its helpers, and their tasks run again elsewhere."""
    assert on_dask("retired") == {"another worker": True}


@pytest.mark.slow
def test_closed_cluster_leaves_no_helper() -> None:
    """When a cluster has been closed, no helper is left, wanted or not."""
    assert on_dask("closed") == [False] * 4


IN_FRONT = pytest.mark.parametrize(
    ("before", "survives"),
    [([], True), (["setpriv", "--pdeathsig", "KILL"], False)],
    ids=["alone", "setpriv"],
)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
@IN_FRONT
def test_worker_that_ends_at_once(number: int, before: list[str], survives: bool) -> None:
    """A worker that a signal ends leaves its helper, unless the kernel was told; the task runs again, both times."""
    assert on_dask("worker_ended", number, before) == {"survives": survives, "runs again": True}


@pytest.mark.slow
@IN_FRONT
def test_killed_program(before: list[str], survives: bool) -> None:
    """The workers of a LocalCluster end at once when its program is killed, with the same consequence."""
    read_end, write_end = os.pipe()
    call = f"from tests.support.on_dask import program; program({write_end}, *{before!r})"
    with open(read_end) as answers:
        with subprocess.Popen(
            [sys.executable, "-c", f"import sys; sys.path.append({str(ROOT)!r}); {call}"],
            env={**os.environ, "PYTHONPATH": str(EXAMPLE)},
            pass_fds=[write_end],
            stderr=subprocess.DEVNULL,
        ) as program:
            os.close(write_end)
            helper, worker = [psutil.Process(int(pid)) for pid in answers.readline().split()]
            program.kill()
        until(lambda: ended(worker), "the worker's end")
        if survives:
            assert not ended(helper)
            helper.kill()
        until(lambda: ended(helper), "the helper's end")


def ended(process: psutil.Process) -> bool:
    """Tell whether a process has ended, reaped or not: orphans are reaped by somebody else."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.slow
def test_threads_bound_tasks_not_helpers() -> None:
    """At most as many tasks run at once as the worker has threads, async ones too; one may have more helpers."""
    found = on_dask("at_once")
    assert found["one task"] == 6
    assert 1 <= found["many tasks"] <= 2


@pytest.mark.slow
def test_worker_answers_beside_a_held_exec() -> None:
    """While the exec of a helper does not return, its worker runs other tasks and answers calls."""
    assert on_dask("held") == {"task": 0, "call": [0], "held": "pending", "result": 0}
