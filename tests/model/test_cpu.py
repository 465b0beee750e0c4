from pathlib import Path

import psutil
import pytest

from model.cgroup import ControlGroups
from model.cpu import num_allowed_cores, num_usable_cores


def groups_with_quota(tmp_path: Path, quota: str) -> ControlGroups:
    (tmp_path / "cpu.max").write_text(f"{quota} 100000")
    return ControlGroups(tmp_path, "0::/")


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two threads each, of which this process may use six threads."""
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 16 if logical else 8)
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda _self: list(range(6)), raising=False)


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(("quota", "cores"), [("max", 3), ("250000", 2), ("50000", 1), ("900000", 3)])
def test_cores_not_threads_in_the_share_this_process_has(tmp_path: Path, quota: str, cores: int) -> None:
    assert num_usable_cores(groups_with_quota(tmp_path, quota)) == cores
    assert num_allowed_cores() == 3


def test_this_machine_has_a_core() -> None:
    assert 1 <= num_usable_cores() <= (psutil.cpu_count() or 1)
