"""The loops that suites run on. Test processes import this too; they have aiovfork and uvloop."""

import asyncio
from collections.abc import Callable
from typing import Final

import uvloop

import aiovfork

FACTORIES: Final[dict[str, Callable[[], asyncio.AbstractEventLoop]]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
    "aiovfork": aiovfork.new_event_loop,
    "aiovfork-uvloop": aiovfork.new_uvloop_event_loop,
}
#: What is judged; the others are for reference.
JUDGED: Final = ("aiovfork", "aiovfork-uvloop")
TITLES: Final = {name: name.replace("-", " on ") for name in FACTORIES}
