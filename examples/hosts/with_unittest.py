"""unittest: test cases whose loops start children with aiovfork."""

import asyncio
import unittest
from asyncio.subprocess import PIPE

import aiovfork


async def helper() -> str:
    """Stand for the code under test, which knows nothing of aiovfork."""
    process = await asyncio.create_subprocess_exec("uname", stdout=PIPE)
    return (await process.communicate())[0].decode()


class LoopFactoryTest(unittest.IsolatedAsyncioTestCase):
    """Python 3.13 and later use loop_factory; older versions ignore it."""

    # A function would be bound to the instance here, as a method: staticmethod, or the loop's class.
    loop_factory = staticmethod(aiovfork.new_event_loop)

    @unittest.skipUnless(hasattr(unittest.IsolatedAsyncioTestCase, "loop_factory"), "needs Python 3.13")
    async def test_helper(self) -> None:
        """A child of this test's loop."""
        before = aiovfork.stats().spawned
        assert await helper() == "Linux\n"
        assert aiovfork.stats().spawned == before + 1


class InstallTest(unittest.IsolatedAsyncioTestCase):
    """On every Python: install() on the loop that unittest has made."""

    async def asyncSetUp(self) -> None:
        """Runs on the same loop as the test."""
        self.enterContext(aiovfork.install())

    async def test_helper(self) -> None:
        """A child of this test's loop."""
        before = aiovfork.stats().spawned
        assert await helper() == "Linux\n"
        assert aiovfork.stats().spawned == before + 1
