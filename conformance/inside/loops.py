"""The loops that suites run on."""

import asyncio
from collections.abc import Callable
from typing import Final, TypeAlias

import uvloop

import aiovfork

LoopFactory: TypeAlias = Callable[[], asyncio.AbstractEventLoop]

#: By the names that loops have in the whole of this package.
FACTORIES: Final[dict[str, LoopFactory]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
    "aiovfork": aiovfork.new_event_loop,
    "aiovfork-uvloop": aiovfork.new_uvloop_event_loop,
}
