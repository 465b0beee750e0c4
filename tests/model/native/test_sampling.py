"""The sampling kernel of every instruction set, against the rule's first implementation (`torch_backend/sampling.py`),
and against the rule by the book where the two may differ: at a boundary that rounding decides."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch

from model.batch import NO_CHOICE, NOT_FINITE, ChunkResult, SamplingParams
from model.torch_backend import sampling
from model.torch_backend.edits import SamplingRow
from model.torch_backend.philox import uniforms
from tests.model.native.kernel_library import instruction_sets
from tests.model.native.sampling_book import assert_as_good, is_as_good
from tests.model.native.sampling_kernel import Case, Floats, sample

GREEDY = SamplingParams(temperature=0.0)
VOCAB_SIZES = (1, 2, 63, 1000, 6400, 49152, 151936)


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Its threads wait for each other in a spin: on busy cores that takes most of the time of these tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=instruction_sets())
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def sample_by_torch(cases: list[Case]) -> list[ChunkResult]:
    logits = torch.from_numpy(np.stack([case.logits for case in cases]))
    rows = [
        SamplingRow(case.params, case.position, len(case.output), case.counts, case.allowed, case.biases)
        for case in cases
    ]
    return sampling.sample(logits, rows)


def random_logits(vocab_size: int, seed: int, spread: float = 3.0) -> Floats:
    return np.random.default_rng(seed).normal(0, spread, vocab_size).astype(np.float32)


def in_float32(params: SamplingParams) -> SamplingParams:
    """With the numbers that the kernel is given."""
    temperature, top_p, min_p = (float(np.float32(x)) for x in (params.temperature, params.top_p, params.min_p))
    return replace(params, temperature=temperature, top_p=top_p, min_p=min_p)


def random_case(vocab_size: int, seed: int) -> Case:
    random = np.random.default_rng(seed)
    params = SamplingParams(
        temperature=float(random.choice([0.0, 0.1, 0.7, 1.0, 1.0, 2.0])),
        top_k=int(random.choice([0, 0, 0, 1, 5, 50, 400, 20_000, vocab_size, 10**6])),
        top_p=float(random.choice([1.0, 1.0, 0.0, 1e-6, 0.3, 0.9, 0.95, 0.999])),
        min_p=float(random.choice([0.0, 0.0, 0.001, 0.05, 1.0])),
        repetition_penalty=float(random.choice([1.0, 1.0, 1.3, 0.8])),
        presence_penalty=float(random.choice([0.0, 0.0, 0.5, -1.0])),
        frequency_penalty=float(random.choice([0.0, 0.0, 0.25])),
        seed=int(random.integers(2**64, dtype=np.uint64)),
        num_logprobs=(None, None, 0, 1, 5, 20)[random.integers(6)],
        min_tokens=10,
        suppressed_token_ids=tuple(random.integers(vocab_size, size=min(vocab_size // 2, 3)).tolist()),
    )
    logits = random_logits(vocab_size, seed, float(random.choice([0.5, 2.0, 3.0, 8.0])))
    logits[random.integers(vocab_size, size=vocab_size // 100)] += float(random.choice([0.0, 10.0]))  # a few stand out
    logits[random.integers(1, max(vocab_size, 2), size=vocab_size // 10) % vocab_size] = (
        -np.inf if seed % 3 == 0 else 0.25
    )
    prompt, output = (tuple(random.integers(vocab_size, size=size).tolist()) for size in (30, int(random.integers(20))))
    return Case(logits, in_float32(params), int(random.integers(2**40)), prompt, output)


# ---- The same token as the torch backend's, or as good a one ----


def assert_reports(result: ChunkResult, case: Case) -> None:
    """What the kernel reports beside the token is right: by float64, since torch's float32 sum is off by 2e-5."""
    wanted = case.params.num_logprobs
    assert (result.logprob is None) == (wanted is None or result.error is not None)
    assert len(result.top_logprobs) == (0 if result.logprob is None else min(wanted or 0, len(case.logits)))
    if result.logprob is not None:
        assert result.token_id is not None
        logprobs = torch.from_numpy(case.logits).double().log_softmax(-1).numpy()
        assert result.logprob == pytest.approx(logprobs[result.token_id], rel=1e-6, abs=2e-7)
        best = np.argsort(-case.logits, kind="stable")[: len(result.top_logprobs)]
        assert [token for token, _ in result.top_logprobs] == best.tolist()
        assert [x for _, x in result.top_logprobs] == pytest.approx(logprobs[best].tolist(), rel=1e-6, abs=2e-7)


@cache
def many_cases(vocab_size: int) -> tuple[list[Case], list[ChunkResult]]:
    cases = [random_case(vocab_size, 1000 * vocab_size + i) for i in range(200 if vocab_size < 10_000 else 40)]
    return cases, sample_by_torch(cases)


@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
def test_every_set_chooses_what_torch_does(isa: str, vocab_size: int) -> None:
    cases, expected = many_cases(vocab_size)
    results = [sample(isa, case) for case in cases]
    for result, case in zip(results, cases, strict=True):
        assert_reports(result, case)
    assert_as_good(results, expected, cases)


def test_what_is_called_as_good_is_not_just_anything() -> None:
    cases = [case for case in many_cases(6400)[0] if case.params.temperature > 0]
    expected = [result for case, result in zip(*many_cases(6400), strict=True) if case.params.temperature > 0]
    wrong = [(result.token_id or 0) ^ 1 for result in expected]
    assert not any(is_as_good(token, case) for token, case in zip(wrong, cases, strict=True))
    assert all(is_as_good(result.token_id or 0, case) for result, case in zip(expected, cases, strict=True))


# ---- Rows that are out of the ordinary ----


@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
def test_among_equal_logits_the_lowest_id_is_first(isa: str, vocab_size: int) -> None:
    logits = np.full(vocab_size, -3.5, dtype=np.float32)
    result = sample(isa, Case(logits, replace(GREEDY, num_logprobs=8)))
    assert result.token_id == 0
    assert [token for token, _ in result.top_logprobs] == list(range(min(8, vocab_size)))
    assert result.logprob == pytest.approx(-np.log(vocab_size), rel=1e-6)
    logits[vocab_size // 2 :] = 2.0
    assert sample(isa, Case(logits, GREEDY)).token_id == vocab_size // 2


@pytest.mark.parametrize("limits", [{}, {"top_k": 1}, {"top_k": 3000}, {"top_p": 0.5}, {"top_p": 0.0}, {"min_p": 1.0}])
@pytest.mark.parametrize("vocab_size", [63, 6400, 151936])
def test_equal_weights_are_kept_together(isa: str, vocab_size: int, limits: dict[str, float]) -> None:
    params = SamplingParams(seed=9, **limits)  # type: ignore[arg-type]
    logits = np.full(vocab_size, 1.25, dtype=np.float32)
    number = uniforms(np.array([9], dtype=np.uint64), np.array([4], dtype=np.uint64))[0]
    assert sample(isa, Case(logits, params, 4)).token_id == int(number * vocab_size)


def drawn(isa: str, logits: Floats, params: SamplingParams, num: int = 200) -> set[int | None]:
    """The tokens of that many positions."""
    return {sample(isa, Case(logits, params, position)).token_id for position in range(num)}


def test_ties_with_the_last_weight_that_is_kept_are_kept(isa: str) -> None:
    logits = np.full(1000, -1.0, dtype=np.float32)
    logits[[10, 20, 30, 990]] = [2.0, 1.0, 1.0, 1.0]
    assert drawn(isa, logits, SamplingParams(top_k=2)) == {10, 20, 30, 990}
    assert drawn(isa, logits, SamplingParams(top_k=2, top_p=0.6)) == {10, 20, 30, 990}
    assert drawn(isa, logits, SamplingParams(top_k=2, top_p=0.4)) == {10}  # e^2 of e^2 + 3e: 0.48
    assert drawn(isa, logits, SamplingParams(min_p=0.3)) == {10, 20, 30, 990}  # e^-1 is 0.37


def test_top_p_ends_where_the_sum_is_reached_exactly(isa: str) -> None:
    logits = np.full(40, -0.6931472, dtype=np.float32)  # of which the exponential is 0.5
    logits[5], logits[7:] = 0.0, -np.inf
    assert drawn(isa, logits[4:7], SamplingParams(top_p=0.5)) == {1}  # 1 of 2
    assert drawn(isa, logits[4:7], SamplingParams(top_p=0.51)) == {0, 1, 2}


@pytest.mark.parametrize("vocab_size", [49, 63, 64])
def test_what_fills_up_the_last_vector_is_no_weight(isa: str, vocab_size: int) -> None:
    """Where it counted, the bound that is taken from the blocks' maxima would be too high."""
    logits = np.full(vocab_size, -20.0, dtype=np.float32)
    logits[[0, 16, 32]] = [0.5, -0.5, -1.0]
    assert drawn(isa, logits, SamplingParams(top_k=3)) == {0, 16, 32}
    assert sample(isa, Case(logits - 20, GREEDY)).token_id == 0


@pytest.mark.parametrize("num_kept", [1, 255, 256, 257, 3000, 9000, 49151])
def test_top_k_finds_its_bound_wherever_it_is(isa: str, num_kept: int) -> None:
    """Descending, ascending and shuffled: the largest in one block, or spread over all. What is kept is even."""
    for order in ("descending", "ascending", "shuffled"):
        ranks = np.arange(49152)
        if order != "descending":
            ranks = ranks[::-1] if order == "ascending" else np.random.default_rng(1).permutation(49152)
        logits = (-ranks / 40000).astype(np.float32)
        case = Case(logits, SamplingParams(top_k=num_kept, seed=5), 7)
        token = sample(isa, case).token_id
        assert token is not None
        assert is_as_good(token, case)


def test_hundreds_of_bounds_leave_the_right_weights(isa: str) -> None:
    for i in range(40):
        random = np.random.default_rng(i)
        logits = random_logits(5000, i, float(random.choice([0.01, 1.0, 4.0])))
        params = in_float32(
            SamplingParams(top_k=int(random.choice([0, 7, 2000])), top_p=float(random.uniform(0, 1)), seed=i)
        )
        cases = [Case(logits, params, position) for position in range(5)]
        for case, theirs in zip(cases, sample_by_torch(cases), strict=True):
            ours = sample(isa, case).token_id
            assert ours == theirs.token_id or is_as_good(ours or 0, case)


@pytest.mark.parametrize("temperature", [1e-45, 1e-40, float(np.finfo(np.float32).tiny), 1e-20])
def test_a_tiny_temperature_is_greedy(isa: str, temperature: float) -> None:
    logits = random_logits(1000, 3)
    assert drawn(isa, logits, SamplingParams(temperature=temperature), 20) == {int(logits.argmax())}


@pytest.mark.parametrize("temperature", [1e30, 3e38])
def test_a_huge_temperature_is_uniform_over_what_is_possible(isa: str, temperature: float) -> None:
    logits = random_logits(1000, 3)
    logits[500:] = -np.inf
    params = SamplingParams(temperature=temperature, seed=11)
    numbers = uniforms(np.full(50, 11, dtype=np.uint64), np.arange(50, dtype=np.uint64))
    tokens = [sample(isa, Case(logits, params, position)).token_id for position in range(50)]
    assert tokens == (numbers * 500).astype(int).tolist()


@pytest.mark.parametrize("place", [0, 15, 16, 62])
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf])
def test_a_row_that_is_not_finite_is_an_error_of_its_own(isa: str, bad: float, place: int) -> None:
    logits = random_logits(63, 1)
    logits[place] = bad
    for params in (GREEDY, SamplingParams(num_logprobs=3), SamplingParams(min_tokens=1, suppressed_token_ids=(place,))):
        assert sample(isa, Case(logits, params)) == ChunkResult(error=NOT_FINITE)


def test_a_row_without_any_choice_is_an_error(isa: str) -> None:
    nothing = np.full(63, -np.inf, dtype=np.float32)
    assert sample(isa, Case(nothing, GREEDY)) == ChunkResult(error=NOT_FINITE)
    few = nothing.copy()
    few[[3, 60]] = 1.0
    for temperature in (0.0, 1.0):
        params = SamplingParams(temperature=temperature, min_tokens=1, suppressed_token_ids=(3, 60))
        assert sample(isa, Case(few, params)) == ChunkResult(error=NO_CHOICE)
        params = replace(params, suppressed_token_ids=(3,))
        assert sample(isa, Case(few, params)).token_id == 60


def test_tokens_of_no_weight_are_never_drawn(isa: str) -> None:
    logits = np.full(777, -np.inf, dtype=np.float32)
    logits[[100, 700]] = [0.5, 0.0]
    for params in (SamplingParams(), SamplingParams(top_k=5), SamplingParams(top_k=400), SamplingParams(top_p=0.9999)):
        assert drawn(isa, logits, params, 100) == {100, 700}
    result = sample(isa, Case(logits, replace(GREEDY, num_logprobs=4)))
    assert [token for token, _ in result.top_logprobs] == [100, 700, 0, 1]
    assert result.top_logprobs[2][1] == -np.inf


def test_penalties_change_the_choice_but_not_what_is_reported(isa: str) -> None:
    logits = np.zeros(300, dtype=np.float32)
    logits[[7, 8, 9]] = [4.0, 3.0, 2.9]
    params = replace(GREEDY, num_logprobs=1, presence_penalty=0.5, frequency_penalty=0.5)
    assert sample(isa, Case(logits, params, prompt=(7,))).token_id == 7  # in the prompt only
    result = sample(isa, Case(logits, params, output=(7, 8)))
    assert result.token_id == 7  # 3.0 against 2.0 and 2.9
    result = sample(isa, Case(logits, params, output=(7, 7, 8)))
    assert result.token_id == 9  # 2.5, 2.0, 2.9
    assert result.top_logprobs[0][0] == 7
    assert sample(isa, Case(logits, replace(GREEDY, repetition_penalty=1.5), prompt=(7,))).token_id == 8


def test_the_number_is_that_of_seed_and_position(isa: str) -> None:
    """So finely that its 32 upper bits show: of equal weights, the token is the number itself."""
    logits, random = np.zeros(151936, dtype=np.float32), np.random.default_rng(5)
    for _ in range(20):
        seed, position = int(random.integers(2**64, dtype=np.uint64)), int(random.integers(2**64, dtype=np.uint64))
        number = uniforms(np.array([seed], dtype=np.uint64), np.array([position], dtype=np.uint64))[0]
        assert sample(isa, Case(logits, SamplingParams(seed=seed), position)).token_id == int(number * 151936)


def test_every_vector_width_gives_the_same_bits() -> None:
    vectors = [isa for isa in instruction_sets() if isa != "scalar"]
    for vocab_size, i in product((63, 1000, 49152), range(20)):
        case = replace(random_case(vocab_size, i), position=i)
        case = replace(case, params=replace(case.params, num_logprobs=3))
        assert len({sample(isa, case) for isa in vectors}) <= 1
