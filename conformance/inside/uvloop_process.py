"""uvloop's tests/test_process.py, as classes for one loop; the current folder is uvloop's sdist."""

import asyncio
import importlib.util
import types
import unittest
from typing import Any

import uvloop
from uvloop import _testbase

from conformance.loops import FACTORIES

_FILE = "tests/test_process.py"
# All tests but Test_UV_Process.test_process_double_close, which starts a Python that runs uvloop itself.
_BODIES = ("_TestProcess", "_AsyncioTests", "Test_UV_Process_Delayed")


def cases(loop: str) -> list[type[unittest.TestCase]]:
    """Return the classes for a loop."""
    module = _module()
    # What it has beside a loop is a child watcher, on 3.11.
    base = _testbase.AIOTestCase if loop == "asyncio" else _testbase.BaseTestCase
    policy = uvloop.EventLoopPolicy if loop.endswith("uvloop") else asyncio.DefaultEventLoopPolicy

    def new_loop(_: unittest.TestCase) -> asyncio.AbstractEventLoop:
        return FACTORIES[loop]()

    def new_policy(_: unittest.TestCase) -> asyncio.AbstractEventLoopPolicy:
        return policy()

    members = {"implementation": loop, "new_loop": new_loop, "new_policy": new_policy}
    found = []
    for name in _BODIES:
        body = getattr(module, name)
        bases = (body,) if issubclass(body, unittest.TestCase) else (body, base)
        found.append(types.new_class(name, bases, exec_body=lambda namespace: namespace.update(members)))
    return found


def _module() -> Any:
    spec = importlib.util.spec_from_file_location("uvloop_test_process", _FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
