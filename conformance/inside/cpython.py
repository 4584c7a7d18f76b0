"""CPython's tests of subprocesses, those of the interpreter that runs this, as classes for one loop."""

import importlib
import unittest
from typing import Any

from test import support  # type: ignore[import-not-found]  # nobody has types for it
from test.test_asyncio import utils  # type: ignore[import-not-found]  # likewise

from conformance.loops import FACTORIES


def cases(loop: str, module: str, mixin: str) -> list[type[unittest.TestCase]]:
    """Return the class that runs the tests of a mixin; the others there test asyncio's own parts."""
    body = getattr(importlib.import_module(f"test.test_asyncio.{module}"), mixin)

    def set_up(self: Any) -> None:
        utils.TestCase.setUp(self)
        self.loop = FACTORIES[loop]()
        # With cleanup, TestCase looks for an executor that only asyncio's own loops have.
        self.set_event_loop(self.loop, cleanup=False)
        self.addCleanup(self.loop.close)

    def tear_down(self: Any) -> None:
        # As EventLoopTestsMixin: what closing a transport has scheduled.
        if not self.loop.is_closed():
            utils.run_briefly(self.loop)
        self.doCleanups()
        support.gc_collect()
        utils.TestCase.tearDown(self)
        # A thread or child is left. TestCase only warns; CPython's own CI fails then.
        altered, support.environment_altered = support.environment_altered, False
        if altered:
            self.fail("the environment was altered, see the output")

    return [type(mixin, (body, utils.TestCase), {"setUp": set_up, "tearDown": tear_down})]
