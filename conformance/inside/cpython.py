"""CPython's tests of subprocesses; its others test asyncio's own parts."""

from typing import Any

from test import support  # type: ignore[import-not-found]  # nobody has types for it
from test.test_asyncio import test_events, test_subprocess, utils  # type: ignore[import-not-found]  # likewise

from conformance.inside import plugin
from conformance.loops import FACTORIES


class OnTheLoop(utils.TestCase):  # type: ignore[misc]  # likewise
    """Gives the tests of a mixin their loop. It has none itself."""

    def setUp(self) -> None:  # noqa: D102  # the name is unittest's
        super().setUp()
        self.loop: Any = FACTORIES[plugin.chosen]()
        # With cleanup, TestCase looks for an executor that only asyncio's own loops have.
        self.set_event_loop(self.loop, cleanup=False)
        self.addCleanup(self.loop.close)

    def tearDown(self) -> None:  # noqa: D102  # likewise
        # As EventLoopTestsMixin: what closing a transport has scheduled.
        if not self.loop.is_closed():
            utils.run_briefly(self.loop)
        self.doCleanups()
        support.gc_collect()
        super().tearDown()
        # A thread or child is left. TestCase only warns; CPython's own CI fails then.
        altered, support.environment_altered = support.environment_altered, False
        if altered:
            self.fail("the environment was altered, see the output")


class SubprocessMixin(test_subprocess.SubprocessMixin, OnTheLoop):  # type: ignore[misc]  # likewise
    """Those of test_subprocess."""


class SubprocessTestsMixin(test_events.SubprocessTestsMixin, OnTheLoop):  # type: ignore[misc]  # likewise
    """Those of test_events."""
