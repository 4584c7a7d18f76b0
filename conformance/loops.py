"""The loops that suites run on, by name; what they are is in inside/loops.py."""

from typing import Final

#: For reference.
PLAIN: Final = ("asyncio", "uvloop")
#: What is judged.
JUDGED: Final = ("aiovfork", "aiovfork-uvloop")
ALL: Final = (*PLAIN, *JUDGED)

TITLES: Final = {
    "asyncio": "asyncio",
    "uvloop": "uvloop",
    "aiovfork": "aiovfork",
    "aiovfork-uvloop": "aiovfork on uvloop",
}
