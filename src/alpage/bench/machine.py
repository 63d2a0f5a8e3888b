"""What this machine is: processor, memory, system. Facts only; unknown ones are None."""

import os
import platform
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from time import sleep
from typing import Any, Self

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts that belong beside every figure."""

    processor: str
    architecture: str
    logical_processors: int
    usable_processors: int
    """Those that this process may run on."""
    quota: float | None
    """Processors' worth of time that a container allows; None without a limit."""
    last_level_cache: str | None
    memory_bytes: int | None
    system: str
    python: str

    def as_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


def this_machine() -> Machine:
    """Ask the operating system."""
    logical = os.cpu_count() or 1
    affinity = getattr(os, "sched_getaffinity", None)
    return Machine(
        processor=_processor(),
        architecture=platform.machine(),
        logical_processors=logical,
        usable_processors=len(affinity(0)) if affinity else logical,
        quota=_quota(),
        last_level_cache=_last_level_cache(),
        memory_bytes=_memory(),
        system=f"{platform.system()} {platform.release()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
    )


@dataclass(frozen=True, slots=True)
class Times:
    """Processor time since the start of the system, in its own unit (`proc_stat`, section cpu)."""

    used: int
    """By programs and the system; includes `stolen`."""
    stolen: int
    """What a virtual machine was ready to use and did not get."""
    total: int

    def __sub__(self, earlier: Self) -> Self:
        return type(self)(
            self.used - earlier.used, self.stolen - earlier.stolen, self.total - earlier.total
        )


def processor_times() -> Times | None:
    """Of all processors together; None where the system does not tell."""
    numbers = [int(word) for word in _read(Path("/proc/stat")).partition("\n")[0].split()[1:9]]
    if len(numbers) < 8:
        return None
    idle = numbers[3] + numbers[4]  # the rest: user, nice, system, irq, softirq, steal
    return Times(used=sum(numbers) - idle, stolen=numbers[7], total=sum(numbers))


def stolen_share(before: Times | None, after: Times | None) -> float | None:
    """Of the processor time that was wanted in between, what a virtual machine did not get."""
    if before is None or after is None or after.used == before.used:
        return None
    passed = after - before
    return round(passed.stolen / passed.used, 3)


def others_at_work(seconds: float = 0.5) -> float | None:
    """How many processors other programs use now; elsewhere than on Linux, the load average."""
    before = processor_times()
    if before is None:
        try:
            return round(os.getloadavg()[0], 2)
        except (AttributeError, OSError):
            return None
    sleep(seconds)
    after = processor_times()
    if after is None or after.total == before.total:
        return None
    passed = after - before
    return round(passed.used / passed.total * (os.cpu_count() or 1), 2)


def _processor() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", _read(Path("/proc/cpuinfo")), re.MULTILINE)
    if found:
        return found[1].strip()
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
            return done.stdout.strip()
        except (OSError, subprocess.SubprocessError):
            pass
    return platform.processor() or platform.machine()


def _quota() -> float | None:
    """Control groups of version 2 and 1 ("max" and -1 mean no limit)."""
    parts = _read(_CGROUP / "cpu.max").split()
    if len(parts) != 2:
        folder = _CGROUP / "cpu"
        parts = [_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    if not all(part.isdigit() for part in parts) or not int(parts[1]):
        return None
    return int(parts[0]) / int(parts[1])


def _last_level_cache() -> str | None:
    folders = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"))
    sizes = {_read(folder / "level").strip(): _read(folder / "size").strip() for folder in folders}
    level = max(sizes, default="")
    return f"L{level} {sizes[level]}" if level and sizes[level] else None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
