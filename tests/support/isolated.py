"""Runs a test's body in an interpreter of its own, for what would wreck the state of the test process.

The body is a function at the top of a test module. It gets its arguments, and returns its result, as JSON; what
it says goes to the test's failure. An `async def` body runs on the loop that `loop` names.
"""

from __future__ import annotations

import asyncio
import faulthandler
import importlib.util
import inspect
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def isolated(
    body: Callable[..., Any],
    *args: Any,
    loop: str | None = None,
    check_leaks: bool = True,
    prefix: Sequence[str] = (),
    env: dict[str, str] | None = None,
    timeout: float = 60,
) -> Any:
    """Run body(*args) in a fresh interpreter and return its result; fail where it fails, dies or hangs.

    Args:
        body: A function of a test module; a coroutine function runs on a loop.
        *args: Its arguments.
        loop: The loop, for a coroutine function: a key of LOOP_FACTORIES.
        check_leaks: Whether to fail if something is left when the body has ended (tests.support.leaks).
        prefix: A program to start the interpreter with, such as setpriv.
        env: Added to the environment.
        timeout: Seconds, then the stacks are shown.
    """
    read_end, write_end = os.pipe()
    call = {
        "module": inspect.getfile(body),
        "body": body.__name__,
        "args": args,
        "loop": loop,
        "check_leaks": check_leaks,
        "timeout": timeout,
    }
    command = [*prefix, sys.executable, "-X", "faulthandler", __file__, str(write_end), json.dumps(call)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(env or {})},
        pass_fds=[write_end],
        text=True,
        errors="replace",
        start_new_session=True,
    )
    os.close(write_end)
    with open(read_end) as results:
        try:
            said, _ = process.communicate(timeout=timeout + 10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its children too: they may be what hangs
            said, _ = process.communicate()
        result = results.read() if process.returncode == 0 else ""
    if not result:
        pytest.fail(f"{body.__name__} in its own interpreter ended with {process.returncode}:\n{said}")
    return json.loads(result)


def load(path: str) -> Any:
    """Import a file as a module of its own."""
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _run(call: dict[str, Any]) -> Any:
    # What is installed is tested, not what lies beside the tests: the tree comes last.
    sys.path.append(str(ROOT))
    from tests.support.backends import LOOP_FACTORIES  # noqa: PLC0415  # the path is known only now
    from tests.support.leaks import Footprint, wait_same  # noqa: PLC0415

    body = getattr(load(call["module"]), call["body"])

    def work() -> Any:
        if call["loop"] is None:
            return body(*call["args"])
        with asyncio.Runner(loop_factory=LOOP_FACTORIES[call["loop"]]) as runner:
            return runner.run(body(*call["args"]))

    for new_loop in LOOP_FACTORIES.values():
        _warm(new_loop)
    unraisable: list[str] = []
    sys.unraisablehook = lambda args: unraisable.append(f"{args.err_msg or args.object}: {args.exc_value!r}")
    before = Footprint.take() if call["check_leaks"] else None
    result = work()
    assert not unraisable, unraisable
    if before is not None:
        found = wait_same(before)
        assert not found, found
    return result


def _warm(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Have made what a loop makes once and keeps, without a spawn: the first one is the body's."""
    loop = new_loop()
    loop.add_signal_handler(signal.SIGURG, print)
    loop.remove_signal_handler(signal.SIGURG)
    loop.close()
    signal.signal(signal.SIGURG, signal.SIG_DFL)  # uvloop leaves its own there


def main() -> None:
    """Be the interpreter: write the body's result to the descriptor that argv names."""
    result_fd, call = int(sys.argv[1]), json.loads(sys.argv[2])
    os.set_inheritable(result_fd, False)
    # Bodies may lay out descriptors 0 to 5 and count the low ones.
    high = os.dup2(result_fd, 900, inheritable=False)
    os.close(result_fd)
    faulthandler.dump_traceback_later(call["timeout"], exit=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    result = _run(call)
    os.write(high, json.dumps(result).encode())
    sys.stdout.flush()
    # No teardown of the interpreter: a body may have left threads that never end.
    os._exit(0)


if __name__ == "__main__":
    main()
