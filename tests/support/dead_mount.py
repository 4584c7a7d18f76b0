"""A file system whose server does not answer any more: FUSE, without a server's library."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import struct
import threading
from collections.abc import Iterator
from typing import Any, Final

_INIT: Final = 26
_OPENDIR: Final = 27
_DETACH_AND_FORCE: Final = 3  # MNT_FORCE | MNT_DETACH


class DeadMount:
    """The mount; `asked` is set once somebody waits for an answer that does not come."""

    def __init__(self, path: str, fuse: int) -> None:
        self.path = path
        self.asked = threading.Event()
        self._fuse = fuse
        self._server = threading.Thread(target=self._serve)
        self._server.start()

    def _serve(self) -> None:
        """Answer what mounting, and opening the root, needs. All else is never answered."""
        while True:
            try:
                request = os.read(self._fuse, 1 << 17)
            except OSError:  # unmounted
                return
            _, operation, unique = struct.unpack_from("=IIQ", request)
            if operation == _INIT:
                answer = struct.pack("=IIIIHHIIHHI28x", 7, 31, 65536, 0, 12, 9, 65536, 1, 32, 0, 0)
            elif operation == _OPENDIR:
                answer = struct.pack("=QII", 1, 0, 0)
            else:
                self.asked.set()
                continue
            os.write(self._fuse, struct.pack("=IiQ", 16 + len(answer), 0, unique) + answer)


@contextlib.contextmanager
def dead_mount(directory: pathlib.Path) -> Iterator[DeadMount]:
    """Mount it; the end of the block ends everybody's wait. Needs root and /dev/fuse.

    Raises:
        OSError: It cannot be mounted here.
    """
    libc: Any = ctypes.CDLL(None, use_errno=True)
    where = os.fsencode(directory)
    fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0".encode()
    try:
        if libc.mount(b"dead", where, b"fuse", 0, options) < 0:
            raise OSError(ctypes.get_errno(), "mount of a FUSE file system")
        mount = DeadMount(str(directory), fuse)
        try:
            yield mount
        finally:
            libc.umount2(where, _DETACH_AND_FORCE)
    finally:
        os.close(fuse)
