"""How much of the machine went to others while something was measured: a figure taken beside a compiler says little.

Servers whose threads wait for each other by spinning lose far more than their share to a neighbour, so this is shown
beside every figure.
"""

from collections.abc import Callable
from typing import TypeVar

import psutil

ResultT = TypeVar("ResultT")


def with_neighbours(measure: Callable[[], ResultT], pid: int) -> tuple[ResultT, float]:
    """What `measure` gives, and the cores that neither this process nor that tree of processes used meanwhile."""
    ours, busy, idle = _used_by(pid), *_machine()
    result = measure()
    ours, now_busy, now_idle = _used_by(pid) - ours, *_machine()
    busy, idle = now_busy - busy, now_idle - idle
    cores = psutil.cpu_count() or 1
    return result, max(0.0, busy - ours) / (busy + idle) * cores


def _used_by(pid: int) -> float:
    """CPU seconds of this process and of a tree of others."""
    root = psutil.Process(pid)
    times = [process.cpu_times() for process in (psutil.Process(), root, *root.children(recursive=True))]
    return float(sum(time.user + time.system for time in times))


def _machine() -> tuple[float, float]:
    """CPU seconds of all cores since it started: busy and idle."""
    times = psutil.cpu_times()._asdict()
    idle = times["idle"] + times.get("iowait", 0.0)
    return sum(times.values()) - idle - times.get("guest", 0.0) - times.get("guest_nice", 0.0), idle
