import numpy as np

from model.torch_backend.philox import philox, uniforms


def test_the_published_answer_for_counter_and_key_zero() -> None:
    words = philox(np.zeros((4, 1), np.uint64), np.zeros((2, 1), np.uint64))
    assert [f"{int(word[0]):08x}" for word in words] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]


def test_a_number_depends_on_its_own_seed_and_position_only() -> None:
    seeds, positions = np.arange(1, 6, dtype=np.uint64), np.arange(10, 15, dtype=np.uint64)
    together = uniforms(seeds, positions)
    alone = [uniforms(seeds[i : i + 1], positions[i : i + 1])[0] for i in range(5)]
    assert together.tolist() == alone
    assert len(set(alone)) == 5
    assert all(0 <= number < 1 for number in alone)
