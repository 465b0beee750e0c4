"""What of sampling is seldom asked for, in the kernels of every instruction set: masks and biases, top_n_sigma,
typical_p and XTC, against the torch backend and against the rule by the book; and the reports of any token."""

from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch

from model.batch import NO_CHOICE, NOT_FINITE, ChunkResult, SamplingParams
from model.torch_backend import sampling
from model.torch_backend.edits import SamplingRow
from tests.model.native.kernel_library import instruction_sets
from tests.model.native.sampling_book import assert_as_good, is_as_good, kept_by_the_book, numbers
from tests.model.native.sampling_kernel import Case, Floats, report, sample

GREEDY = SamplingParams(temperature=0.0)


@pytest.fixture(params=instruction_sets())
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def mask(allowed: list[int], num_bytes: int) -> bytes:
    data = bytearray(num_bytes)
    for token in allowed:
        data[token // 8] |= 1 << token % 8
    return bytes(data)


def drawn(isa: str, case: Case, num: int = 200) -> set[int | None]:
    """The tokens of that many positions."""
    return {sample(isa, replace(case, position=position)).token_id for position in range(num)}


# ---- All of it together ----


def random_case(vocab_size: int, seed: int) -> Case:
    random = np.random.default_rng(seed)
    ids = random.permutation(vocab_size)[: min(vocab_size, 9)].tolist()
    amounts = [float(np.float32(x)) for x in random.normal(0, 5, 9)]
    params = SamplingParams(
        temperature=float(random.choice([0.0, 0.5, 1.0, 1.0, 2.0])),
        top_k=int(random.choice([0, 0, 0, 5, 400])),
        top_p=float(random.choice([1.0, 1.0, 0.25, 0.875])),
        min_p=float(random.choice([0.0, 0.0, 0.0625])),
        typical_p=float(random.choice([1.0, 1.0, 0.0, 0.2, 0.9, 0.999])),
        top_n_sigma=float(random.choice([0.0, 0.0, 0.3, 1.0, 2.5])),
        xtc_probability=float(random.choice([0.0, 0.0, 0.5, 1.0])),
        xtc_threshold=float(random.choice([0.0, 1e-6, 0.01, 0.1, 0.5])),
        logit_bias=tuple(zip(ids, amounts, strict=False)) if random.random() < 0.3 else (),
        repetition_penalty=float(random.choice([1.0, 1.0, 1.25])),
        frequency_penalty=float(random.choice([0.0, 0.0, 0.25])),
        seed=int(random.integers(2**64, dtype=np.uint64)),
        num_logprobs=(None, 0, 5)[random.integers(3)],
    )
    logits = random.normal(0, float(random.choice([0.5, 2.0, 8.0])), vocab_size).astype(np.float32)
    logits[random.integers(vocab_size, size=vocab_size // 10)] = -np.inf if seed % 3 == 0 else 0.25
    allowed = random.integers(0, 256, -(-vocab_size // 8), dtype=np.uint8)
    allowed[random.random(len(allowed)) < random.choice([0.0, 0.5, 0.99])] = random.choice([0, 255])
    return Case(
        logits,
        params,
        position=int(random.integers(2**40)),
        output=tuple(random.integers(vocab_size, size=int(random.integers(20))).tolist()),
        allowed=(None, allowed.tobytes(), allowed.tobytes()[: len(allowed) // 2 + 1])[random.integers(3)],
        biases=((ids[0], -np.inf), (ids[-1], 3.5))[: int(random.integers(3))] if len(ids) > 1 else (),
    )


@cache
def many_cases(vocab_size: int) -> tuple[list[Case], list[ChunkResult]]:
    cases = [random_case(vocab_size, 7000 * vocab_size + i) for i in range(200 if vocab_size < 10_000 else 30)]
    return cases, [sample_by_torch(case) for case in cases]


def sample_by_torch(case: Case) -> ChunkResult:
    row = SamplingRow(case.params, case.position, len(case.output), case.counts, case.allowed, case.biases)
    (result,) = sampling.sample(torch.from_numpy(case.logits)[None], [row])
    return result


@pytest.mark.parametrize("vocab_size", [2, 31, 63, 1000, 6400, 49152])
def test_every_set_chooses_what_torch_does(isa: str, vocab_size: int) -> None:
    cases, expected = many_cases(vocab_size)
    assert_as_good([sample(isa, case) for case in cases], expected, cases)


def test_what_is_called_as_good_is_not_just_anything() -> None:
    pairs = zip(*many_cases(6400), strict=True)
    drawn = [(case, result.token_id) for case, result in pairs if case.params.temperature > 0 and not result.error]
    assert all(is_as_good(token or 0, case) for case, token in drawn)
    assert not any(is_as_good((token or 0) ^ 1, case) for case, token in drawn)


def test_every_vector_width_gives_the_same_bits() -> None:
    vectors = [isa for isa in instruction_sets() if isa != "scalar"]
    for vocab_size, i in product((63, 1000, 49152), range(20)):
        case = random_case(vocab_size, i)
        case = replace(case, params=replace(case.params, num_logprobs=3))
        assert len({sample(isa, case) for isa in vectors}) <= 1


# ---- What is allowed, and biases ----


@pytest.mark.parametrize("vocab_size", [1, 7, 8, 31, 32, 33, 63, 64, 1000])
def test_what_is_not_allowed_is_not_chosen(isa: str, vocab_size: int) -> None:
    """Each token as the only one; in masks of the very size, in longer ones, and in those that end behind its bit."""
    logits = np.zeros(vocab_size, dtype=np.float32)
    for token in {0, 1, 6, 7, 8, 15, 30, 31, 32, 62, 63, 998, 999} & set(range(vocab_size)):
        for num_bytes in (token // 8 + 1, -(-vocab_size // 8), -(-vocab_size // 8) + 5):
            case = Case(logits, SamplingParams(), allowed=mask([token], num_bytes))
            assert drawn(isa, case, 5) == {token}
            assert sample(isa, replace(case, params=GREEDY)).token_id == token
    everything = Case(logits, SamplingParams(seed=4), allowed=b"\xff" * 200)
    assert sample(isa, everything) == sample(isa, replace(everything, allowed=None))


def test_bits_behind_the_vocabulary_mean_nothing(isa: str) -> None:
    case = Case(np.zeros(63, dtype=np.float32), GREEDY, allowed=mask([63, 64, 90], 12))
    assert sample(isa, case) == ChunkResult(error=NO_CHOICE)


@pytest.mark.parametrize("allowed", [b"", bytes(8), mask([5], 1)])
def test_where_all_that_is_allowed_is_impossible_there_is_no_choice(isa: str, allowed: bytes) -> None:
    logits = np.zeros(63, dtype=np.float32)
    logits[5] = -np.inf
    for params in (GREEDY, SamplingParams(), SamplingParams(typical_p=0.5)):
        assert sample(isa, Case(logits, params, allowed=allowed)) == ChunkResult(error=NO_CHOICE)
    logits[7] = np.nan
    assert sample(isa, Case(logits, GREEDY, allowed=allowed)) == ChunkResult(error=NOT_FINITE)


def test_biases_are_added_to_each_other_and_do_not_bring_back_what_may_not_be(isa: str) -> None:
    logits = np.zeros(100, dtype=np.float32)
    logits[[3, 4]] = [1.0, -np.inf]
    params = replace(GREEDY, logit_bias=((7, 0.75), (4, 100.0)), min_tokens=1, suppressed_token_ids=(9,))
    assert sample(isa, Case(logits, params)).token_id == 3
    assert sample(isa, Case(logits, params, biases=((7, 0.5),))).token_id == 7
    assert sample(isa, Case(logits, params, biases=((3, -np.inf),))).token_id == 7
    assert sample(isa, Case(logits, params, biases=((9, 100.0),))).token_id == 3
    assert sample(isa, Case(logits, params, biases=((9, 100.0), (8, 99.0)), allowed=mask([3, 9], 2))).token_id == 3


def test_biases_come_before_penalties(isa: str) -> None:
    """-1 + 3 is divided by 2; -1 times 2 would become 1, too, and lose."""
    logits = np.full(20, -10.0, dtype=np.float32)
    logits[[2, 5]] = [-1.0, 0.99]
    params = replace(GREEDY, repetition_penalty=2.0, logit_bias=((2, 3.0),))
    assert sample(isa, Case(logits, params, prompt=(2,))).token_id == 2
    assert sample(isa, Case(logits, replace(params, repetition_penalty=2.5), prompt=(2,))).token_id == 5


def test_what_is_reported_knows_of_no_mask_and_no_bias(isa: str) -> None:
    logits = np.linspace(0, 3, 300, dtype=np.float32)
    params = replace(GREEDY, num_logprobs=2, logit_bias=((4, 50.0),))
    result = sample(isa, Case(logits, params, allowed=mask([4, 5], 1), biases=((5, 49.0),)))
    assert result.token_id == 4
    assert [token for token, _ in result.top_logprobs] == [299, 298]
    assert result.logprob == pytest.approx(torch.from_numpy(logits).double().log_softmax(-1)[4].item(), rel=1e-6)


# ---- The filters, by numbers that can be checked in the head ----


def of_shares(shares: list[float], vocab_size: int = 70) -> Floats:
    """Logits of tokens 0, 1, … with these weights; the others are impossible."""
    logits = np.full(vocab_size, -np.inf, dtype=np.float32)
    logits[: len(shares)] = np.log(shares)
    return logits


def test_top_n_sigma_measures_the_finite_logits_whatever_the_temperature(isa: str) -> None:
    """Five logits with the mean 2 and the deviation 2: what is below 5 - 2n goes, what is there stays."""
    logits = np.full(100, -np.inf, dtype=np.float32)
    logits[[10, 20, 30, 40, 50]] = [5, 3, 1, 1, 0]
    deviation = float(np.array([5, 3, 1, 1, 0]).std())
    for temperature in (0.5, 1.0, 50.0):
        params = SamplingParams(temperature=temperature)
        for reach, kept in ((0.1, {10}), (1.9, {10}), (2.1, {10, 20}), (4.1, {10, 20, 30, 40})):
            case = Case(logits, replace(params, top_n_sigma=reach / deviation))
            assert drawn(isa, case, 40) <= kept
            if temperature == 50:
                assert drawn(isa, case) == kept
    even = np.full(100, 2.5, dtype=np.float32)
    assert len(drawn(isa, Case(even, SamplingParams(top_n_sigma=0.001)))) > 50


def test_top_n_sigma_does_not_count_what_is_not_allowed(isa: str) -> None:
    logits = np.array([4, 2, 0, -1000, -1000, -1000, -1000, -1000], dtype=np.float32)
    case = Case(logits, SamplingParams(temperature=9.0, top_n_sigma=1.0))
    assert drawn(isa, case) == {0, 1, 2}
    assert drawn(isa, replace(case, allowed=bytes([0b111]))) == {0}  # the deviation of 4, 2, 0 is 1.63


@pytest.mark.parametrize(
    ("share", "kept"),
    [
        (0.0, {1}),
        (0.29, {1}),
        (0.31, {0, 1}),
        (0.8, {0, 1}),
        (0.81, {0, 1, 2}),
        (0.91, {0, 1, 2, 3}),
        (1.0, {0, 1, 2, 3}),
    ],
)
def test_typical_p_begins_at_the_entropy(isa: str, share: float, kept: set[int]) -> None:
    """Surprises of 0.69, 1.20, 2.30 and 2.30, 1.17 on average."""
    logits = of_shares([0.5, 0.3, 0.1, 0.1])
    assert drawn(isa, Case(logits, SamplingParams(typical_p=share))) == kept


def test_the_most_likely_token_may_not_be_typical_and_min_p_measures_what_is_left(isa: str) -> None:
    """One of a surprise of 0.51, fifty of 4.83: 2.24 on average, nearer to the one. One of 1.05, fifty of 4.34: 3.19,
    nearer to the many. Those are as typical as one another, so that the lowest ids are taken."""
    params = SamplingParams(typical_p=0.09, min_p=0.5)
    assert drawn(isa, Case(of_shares([0.6, *[0.008] * 50]), params)) == {0}
    assert drawn(isa, Case(of_shares([0.35, *[0.013] * 50]), params), 400) == set(range(1, 8))


def test_greedy_is_not_filtered(isa: str) -> None:
    logits = of_shares([0.35, *[0.013] * 50])
    filters = {"typical_p": 0.1, "xtc_probability": 1.0, "xtc_threshold": 0.01, "top_n_sigma": 0.1}
    assert sample(isa, Case(logits, replace(GREEDY, **filters))).token_id == 0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("threshold", "kept"),
    [(0.6, {0, 1, 2, 3, 4}), (0.3, {0, 1, 2, 3, 4}), (0.25, {1, 2, 3, 4}), (0.15, {2, 3, 4}), (0.01, {4}), (0.0, {4})],
)
def test_xtc_leaves_the_least_of_the_likely_ones(isa: str, threshold: float, kept: set[int]) -> None:
    logits = of_shares([0.4, 0.28, 0.16, 0.1, 0.06])
    params = SamplingParams(xtc_probability=1.0, xtc_threshold=threshold)
    assert drawn(isa, Case(logits, params), 300) == kept
    assert drawn(isa, Case(logits, replace(params, xtc_probability=0.0)), 300) == {0, 1, 2, 3, 4}


def test_xtc_keeps_equals_together_and_measures_shares_of_what_is_left(isa: str) -> None:
    even = of_shares([0.2] * 5)
    assert drawn(isa, Case(even, SamplingParams(xtc_probability=1.0, xtc_threshold=0.2))) == {0, 1, 2, 3, 4}
    logits = of_shares([0.4, 0.2, 0.2, 0.1, 0.1])
    params = SamplingParams(xtc_probability=1.0, xtc_threshold=0.24)
    assert drawn(isa, Case(logits, params)) == {0, 1, 2, 3, 4}  # one alone is never left out
    assert drawn(isa, Case(logits, replace(params, top_k=3))) == {1, 2}  # 0.25 each
    assert drawn(isa, Case(logits, replace(params, top_p=0.7))) == {1, 2}
    assert drawn(isa, Case(logits, replace(params, min_p=0.45))) == {1, 2}


def test_xtc_has_a_number_of_its_own_for_each_position(isa: str) -> None:
    logits = of_shares([0.5, 0.5 - 1e-3, 1e-3])
    params = SamplingParams(xtc_probability=0.3, xtc_threshold=0.1, seed=2**63 + 5)
    happened = []
    for position in range(200):
        u, v = numbers(params.seed, position)
        happened.append(v < 0.3)
        kept = np.flatnonzero(kept_by_the_book(Case(logits, params, position)))
        assert (0 in kept) == (v >= 0.3)
        expected = 0 if v >= 0.3 and u < 0.5 else 2 if u > (0.998 if v < 0.3 else 0.999) else 1
        assert sample(isa, Case(logits, params, position)).token_id == expected
    assert 40 < sum(happened) < 80


# ---- Reports of any token ----


@pytest.mark.parametrize("vocab_size", [1, 63, 1000, 49152])
def test_a_report_is_that_of_a_token_that_was_chosen(isa: str, vocab_size: int) -> None:
    logits = np.random.default_rng(vocab_size).normal(0, 4, vocab_size).astype(np.float32)
    exact = torch.from_numpy(logits).double().log_softmax(-1).numpy()
    for token, num_top in ((0, 0), (vocab_size - 1, 3), (vocab_size // 2, 20)):
        result = report(isa, logits, token, num_top)
        params = replace(GREEDY, num_logprobs=num_top, logit_bias=((token, 100.0),))
        assert result == sample(isa, Case(logits, params))
        assert result.logprob == pytest.approx(exact[token], rel=1e-6, abs=2e-7)
        assert [one for one, _ in result.top_logprobs] == np.argsort(-logits, kind="stable")[:num_top].tolist()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_not_finite_has_no_report(isa: str, bad: float) -> None:
    logits = np.zeros(63, dtype=np.float32)
    logits[40] = bad
    assert report(isa, logits, 3, 2) == ChunkResult(error=NOT_FINITE)
    assert report(isa, np.full(63, -np.inf, dtype=np.float32), 3, 2) == ChunkResult(error=NOT_FINITE)
