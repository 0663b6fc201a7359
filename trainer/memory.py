"""The memory of this process, as the system counts it."""

import resource
from pathlib import Path


def peak_bytes() -> int:
    """Returns the largest resident size so far, interpreter and libraries included."""
    found = _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if found is None else found


def resident_bytes() -> int:
    """Returns the resident size now; the peak where the system does not say."""
    found = _status("VmRSS")
    return peak_bytes() if found is None else found


def _status(name: str) -> int | None:
    try:
        text = Path("/proc/self/status").read_text()
    except FileNotFoundError:  # not Linux
        return None
    for line in text.splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None
