"""The tests that need not pass: three lists, for three reasons, and nothing else excuses a failure.

A line is `SUITE TEST LOOP REASON`; LOOP is the name of one, or `*`. One that begins with `#` is a comment.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

Kind: TypeAlias = Literal["waived", "pending", "refused"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
FOLDER: Final = Path(__file__).parent
_FIELDS: Final = 4


class ExemptionError(Exception):
    """A list cannot be read."""


@dataclasses.dataclass(frozen=True)
class Exemption:
    """One line."""

    kind: Kind
    suite: str
    test: str
    loop: str
    reason: str

    def covers(self, suite: str, test: str, loop: str) -> bool:
        """Whether this is about that test there."""
        return self.suite == suite and self.test == test and self.loop in ("*", loop)

    def __str__(self) -> str:
        where = "" if self.loop == "*" else f" on {self.loop}"
        return f"{self.suite}: {self.test}{where}"


def read(folder: Path = FOLDER) -> list[Exemption]:
    """Read waived.txt, pending.txt and refused.txt.

    Raises:
        ExemptionError: A line has no reason, or two are about the same test on the same loop.
    """
    found: list[Exemption] = []
    for kind in KINDS:
        file = folder / f"{kind}.txt"
        for number, line in enumerate(file.read_text().splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            fields = line.split(None, _FIELDS - 1)
            if len(fields) < _FIELDS:
                raise ExemptionError(f"{file.name}:{number}: not SUITE TEST LOOP REASON")
            found.append(Exemption(kind, *fields))
    _check_unique(found)
    return found


def _check_unique(exemptions: Iterable[Exemption]) -> None:
    seen: dict[tuple[str, str], set[str]] = {}
    for exemption in exemptions:
        loops = seen.setdefault((exemption.suite, exemption.test), set())
        if exemption.loop in loops or "*" in loops or (loops and exemption.loop == "*"):
            raise ExemptionError(f"listed twice: {exemption}")
        loops.add(exemption.loop)
