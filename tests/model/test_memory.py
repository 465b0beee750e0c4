from pathlib import Path

import psutil
import pytest

from model.cgroup import ControlGroups
from model.errors import ModelError
from model.memory import KVDemand, choose_num_blocks, free_memory

PATH = Path("some-model.gguf")
DEMAND = KVDemand(block_size=32, block_bytes=1000, max_num_seqs=4, max_model_len=100)


def test_the_fullest_cache_rounds_every_slot_up_to_whole_blocks() -> None:
    assert DEMAND.num_blocks == 4 * 4


@pytest.mark.parametrize(
    ("free", "limit", "num_blocks"),
    [
        (20_000, None, 10),  # half of it
        (21_999, None, 10),
        (10**9, None, 16),  # what can be used
        (10, 5_999, 5),  # what the user says, whatever is free
        (10, 10**9, 16),
    ],
)
def test_the_number_of_blocks(free: int, limit: int | None, num_blocks: int) -> None:
    assert choose_num_blocks(PATH, DEMAND, free, limit) == num_blocks


@pytest.mark.parametrize(
    ("free", "limit", "numbers"),
    [(1_998, None, ("1,000", "999", "half of the 1,998")), (10**9, 999, ("1,000", "999", "--kv-cache-memory"))],
)
def test_no_room_for_one_block_is_refused_with_the_arithmetic(
    free: int, limit: int | None, numbers: tuple[str]
) -> None:
    with pytest.raises(ModelError) as refusal:
        choose_num_blocks(PATH, DEMAND, free, limit)
    assert str(refusal.value).startswith("some-model.gguf: ")
    assert all(number in str(refusal.value) for number in numbers)


def test_a_containers_limit_counts_where_it_is_lower(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("5000")
    (tmp_path / "memory.current").write_text("1000")
    assert free_memory(ControlGroups(tmp_path, "0::/")) == 4000
    (tmp_path / "memory.max").write_text(str(2**60))
    assert 0 < free_memory(ControlGroups(tmp_path, "0::/")) <= psutil.virtual_memory().total
