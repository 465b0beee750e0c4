"""How many threads this process can usefully compute with. Asks the system; changes nothing."""

import math

import psutil

from model.cgroup import ControlGroups


def num_usable_cores(groups: ControlGroups | None = None) -> int:
    """Physical cores (a second thread on a core adds nothing to a matrix product) that this process may run on, and no
    more than its container is given time for. At least 1."""
    quota = (groups or ControlGroups()).cores()
    cores = num_allowed_cores()
    return max(1, cores if quota is None else min(cores, math.floor(quota)))


def num_allowed_cores() -> int:
    """Physical cores, in the share of them that this process may run on."""
    logical = psutil.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or logical
    process = psutil.Process()
    allowed = len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else logical  # not on macOS
    return math.ceil(allowed * physical / logical)
