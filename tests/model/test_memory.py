from pathlib import Path

import psutil
import pytest

from model.cgroup import ControlGroups
from model.errors import ModelError
from model.memory import KVDemand, choose_num_blocks, free_memory, require_room_for_weights
from tests.model.runners import ON_EVERY_RUNNER, make_runner

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
        (6_000, 5_999, 5),  # what the user says, were it all that is free
        (6_000, 6_000, 6),
        (10**9, 10**9, 16),
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


def test_a_limit_larger_than_memory_is_refused_with_the_arithmetic() -> None:
    """Also where less of it could be used than is free: the number is a mistake all the same."""
    demand = KVDemand(block_size=32, block_bytes=64_000, max_num_seqs=4, max_model_len=100, num_weight_bytes=123_456)
    with pytest.raises(ModelError) as refusal:
        choose_num_blocks(PATH, demand, free_bytes=10**7, limit=10**7 + 1)
    for part in (
        "--kv-cache-memory asks for 10,000,001 bytes, and 10,000,000 are free",
        "the weights have taken 123,456",
        "A token takes 2,000 bytes, a block of 32 tokens 64,000",
        "156 blocks, 4,992 tokens",
        "--max-num-seqs 4 requests of 100 tokens would fill 1,024,000 bytes",
    ):
        assert part in str(refusal.value)


def test_weights_larger_than_memory_are_refused_before_they_are_read() -> None:
    require_room_for_weights(PATH, 1_000, 1_000)
    with pytest.raises(
        ModelError, match="weights take 12,345 bytes of memory, 2,345 more than the 10,000 that are free"
    ):
        require_room_for_weights(PATH, 12_345, 10_000)


@ON_EVERY_RUNNER
def test_no_backend_starts_to_read_weights_that_have_no_room(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "model.native.weights" if backend == "native" else "model.torch_backend.runner"
    name = "_free_memory" if backend.startswith("torch") else "free_memory"
    monkeypatch.setattr(f"{module}.{name}", lambda *_: 100_000)
    with pytest.raises(ModelError, match="weights take 41[0-9],[0-9]{3} bytes of memory"):
        make_runner(backend)


@ON_EVERY_RUNNER
def test_a_runner_knows_the_weights_beside_its_cache(backend: str) -> None:
    with pytest.raises(ModelError, match="the weights have taken [1-9][0-9,]+ already"):
        make_runner(backend, kv_cache_memory=2**50)


def test_a_containers_limit_counts_where_it_is_lower(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("5000")
    (tmp_path / "memory.current").write_text("1000")
    assert free_memory(ControlGroups(tmp_path, "0::/")) == 4000
    (tmp_path / "memory.max").write_text(str(2**60))
    assert 0 < free_memory(ControlGroups(tmp_path, "0::/")) <= psutil.virtual_memory().total
