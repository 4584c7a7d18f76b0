"""Runs a suite of unittest cases: `ADAPTER [ARGUMENT ...] LOOP RECORDS`.

The adapter is a module whose `cases(loop, *arguments)` makes the classes for the loop of that name.
"""

# ruff: noqa: N802  # the names are unittest's

import faulthandler
import importlib
import sys
import unittest
from pathlib import Path
from typing import Any

from conformance.inside.records import Recorder

# Longer than any test that makes progress. CPython's own limit for one step, LONG_TIMEOUT, is much longer.
_TEST_TIMEOUT = 60.0


class RecordingResult(unittest.TextTestResult):
    """Writes down what it prints."""

    recorder: Recorder

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._outcome = ("passed", "")

    def startTest(self, test: unittest.TestCase) -> None:
        """A test begins."""
        super().startTest(test)
        faulthandler.dump_traceback_later(_TEST_TIMEOUT, exit=True)
        self._outcome = ("passed", "")
        self.recorder.start(name_of(test))

    def stopTest(self, test: unittest.TestCase) -> None:
        """It has ended."""
        faulthandler.cancel_dump_traceback_later()
        self.recorder.end(name_of(test), *self._outcome)
        super().stopTest(test)

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        """A test raised, or what sets up its class or module did, which is no test and has no start."""
        super().addError(test, err)
        self._fail(self.errors[-1][1])
        if not isinstance(test, unittest.TestCase):
            self.recorder.start(str(test))
            self.recorder.end(str(test), *self._outcome)

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        """A test failed."""
        super().addFailure(test, err)
        self._fail(self.failures[-1][1])

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        """A part of a test has ended; err is None if it passed."""
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._fail(f"{subtest}: {err[1]!r}")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        """A test was skipped."""
        super().addSkip(test, reason)
        self._outcome = ("skipped", reason)

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:
        """A test failed as its authors expect."""
        super().addExpectedFailure(test, err)
        self._outcome = ("skipped", "expected to fail")

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        """A test passed that its authors expect to fail."""
        super().addUnexpectedSuccess(test)
        self._fail("unexpected success")

    def _fail(self, detail: str) -> None:
        earlier = self._outcome[1] + "\n" if self._outcome[0] == "failed" else ""
        self._outcome = ("failed", earlier + detail)


def name_of(test: unittest.TestCase) -> str:
    """Class and method."""
    return test.id().removeprefix(f"{type(test).__module__}.")


def main(adapter: str, *rest: str) -> None:
    """Run the suite."""
    faulthandler.enable()
    *arguments, loop, records = rest
    RecordingResult.recorder = Recorder(Path(records))
    cases = importlib.import_module(adapter).cases(loop, *arguments)
    suite = unittest.TestSuite(unittest.defaultTestLoader.loadTestsFromTestCase(case) for case in cases)
    unittest.TextTestRunner(verbosity=2, resultclass=RecordingResult).run(suite)
    RecordingResult.recorder.done()


if __name__ == "__main__":
    main(*sys.argv[1:])
