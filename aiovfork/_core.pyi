"""Types of the generated extension module; the contract itself is csrc/aiovfork.cdef."""

from typing import Any

ffi: Any
lib: Any
