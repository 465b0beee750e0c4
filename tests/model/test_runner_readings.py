"""What runners report beside the tokens they choose, against transformers in float32 on the same weights: the
log-probabilities of answers and of prompts, and the mean of a prompt's final hidden states."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from model.batch import Chunk, ChunkResult, OpenedSlot, SamplingParams, TargetLogprob
from model.formats import huggingface
from model.formats.checkpoint import Checkpoint
from model.native.runner import NativeOptions, NativeRunner
from tests.model.hf_models import SIZES, SavedModel, save_random_model
from tests.model.native.library_here import needs_library
from tests.model.reading import ReadableRunner
from tests.model.runners import GREEDY, ON_EVERY_RUNNER, answer, make_runner, prompt_of, tokens_of
from tests.model.torch_backend.driver import Driver

TOLERANCE = 1e-3  # of a log-probability, and of a hidden state, which are about 1 in size
# The mean error of log-probabilities, and the root mean square one of pooled states: less than twice of what
# these models, which were not trained to bear it, were seen to lose. Values in another's place are off by 1.
QUANTISED = {
    "bfloat16": ({"dtype": "bfloat16"}, 0.015),
    "int8": ({"weights": "int8"}, 0.1),
    "int4": ({"weights": "int4", "kv_dtype": "int8"}, 0.5),
}

PROMPT = prompt_of(90, 2, SIZES["vocab_size"])
TARGETS = PROMPT[1:]
CUTS = ([], [1], [64], [5, 37, 38], [89])


@pytest.fixture(scope="module", params=["llama-tied", "qwen2", "qwen3-yarn", "qwen3moe"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SavedModel:
    return save_random_model(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def checkpoint(saved: SavedModel) -> Checkpoint:
    return huggingface.read(saved.folder)


@pytest.fixture
def driver(checkpoint: Checkpoint, backend: str) -> Driver:
    return Driver(make_runner(backend, checkpoint))


@torch.inference_mode()
def expected_logprobs(saved: SavedModel, token_ids: Sequence[int]) -> Tensor:
    """[T, V], of what comes behind each token."""
    return saved.model(input_ids=torch.tensor([token_ids])).logits[0].double().log_softmax(-1)


@torch.inference_mode()
def expected_mean(saved: SavedModel, token_ids: Sequence[int]) -> list[float]:
    hidden = saved.model.get_decoder()(input_ids=torch.tensor([token_ids])).last_hidden_state[0]
    return hidden.double().mean(0).tolist()


def assert_report(report: ChunkResult | TargetLogprob, token: int, num_top: int, expected: Tensor) -> None:
    """expected: [V]. Tokens may change places in the ranking where they are as good as equal."""
    assert report.logprob == pytest.approx(expected[token].item(), abs=TOLERANCE)
    ids, values = [token for token, _ in report.top_logprobs], [value for _, value in report.top_logprobs]
    assert len(set(ids)) == num_top
    assert values == pytest.approx(expected.topk(num_top).values.tolist(), abs=TOLERANCE)
    assert values == pytest.approx(expected[ids].tolist(), abs=TOLERANCE)
    assert values == sorted(values, reverse=True)


def read_prompt(
    driver: Driver, opened: OpenedSlot, cuts: Sequence[int], samples: bool = False, targets: Sequence[int] = TARGETS
) -> list[ChunkResult]:
    """The prompt cut there, and with each of its chunks the targets behind the chunk's tokens; then the slot goes."""
    ends = [*cuts, len(PROMPT)]
    results = []
    for start, end in zip([0, *cuts], ends, strict=True):
        chunk = Chunk(0, PROMPT[start:end], samples and end == len(PROMPT), targets=tuple(targets[start:end]))
        results += driver.step([chunk], [opened] if start == 0 else [])
        assert len(results[-1].targets) == len(chunk.targets)
    driver.step([], freed=[opened.slot])
    return results


def targets_of(results: Sequence[ChunkResult]) -> list[TargetLogprob]:
    return [target for result in results for target in result.targets]


def opened(num_top: int = 0, pools: bool = False, params: SamplingParams = GREEDY) -> OpenedSlot:
    return OpenedSlot(0, 1, len(PROMPT), replace(params, num_prompt_logprobs=num_top), pools)


@ON_EVERY_RUNNER
@pytest.mark.parametrize("params", [GREEDY, SamplingParams(temperature=1.4, top_k=9, logit_bias=((3, 9.0),), seed=4)])
def test_answers_have_the_log_probabilities_that_transformers_gives_them(
    driver: Driver, saved: SavedModel, params: SamplingParams
) -> None:
    """Of the model's own distribution, whatever is done to it before a token is chosen."""
    results = answer(driver, PROMPT, replace(params, num_logprobs=5), 12)
    tokens = tokens_of(results)
    expected = expected_logprobs(saved, [*PROMPT, *tokens[:-1]])[len(PROMPT) - 1 :]
    for result, token, row in zip(results, tokens, expected, strict=True):
        assert_report(result, token, 5, row)


@ON_EVERY_RUNNER
def test_log_probabilities_are_given_to_those_who_ask(backend: str) -> None:
    driver, prompt = Driver(make_runner(backend)), prompt_of(9)
    wants = [None, 0, 2, None]
    opened = [OpenedSlot(slot, 1, 9, replace(GREEDY, num_logprobs=num)) for slot, num in enumerate(wants)]
    driver.step([Chunk(slot, prompt) for slot in range(4)], opened)
    results = driver.step([Chunk(slot) for slot in (3, 2, 1, 0)])
    assert [one.logprob is None for one in results] == [True, False, False, True]
    assert [len(one.top_logprobs) for one in results] == [0, 2, 0, 0]
    assert len({one.token_id for one in results}) == 1
    assert results[1].top_logprobs[0] == (results[1].token_id, results[1].logprob)


@ON_EVERY_RUNNER
@pytest.mark.parametrize("num_top", [0, 3, 320])
def test_prompts_have_the_log_probabilities_that_transformers_gives_them(
    driver: Driver, saved: SavedModel, num_top: int
) -> None:
    targets = targets_of(read_prompt(driver, opened(num_top), []))
    expected = expected_logprobs(saved, PROMPT)
    assert len(targets) == len(TARGETS)
    for report, token, row in zip(targets, TARGETS, expected[:-1], strict=True):
        assert_report(report, token, num_top, row)


@ON_EVERY_RUNNER
def test_log_probabilities_of_a_prompt_do_not_depend_on_its_chunks(driver: Driver) -> None:
    whole, *cut = [targets_of(read_prompt(driver, opened(2), cuts)) for cuts in CUTS]
    for targets in cut:
        assert [one.logprob for one in targets] == pytest.approx([one.logprob for one in whole], abs=1e-5)
        assert [[token for token, _ in one.top_logprobs] for one in targets] == [
            [token for token, _ in one.top_logprobs] for one in whole
        ]


@ON_EVERY_RUNNER
def test_targets_may_end_before_their_chunk_does_and_change_nothing_else(driver: Driver) -> None:
    params = SamplingParams(temperature=0.8, seed=6, num_logprobs=1)
    (alone,) = read_prompt(driver, opened(params=params), [], samples=True, targets=())
    (with_some,) = read_prompt(driver, opened(2, params=params), [], samples=True, targets=TARGETS[:40])
    assert with_some.targets == tuple(targets_of(read_prompt(driver, opened(2), []))[:40])
    assert replace(with_some, targets=()) == alone
    assert alone.token_id is not None


@ON_EVERY_RUNNER
def test_a_target_may_be_any_token(driver: Driver, saved: SavedModel) -> None:
    """As of an answer that is not the prompt's own, and behind the last token, too."""
    others = tuple(reversed(PROMPT))
    targets = targets_of(read_prompt(driver, opened(), [50], targets=others))
    expected = expected_logprobs(saved, PROMPT)[range(len(others)), list(others)]
    assert [one.logprob for one in targets] == pytest.approx(expected.tolist(), abs=TOLERANCE)


@ON_EVERY_RUNNER
def test_several_prompts_are_read_in_one_step(driver: Driver, saved: SavedModel) -> None:
    """Beside one that decodes and one that only samples."""
    params = [replace(GREEDY, num_prompt_logprobs=num) for num in (0, 4, 1)]
    driver.step([Chunk(9, PROMPT[:5])], [OpenedSlot(9, 1, 5, GREEDY)])
    prompts = [PROMPT[10 * slot : 10 * slot + 20] for slot in range(3)]
    chunks = [Chunk(slot, prompt, slot == 1, targets=prompt[1:]) for slot, prompt in enumerate(prompts)]
    others = [Chunk(9), Chunk(8, PROMPT[:5])]
    begun = [OpenedSlot(slot, 1, 20, one, pools=slot < 2) for slot, one in enumerate(params)]
    results = driver.step([chunks[0], *others, *chunks[1:]], [*begun, OpenedSlot(8, 1, 5, GREEDY)])
    assert [len(result.targets) for result in results] == [19, 0, 0, 19, 19]
    assert [result.token_id is not None for result in results] == [False, True, True, True, False]
    assert [result.pooled is not None for result in results] == [True, False, False, True, False]
    for prompt, one, result in zip(prompts, params, (results[0], *results[3:]), strict=True):
        expected = expected_logprobs(saved, prompt)
        for report, token, row in zip(result.targets, prompt[1:], expected[:-1], strict=True):
            assert_report(report, token, one.num_prompt_logprobs, row)
    for prompt, result in zip(prompts, (results[0], results[3]), strict=False):
        assert result.pooled == pytest.approx(expected_mean(saved, prompt), abs=TOLERANCE)


@ON_EVERY_RUNNER
def test_the_mean_of_a_prompt_is_that_of_transformers_whatever_its_chunks(driver: Driver, saved: SavedModel) -> None:
    means = []
    for cuts in CUTS:
        *before, last = read_prompt(driver, opened(pools=True), cuts, targets=())
        assert before == [ChunkResult()] * len(cuts)
        means.append(last.pooled)
    assert means[0] == pytest.approx(expected_mean(saved, PROMPT), abs=TOLERANCE)
    for mean in means[1:]:
        assert mean == pytest.approx(means[0], abs=1e-5)


@ON_EVERY_RUNNER
def test_a_mean_is_given_once_and_is_that_of_the_prompt_alone(driver: Driver, saved: SavedModel) -> None:
    """Also where a chunk runs on into what was generated before a preemption."""
    begun = OpenedSlot(0, 1, 50, GREEDY, pools=True)
    results = driver.step([Chunk(0, PROMPT[:60])], [begun]) + driver.step([Chunk(0)])
    assert results[0].pooled == pytest.approx(expected_mean(saved, PROMPT[:50]), abs=TOLERANCE)
    assert results[1].pooled is None


@needs_library
@pytest.mark.parametrize("name", QUANTISED)
def test_smaller_weights_are_near_the_reference(checkpoint: Checkpoint, saved: SavedModel, name: str) -> None:
    options, tolerance = QUANTISED[name]
    asked = NativeOptions(num_threads=2, kv_cache_memory=2**21, **options)  # type: ignore[arg-type]
    runner: ReadableRunner = NativeRunner(checkpoint, asked)
    (result,) = read_prompt(Driver(runner), opened(pools=True), [])
    expected = expected_logprobs(saved, PROMPT)[range(len(TARGETS)), list(TARGETS)].numpy()
    errors = np.array([one.logprob for one in result.targets]) - expected
    pooling_errors = np.array(result.pooled) - expected_mean(saved, PROMPT)
    assert np.abs(errors).mean() < tolerance
    assert np.sqrt(np.square(pooling_errors).mean()) < tolerance
