"""install(): plugging into an event loop that exists already.

Layer: above the mixin, whose methods it lays over the loop's. Thread: the loop's.
"""

from __future__ import annotations

import asyncio
import types
from types import TracebackType
from typing import Any, Self

from aiovfork._loops import NATIVE, PLUG, SubprocessLoopMixin
from aiovfork._native import Unsupported, agreed
from aiovfork._ports import close_port_of


def install(
    loop: asyncio.AbstractEventLoop | None = None, *, unsupported: Unsupported = "refuse"
) -> Installation:
    """Make a loop that exists already start its children with aiovfork: the running one, unless given.

    Where you can choose the loop, use new_event_loop or the mixin instead. Until the returned Installation is
    undone, or the loop closed, the loop does what SubprocessLoopMixin describes, close() included. Installing
    again does nothing more: the loop is itself again when each Installation has been undone. What the loop's
    own class makes of subprocess_exec and subprocess_shell is not called meanwhile, but for what unsupported
    says.

    Call it on the loop's thread.

    Args:
        loop: The loop; None: the running one.
        unsupported: "native": until this Installation is undone, the loop's own implementation gets the
            calls with preexec_fn, see SubprocessLoopMixin. "refuse": this Installation does not ask for that;
            another one, or the loop, may.

    Raises:
        RuntimeError: No loop is running, or it is closed.
        TypeError: This is no event loop.
        ValueError: A wrong value of unsupported.
    """
    agreed(unsupported)
    if loop is None:
        loop = asyncio.get_running_loop()
    if not isinstance(loop, asyncio.AbstractEventLoop):
        raise TypeError(f"loop must be an asyncio event loop, not {type(loop).__name__!r}")
    if loop.is_closed():
        raise RuntimeError("Event loop is closed")
    plug: _Plug | None = None
    if not isinstance(loop, SubprocessLoopMixin):
        plug = getattr(loop, PLUG, None) or _Plug(loop)
        plug.holders += 1
    if unsupported == "native":
        vars(loop)[NATIVE] = vars(loop).get(NATIVE, 0) + 1
        return Installation(plug, loop)
    return Installation(plug)


class Installation:
    """What install() has done to a loop. As a context manager, it is undone at the end of the block."""

    def __init__(self, plug: _Plug | None, native_on: asyncio.AbstractEventLoop | None = None) -> None:
        self._plug = plug
        self._native_on = native_on

    def undo(self) -> None:
        """Give the loop its own methods back, unless another Installation still holds it. Idempotent.

        Children that run already are not affected. A method that somebody else has replaced since stays
        theirs.
        """
        native_on, self._native_on = self._native_on, None
        if native_on is not None:
            attributes = vars(native_on)
            attributes[NATIVE] -= 1
            if not attributes[NATIVE]:
                del attributes[NATIVE]
        plug, self._plug = self._plug, None
        if plug is not None:
            plug.holders -= 1
            if not plug.holders:
                plug.pull()

    def __enter__(self) -> Self:
        """Return the installation."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Undo it."""
        self.undo()


class _Plug:
    """The mixin's methods on an instance: bound to it, and laid over whatever it had."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.holders = 0
        self.own = {name: getattr(loop, name) for name in ("subprocess_exec", "subprocess_shell")}
        self._loop = loop
        self._close = loop.close
        self._methods: dict[str, Any] = {
            "subprocess_exec": types.MethodType(SubprocessLoopMixin.subprocess_exec, loop),
            "subprocess_shell": types.MethodType(SubprocessLoopMixin.subprocess_shell, loop),
            "close": self.close,
            PLUG: self,
        }
        attributes = vars(loop)
        self._before = {name: attributes[name] for name in self._methods if name in attributes}
        attributes.update(self._methods)

    def close(self) -> None:
        """As SubprocessLoopMixin.close."""
        close_port_of(self._loop)
        self._close()
        self.pull()

    def pull(self) -> None:
        """Take the methods off; idempotent."""
        attributes = vars(self._loop)
        for name, method in self._methods.items():
            if attributes.get(name) is not method:  # somebody else's by now
                continue
            if name in self._before:
                attributes[name] = self._before[name]
            else:
                del attributes[name]
        self._methods = {}
