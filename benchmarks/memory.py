"""Memory of this process, in MB (2**20 bytes): now, and its peak since `peak_begins`; on Linux."""

import resource
from pathlib import Path


def resident() -> float:
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def peak_begins() -> None:
    """Let the peak count from here on."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> float:
    """The most this process had since."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM"))
