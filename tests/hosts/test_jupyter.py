"""Jupyter: the cells of the example in a real kernel of IPython."""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import Any

import psutil
import pytest
from jupyter_client.manager import KernelManager

from tests.support import servers
from tests.support.isolated import isolated

HELPER = 'helper = await asyncio.create_subprocess_exec("sleep", "1000")\nprint(helper.pid, aiovfork.stats().alive)'
#: Stands for the button.
INTERRUPT = "interrupt"
UNDO = (
    "plug.undo()\n"
    'process = await asyncio.create_subprocess_exec("true")\n'
    "print(await process.wait(), aiovfork.stats().spawned)"
)


def _cells() -> list[str]:
    text = (servers.EXAMPLES / "notebook.py").read_text(encoding="utf-8")
    return text.split("# %%\n")[1:]


def _run(*cells: str) -> list[str]:
    """Run cells in a kernel and return what each has printed; INTERRUPT is what it is.

    In an interpreter of its own: the client has threads that stay.
    """
    with tempfile.TemporaryDirectory(prefix="kernel-") as directory:  # short: sockets lie there
        for name in ("HOME", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR"):
            os.environ[name] = directory
        manager: Any = KernelManager(
            transport="ipc", ip=f"{directory}/k", connection_file=f"{directory}/k.json"
        )
        manager.start_kernel(cwd=directory)
        client = manager.client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=servers.PATIENCE)
            return [
                manager.interrupt_kernel() if cell is INTERRUPT else _execute(client, cell) for cell in cells
            ]
        finally:
            client.stop_channels()
            manager.shutdown_kernel()
            manager.cleanup_resources()


def _execute(client: Any, cell: str) -> str:
    said: list[str] = []

    def note(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream":
            said.append(message["content"]["text"])

    reply = client.execute_interactive(cell, timeout=servers.PATIENCE, output_hook=note)
    assert reply["content"]["status"] == "ok", reply["content"]
    return "".join(said)


def _run_notebook() -> list[str]:
    return _run(*_cells(), UNDO)


def _run_with_helper() -> tuple[str, bool]:
    said = _run(_cells()[0], HELPER)[1]
    alive = False
    with contextlib.suppress(psutil.NoSuchProcess):
        alive = psutil.Process(int(said.split()[0])).status() != psutil.STATUS_ZOMBIE
    return said, alive


def test_notebook() -> None:
    """install() in one cell: children of later cells and of libraries are aiovfork's, until it is undone."""
    said = isolated(_run_notebook, check_leaks=False)
    loop = "_UnixSelectorEventLoop"  # IPython's kernel runs on asyncio's own, as the page says
    assert said == ["", f"Linux on {loop}\n", "Linux and 2 started by aiovfork\n", "0 2\n"]


@pytest.mark.slow
def test_kernel_shutdown() -> None:
    """A helper that runs when the kernel is shut down is ended with it."""
    said, alive = isolated(_run_with_helper, check_leaks=False)
    assert said.split()[1] == "1"
    assert not alive


def _run_and_interrupt() -> str:
    return _run(_cells()[0], HELPER, INTERRUPT, "print(await helper.wait())")[-1]


@pytest.mark.slow
def test_interrupt() -> None:
    """Interrupting the kernel reaches its helpers, as ^C reaches those of a program in a terminal."""
    assert isolated(_run_and_interrupt, check_leaks=False) == "-2\n"
