"""How much of a tensor's memory is resident: Linux's own figure for the mapping it lies in, and nothing else of the
process, whose heap grows and shrinks as it likes."""

import sys
from pathlib import Path

import pytest
from torch import Tensor

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/smaps")


def resident_bytes(tensor: Tensor) -> int:
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        first, _, last = line.split()[0].partition("-")
        if last and int(first, 16) <= tensor.data_ptr() < int(last, 16):
            size = next(line for line in lines if line.startswith("Rss:"))
            return int(size.split()[1]) * 1024
    raise AssertionError("every tensor lies in a mapping")
