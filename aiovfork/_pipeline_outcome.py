"""What pipeline() returns and raises.

Layer: above the outcome of one program. Thread: any.
"""

from __future__ import annotations

import os
import shlex
import signal
from typing import Any, AnyStr, Generic

from aiovfork._errors import signal_name
from aiovfork._outcome import Completed, ProcessFailed, shown_command


class PipelineResult(Generic[AnyStr]):
    """How the programs of a pipeline ended, and what they wrote.

    Attributes:
        stages: How each ended, in order: the last has `stdout`, each its own `stderr`.
        pipefail: Whether each counts, or the last alone.
        duration: Seconds from the call to the end.
    """

    def __init__(self, stages: tuple[Completed[AnyStr], ...], *, pipefail: bool, duration: float) -> None:
        self.stages: tuple[Completed[Any], ...] = stages
        self.pipefail = pipefail
        self.duration = duration

    @property
    def args(self) -> str:
        """The commands, as a shell writes them."""
        return shown([stage.args for stage in self.stages])

    @property
    def stdout(self) -> AnyStr:
        """What the last has written to stdout; None if that was not captured."""
        stdout: AnyStr = self.stages[-1].stdout
        return stdout

    @property
    def stderr(self) -> tuple[AnyStr, ...]:
        """What each has written to stderr; None for each if that was not captured."""
        return tuple(stage.stderr for stage in self.stages)

    @property
    def returncodes(self) -> tuple[int, ...]:
        """The return code of each."""
        return tuple(stage.returncode for stage in self.stages)

    @property
    def failed(self) -> tuple[int, ...]:
        """Which have failed, from 0; without pipefail the last alone counts.

        SIGPIPE is no failure of any but the last: who comes next has read enough.
        """
        last = len(self.stages) - 1
        return tuple(
            number
            for number, code in enumerate(self.returncodes)
            if code and (number == last or (self.pipefail and code != -signal.SIGPIPE))
        )

    @property
    def returncode(self) -> int:
        """That of the last that has failed, as with pipefail in bash, or 0."""
        return self.stages[self.failed[-1]].returncode if self.failed else 0

    def check_returncode(self) -> None:
        """Raise PipelineFailed if one has failed."""
        if self.failed:
            raise PipelineFailed(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self.stages)!r})"


class PipelineFailed(ProcessFailed):
    """A program of a pipeline has failed. It is a ProcessFailed, about the last that has.

    Attributes:
        result: How all ended.
    """

    def __init__(self, result: PipelineResult[Any]) -> None:
        super().__init__(result.stages[result.failed[-1]])
        self.result = result

    def _made_of(self) -> tuple[Any, ...]:
        return (self.result,)

    def _sentence(self) -> str:
        failed, codes = self.result.failed, self.result.returncodes
        command = f"Command {shown_command(self.cmd)}, {failed[-1] + 1} of {len(codes)} in a pipeline,"
        if self.returncode < 0:
            sentence = f"{command} died with {signal_name(-self.returncode)}"
        else:
            sentence = f"{command} returned non-zero exit status {self.returncode}"
        return sentence if len(failed) == 1 else f"{sentence} (all: {', '.join(map(str, codes))})"


def shown(commands: list[Any]) -> str:
    """Return commands as a shell writes a pipeline."""
    return " | ".join([shlex.join(map(os.fsdecode, command)) for command in commands])
