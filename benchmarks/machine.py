"""What the figures were made on."""

import datetime as dt
import os
import platform
from typing import Any

import psutil
import pyperf

# A name of a machine is nobody's business; the others tell about this process, not about the machine.
_LEFT_OUT = frozenset({"hostname", "python_executable", "python_cflags", "python_config_args", "mem_max_rss"})


def describe() -> dict[str, Any]:
    """Machine, kernel and date; pyperf's own description with what it lacks."""
    metadata = pyperf.Run([1.0], collect_metadata=True).get_metadata()
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "memory_mb": psutil.virtual_memory().total >> 20,
        "libc": " ".join(platform.libc_ver()),
        **{name: value for name, value in metadata.items() if name not in _LEFT_OUT | {"date"}},
    }


def noise() -> str | None:
    """What makes the figures doubtful, if anything."""
    load, processors = os.getloadavg()[0], os.cpu_count() or 1
    if load > 0.3 * processors:
        return f"the load average is {load:.2f} on {processors} processors: the figures will be noisy"
    return None
