"""test.test_asyncio.test_subprocess. Its other classes test asyncio's own transport and child watchers."""

import unittest

from test.test_asyncio import test_subprocess  # type: ignore[import-not-found]  # nobody has types for it

from conformance.inside.cpython import case


def cases(loop: str) -> list[type[unittest.TestCase]]:
    """The classes for a loop."""
    return [case(test_subprocess.SubprocessMixin, loop)]
