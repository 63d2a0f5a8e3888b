"""How much memory this process may still take."""

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_LIMITS = (
    (_CGROUP / "memory.max", _CGROUP / "memory.current", _CGROUP / "memory.stat"),
    (
        _CGROUP / "memory" / "memory.limit_in_bytes",
        _CGROUP / "memory" / "memory.usage_in_bytes",
        _CGROUP / "memory" / "memory.stat",
    ),
)
_RECLAIMABLE = ("inactive_file", "total_inactive_file")


def available_memory() -> int | None:
    """Bytes left in the machine and in this process's control group; None where unknown."""
    left = [value for value in (_machine(), *(_group(*paths) for paths in _LIMITS)) if value]
    return min(left) if left else None


def _machine() -> int | None:
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    try:  # no /proc here: all of the memory is the best bound there is
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _group(limit: Path, used: Path, statistics: Path) -> int | None:
    """What a control group's limit leaves; cached files count as free, as the kernel drops them."""
    bound, taken = _read(limit).strip(), _read(used).strip()
    if not bound.isdigit() or not taken.isdigit():
        return None
    cached = [
        int(line.split()[1])
        for line in _read(statistics).splitlines()
        if line.split()[:1] and line.split()[0] in _RECLAIMABLE
    ]
    return max(1, int(bound) - int(taken) + max(cached, default=0))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
