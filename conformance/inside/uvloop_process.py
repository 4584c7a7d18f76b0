"""uvloop's tests/test_process.py, as classes for one loop; the current folder is uvloop's sdist."""

import asyncio
import importlib.util
import types
import unittest
from typing import Any

import uvloop
from uvloop import _testbase

from conformance.inside.plugin import chosen
from conformance.loops import FACTORIES

# All tests but Test_UV_Process.test_process_double_close, which starts a Python that runs uvloop itself.
_BODIES = ("_TestProcess", "_AsyncioTests", "Test_UV_Process_Delayed")


def _class(body: Any) -> type[unittest.TestCase]:
    # What it has beside a loop is a child watcher, on 3.11.
    base = _testbase.AIOTestCase if chosen == "asyncio" else _testbase.BaseTestCase
    policy = uvloop.EventLoopPolicy if chosen.endswith("uvloop") else asyncio.DefaultEventLoopPolicy
    members = {
        "implementation": chosen,
        "new_loop": lambda _: FACTORIES[chosen](),
        "new_policy": lambda _: policy(),
        "__module__": __name__,
    }
    bases = (body,) if issubclass(body, unittest.TestCase) else (body, base)
    return types.new_class(body.__name__, bases, exec_body=lambda namespace: namespace.update(members))


_spec = importlib.util.spec_from_file_location("uvloop_test_process", "tests/test_process.py")
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
globals().update({name: _class(getattr(_module, name)) for name in _BODIES})
