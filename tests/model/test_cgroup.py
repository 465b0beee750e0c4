from pathlib import Path

import pytest

from model.cgroup import ControlGroups


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_version_2_takes_the_tightest_limit_on_the_way_up(tmp_path: Path) -> None:
    files = {
        "a/b/memory.max": "1000\n",
        "a/b/memory.current": "300\n",
        "a/b/memory.stat": "anon 200\ninactive_file 50\n",
        "a/memory.max": "5000\n",
        "a/memory.current": "4900\n",
        "a/b/cpu.max": "max 100000\n",
        "a/cpu.max": "150000 100000\n",
    }
    groups = ControlGroups(write(tmp_path, files), "0::/a/b\n")
    assert groups.free_memory() == 100
    assert groups.cores() == 1.5


def test_file_pages_that_could_be_dropped_are_free(tmp_path: Path) -> None:
    files = {"memory.max": "1000", "memory.current": "900", "memory.stat": "active_file 7\ninactive_file 400\n"}
    assert ControlGroups(write(tmp_path, files), "0::/\n").free_memory() == 500


def test_more_used_than_allowed_leaves_nothing(tmp_path: Path) -> None:
    files = {"memory.max": "1000", "memory.current": "1200"}
    assert ControlGroups(write(tmp_path, files), "0::/\n").free_memory() == 0


@pytest.mark.parametrize("hierarchy", ["cpu,cpuacct", "cpu"])
def test_version_1_has_a_hierarchy_for_each_controller(tmp_path: Path, hierarchy: str) -> None:
    files = {
        "memory/box/memory.limit_in_bytes": "2000",
        "memory/box/memory.usage_in_bytes": "1500",
        "memory/box/memory.stat": "inactive_file 1\ntotal_inactive_file 100\n",
        f"{hierarchy}/box/cpu.cfs_quota_us": "250000",
        f"{hierarchy}/box/cpu.cfs_period_us": "100000",
        f"{hierarchy}/cpu.cfs_quota_us": "-1",
        f"{hierarchy}/cpu.cfs_period_us": "100000",
    }
    groups = ControlGroups(write(tmp_path, files), "4:memory:/box\n2:cpu,cpuacct:/box\n1:name=systemd:/\n0::/\n")
    assert groups.free_memory() == 600
    assert groups.cores() == 2.5


def test_a_container_that_sees_only_the_end_of_its_path(tmp_path: Path) -> None:
    files = {"memory/memory.limit_in_bytes": "2000", "memory/memory.usage_in_bytes": "500"}
    assert ControlGroups(write(tmp_path, files), "4:memory:/docker/0123abc\n").free_memory() == 1500


@pytest.mark.parametrize("membership", ["", "0::/nowhere\n", "1:name=systemd:/init.scope\n"])
def test_without_limits_there_are_none(tmp_path: Path, membership: str) -> None:
    groups = ControlGroups(write(tmp_path, {"memory.max": "max", "memory.current": "5"}), membership)
    assert groups.free_memory() is None
    assert groups.cores() is None


def test_the_groups_of_this_process_can_be_read() -> None:
    groups = ControlGroups()
    free, cores = groups.free_memory(), groups.cores()
    assert free is None or free >= 0
    assert cores is None or cores > 0
