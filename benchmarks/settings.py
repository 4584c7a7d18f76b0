"""The description of one measurement in a process of its own, and its form as a command line."""

import argparse
import dataclasses
from typing import Any, Self

# Behind a module's name: its run(), not its create_subprocess_exec() and communicate().
RUN = ".run"
SPAWNERS = ("aiovfork", f"aiovfork{RUN}", "asyncio", "to_thread", "nothing")
VIEWS = ("rate", "callbacks", "lag")
LOOPS = ("asyncio", "uvloop")


def _field(default: Any, text: str, choices: tuple[str, ...] | None = None) -> Any:
    return dataclasses.field(default=default, metadata={"help": text, "choices": choices})


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is measured: a scenario, who spawns, and under which conditions. Times are seconds."""

    scenario: str = _field("stall", "what is measured")
    spawner: str = _field("aiovfork", "who starts the child", SPAWNERS)
    loop: str = _field("asyncio", "the event loop", LOOPS)
    command: str = _field("/bin/true", "the child, as a shell would split it")
    option: str = _field("", "an option of the spawn, see conditions.OPTIONS")
    heap_mb: int = _field(0, "private memory to hold, in MB")
    fds: int = _field(0, "descriptors to hold open")
    count: int = _field(500, "spawns")
    at_a_time: int = _field(16, "spawns at a time")
    per_second: int = _field(500, "spawns a second, for heartbeat, tick and workers")
    seconds: float = _field(2.0, "length of a phase, or of a held exec")
    size_mb: int = _field(1024, "output of one child, for bulk, through and captures")
    view: str = _field("rate", "what bulk and through look at", VIEWS)
    budget: float = _field(20.0, "stop sampling after this time")

    def arguments(self) -> list[str]:
        """The command line that parses into these settings."""
        arguments = [self.scenario]
        for field in dataclasses.fields(self)[1:]:
            value = getattr(self, field.name)
            if value != field.default:
                arguments += [f"--{field.name.replace('_', '-')}", str(value)]
        return arguments

    @classmethod
    def parse(cls, scenarios: list[str], arguments: list[str] | None = None) -> Self:
        """Settings from a command line, that of the process by default."""
        parser = argparse.ArgumentParser(
            prog="python -m benchmarks.one",
            description="One measurement; prints one line of JSON.",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        parser.add_argument("scenario", choices=scenarios)
        for field in dataclasses.fields(cls)[1:]:
            parser.add_argument(
                f"--{field.name.replace('_', '-')}",
                type=type(field.default),
                default=field.default,
                choices=field.metadata["choices"],
                help=field.metadata["help"],
            )
        return cls(**vars(parser.parse_args(arguments)))
