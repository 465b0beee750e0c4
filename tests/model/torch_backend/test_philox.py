import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.torch_backend.philox import philox, second_uniforms, uniforms
from tests.model.sampling_by_the_book import philox_with_plain_integers

WORD = st.integers(0, 2**32 - 1)


def column(*words: int) -> np.ndarray:
    return np.array(words, dtype=np.uint64)[:, None]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers_of_random123(counter: tuple[int, ...], key: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert philox(column(*counter), column(*key))[:, 0].tolist() == list(expected)
    assert philox_with_plain_integers(list(counter), list(key)) == list(expected)


@given(st.lists(st.tuples(WORD, WORD, WORD, WORD, WORD, WORD), min_size=1, max_size=5))
def test_vectors_compute_what_plain_integers_do(words: list[tuple[int, ...]]) -> None:
    columns = np.array(words, dtype=np.uint64).T
    expected = [philox_with_plain_integers(list(w[:4]), list(w[4:])) for w in words]
    assert philox(columns[:4], columns[4:]).T.tolist() == expected


def test_a_uniform_is_53_bits_of_its_seed_and_position_and_the_second_one_is_others() -> None:
    seed, position = 0xFEDCBA9876543210, 0x1_0000_0007
    words = philox_with_plain_integers([7, 1, 0, 0], [0x76543210, 0xFEDCBA98])
    where = (np.array([seed], dtype=np.uint64), np.array([position], dtype=np.uint64))
    assert uniforms(*where).tolist() == [((words[0] << 32 | words[1]) >> 11) / 2**53]
    assert second_uniforms(*where).tolist() == [((words[2] << 32 | words[3]) >> 11) / 2**53]


def test_uniforms_are_evenly_spread_over_positions_and_over_seeds() -> None:
    many, zeros = np.arange(100_000, dtype=np.uint64), np.zeros(100_000, dtype=np.uint64)
    for drawn in (f(*where) for f in (uniforms, second_uniforms) for where in ((zeros, many), (many, zeros))):
        counts = np.bincount((drawn * 50).astype(int), minlength=50)
        chi_square = ((counts - 2000) ** 2 / 2000).sum()  # 49 degrees of freedom: 1 in 1000 lies above 85
        assert drawn.min() >= 0
        assert drawn.max() < 1
        assert chi_square < 85
