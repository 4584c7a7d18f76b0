"""What a test process writes down: one line of JSON for each event, flushed, so that a crash loses none."""

import json
import time
from pathlib import Path
from typing import Any

import aiovfork


class Recorder:
    """Writes the events of one test process."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w")  # for the life of the process
        self._started = 0.0

    def start(self, test: str) -> None:
        """Note that a test begins; if nothing follows, it did not survive."""
        self._started = time.monotonic()
        self._write(event="start", test=test)

    def end(self, test: str, outcome: str, detail: str = "") -> None:
        """Note how it ended: "passed", "failed" or "skipped"; detail is a traceback or a reason."""
        seconds = round(time.monotonic() - self._started, 3)
        self._write(event="end", test=test, outcome=outcome, detail=detail, seconds=seconds)

    def done(self) -> None:
        """Note that the suite has come to its end, and how many children aiovfork has started for it."""
        self._write(event="done", spawned=aiovfork.stats().spawned)

    def _write(self, **event: Any) -> None:
        self._file.write(json.dumps(event) + "\n")
        self._file.flush()
