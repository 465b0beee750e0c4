"""What a Linux container may use: the limits of the control groups this process is in, versions 1 and 2.

Only reads. Where there are no control groups, or none with a limit, there is no limit. Formats: the kernel's
Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


def _own_membership() -> str:
    path = Path("/proc/self/cgroup")
    return path.read_text() if path.exists() else ""


@dataclass(frozen=True, slots=True)
class ControlGroups:
    root: Path = Path("/sys/fs/cgroup")
    membership: str = field(default_factory=_own_membership)  # lines "4:memory:/path"; version 2: "0::/path"

    def free_memory(self) -> int | None:
        """Bytes until the tightest limit; None: no limit. File pages the kernel could drop count as free."""
        free = [
            limit - used + _stat(folder / "memory.stat", inactive)
            for folder in self._folders("memory")
            for limit_name, used_name, inactive in (
                ("memory.max", "memory.current", "inactive_file"),
                ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
            )
            if (limit := _number(folder / limit_name)) is not None and (used := _number(folder / used_name)) is not None
        ]
        return max(0, min(free)) if free else None

    def cores(self) -> float | None:
        """Processor time per time; None: no limit."""
        shares = [quota / period for quota, period in map(_quota, self._folders("cpu")) if quota > 0 and period > 0]
        return min(shares) if shares else None

    def _folders(self, controller: str) -> Iterator[Path]:
        """The process's group and those above it, for limits hold for all below. In a container the path may be the
        host's, of which the container sees only the end: folders that are not there are passed over."""
        for line in self.membership.splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            bases = (
                (self.root / controllers, self.root / controller) if controllers else (self.root, self.root / "unified")
            )
            for base in dict.fromkeys(bases):
                group = base / path.lstrip("/")
                yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(base))


def _number(path: Path) -> int | None:
    """None where there is no file, or no limit."""
    text = path.read_text().strip() if path.is_file() else "max"
    return int(text) if text != "max" else None


def _stat(path: Path, name: str) -> int:
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((int(line.split()[1]) for line in lines if line.split()[0] == name), 0)


def _quota(folder: Path) -> tuple[int, int]:
    """Microseconds of processor time in a period; (-1, …): no limit."""
    if (folder / "cpu.max").is_file():
        quota, period = (folder / "cpu.max").read_text().split()
        return (-1 if quota == "max" else int(quota)), int(period)
    return _number(folder / "cpu.cfs_quota_us") or -1, _number(folder / "cpu.cfs_period_us") or 0
