"""SubprocessTestsMixin of test.test_asyncio.test_events."""

import unittest

from test.test_asyncio import test_events  # type: ignore[import-not-found]  # nobody has types for it

from conformance.inside.cpython import case


def cases(loop: str) -> list[type[unittest.TestCase]]:
    """The classes for a loop."""
    return [case(test_events.SubprocessTestsMixin, loop)]
