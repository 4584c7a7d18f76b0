"""The tests that need not pass: three lists, for three reasons, and nothing else excuses a failure.

A line is `SUITE TEST LOOP REASON`; LOOP is the name of one, or `*`. One that begins with `#` is a comment.
"""

import dataclasses
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

Kind: TypeAlias = Literal["waived", "pending", "refused"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
FOLDER: Final = Path(__file__).parent


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
        ValueError: A line has no reason.
    """
    found: list[Exemption] = []
    for kind in KINDS:
        file = folder / f"{kind}.txt"
        for number, line in enumerate(file.read_text().splitlines(), 1):
            if line.strip() and not line.startswith("#"):
                try:
                    suite, test, loop, reason = line.split(None, 3)
                except ValueError:
                    raise ValueError(f"{file.name}:{number}: not SUITE TEST LOOP REASON") from None
                found.append(Exemption(kind, suite, test, loop, reason))
    return found
