"""The Python interpreters that measure: what they have, and how they run one measurement."""

import dataclasses
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from benchmarks import scenarios
from benchmarks.settings import Settings

_ROOT = Path(__file__).parent.parent
_TIMEOUT = 300.0
# The tree goes last on the path: where aiovfork is installed as a wheel, that one is measured.
_BOOT = f"""
import runpy, sys
sys.path.append({str(_ROOT)!r})
runpy.run_module("benchmarks.one", run_name="__main__")
"""
_LOOK = """
import importlib.metadata, json, sys
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
names = ("aiovfork", "uvloop", "cffi", "hdrhistogram", "psutil", "distributed")
print(json.dumps({"python": "%d.%d.%d" % sys.version_info[:3], **{name: version(name) for name in names}}))
"""


class MeasurementError(Exception):
    """A measurement did not come to its end."""


@dataclasses.dataclass(frozen=True)
class Interpreter:
    """A Python, and the versions that it has of what matters (None: absent)."""

    path: str
    versions: dict[str, str | None]

    @property
    def name(self) -> str:
        """As in "3.13"."""
        return ".".join(str(self.versions["python"]).split(".")[:2])

    @classmethod
    def at(cls, path: str) -> "Interpreter":
        """Look at an interpreter.

        Raises:
            MeasurementError: It does not run, or lacks what every measurement needs.
        """
        try:
            done = subprocess.run(
                [path, "-P", "-c", _LOOK], check=True, capture_output=True, text=True, timeout=_TIMEOUT
            )
        except (OSError, subprocess.SubprocessError) as problem:
            raise MeasurementError(f"{path} does not run: {problem}") from problem
        versions: dict[str, str | None] = json.loads(done.stdout)
        missing = [name for name in ("aiovfork", "hdrhistogram", "psutil") if versions[name] is None]
        if missing:
            raise MeasurementError(f"{path} lacks {', '.join(missing)}")
        return cls(path, versions)

    def lacks(self, settings: Settings) -> str | None:
        """What is not there for this measurement, if anything."""
        wanted = {"uvloop": settings.loop == "uvloop", "distributed": settings.scenario in scenarios.DASK}
        return next((name for name in wanted if wanted[name] and self.versions[name] is None), None)

    def measure(self, settings: Settings) -> dict[str, Any]:
        """Run one measurement in a process of its own.

        Raises:
            MeasurementError: It failed, or took too long.
        """
        command = [self.path, "-P", "-c", _BOOT, *settings.arguments()]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        ) as worker:
            try:
                output, problems = worker.communicate(timeout=_TIMEOUT)
            except subprocess.TimeoutExpired:
                _end(worker)
                raise MeasurementError(f"no result after {_TIMEOUT:.0f} s") from None
            except BaseException:
                _end(worker)
                raise
        if worker.returncode != 0:
            raise MeasurementError(f"exit status {worker.returncode}\n{problems.strip()}")
        outcome: dict[str, Any] = json.loads(output)
        return outcome


def _end(worker: subprocess.Popen[str]) -> None:
    """End a worker and the children that it has, which are in the session that it leads."""
    os.killpg(worker.pid, signal.SIGKILL)
