"""A wire request and its prompts as token ids → what the engine is to run. Decides defaults, seeds and stop tokens."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from app.api.errors import InvalidRequest
from app.api.prompts import check_prompts, check_token_ids
from app.api.schemas.generation import GenerationRequest
from app.api.served import ServedModel
from app.api.steering import Steering
from app.engine.request import RequestParams, Submission
from model.batch import SamplingParams

GREEDY_BELOW = 1e-5  # such a temperature leaves the best token alone, and a smaller one overflows
NUM_SEEDS = 2**64
MAX_WHOLE = 2**21  # tokens of an answer that is not streamed: some hundred megabytes


@dataclass(frozen=True, slots=True)
class Origin:
    """The HTTP request that submissions come with."""

    call_id: str
    owner: str = ""


def build_submissions(
    body: GenerationRequest,
    prompts: Sequence[Sequence[int]],
    origin: Origin,
    served: ServedModel,
    default_max_tokens: Callable[[int], int],
    steering: Steering,
) -> list[Submission]:
    """All candidates for each prompt, those of a prompt side by side. `default_max_tokens` is given a prompt's length.

    Candidate i of a prompt has the request's seed + i, whichever prompt it is: in a list, a prompt is answered as
    alone. Raises InvalidRequest.
    """
    check_prompts(prompts, served)
    check_token_ids("stop_token_ids", body.stop_token_ids or (), served)
    check_token_ids("logit_bias", body.logit_bias or (), served)
    names = names_of(origin.call_id, len(prompts) * body.num_candidates)
    submissions: list[Submission] = []
    for prompt in prompts:
        limit = max(default_max_tokens(len(prompt)), 1) if body.token_limit is None else body.token_limit
        params = _params(body, served, steering, limit)
        token_ids = tuple(prompt)  # all candidates share it
        seed = secrets.randbits(64) if body.seed is None else body.seed
        for candidate in range(body.num_candidates):
            sampling = replace(params.sampling, seed=(seed + candidate) % NUM_SEEDS)
            own = replace(params, sampling=sampling, constraint=steering.new_constraint())
            submissions.append(Submission(names[len(submissions)], token_ids, own, origin.call_id, origin.owner))
    if not body.stream:
        _require_holdable(submissions, served)
    return submissions


def _require_holdable(submissions: Sequence[Submission], served: ServedModel) -> None:
    """A whole answer is held in memory until it is complete. Raises InvalidRequest."""
    lengths = (min(one.params.max_tokens, served.max_model_len) for one in submissions)
    weights = (1 + (one.params.sampling.num_logprobs or 0) for one in submissions)
    if sum(length * weight for length, weight in zip(lengths, weights, strict=True)) > MAX_WHOLE:
        raise InvalidRequest(
            "stream",
            f"a whole answer may have {MAX_WHOLE} tokens over all of its choices, and each log-probability beside a "
            "token counts as one more; ask for less, or set stream to true",
        )


def names_of(call_id: str, number: int) -> list[str]:
    """Of the submissions of one call: the call's own where there is one."""
    return [call_id] if number == 1 else [f"{call_id}-{index}" for index in range(number)]


def _params(body: GenerationRequest, served: ServedModel, steering: Steering, max_tokens: int) -> RequestParams:
    if (body.min_tokens or 0) > max_tokens:
        raise InvalidRequest("min_tokens", f"must be at most max_tokens, which is {max_tokens}")
    ends = frozenset() if body.ignore_eos else served.eos_token_ids
    stop_token_ids = ends | frozenset(body.stop_token_ids or ())
    return RequestParams(
        max_tokens=max_tokens,
        sampling=_sampling(body, served, stop_token_ids),
        stop=body.stop_strings,
        includes_stop=bool(body.include_stop_str_in_output),
        stop_token_ids=stop_token_ids,
        prints_special_tokens=body.prints_special_tokens,
        bad_words=steering.bad_words,
        dry=steering.dry,
        wants_prompt_logprobs=body.num_prompt_logprobs is not None,
        priority=body.priority or 0,
        timeout_s=body.timeout,
        adapter=served.adapter_of(body.model),
    )


def _sampling(body: GenerationRequest, served: ServedModel, stop_token_ids: frozenset[int]) -> SamplingParams:
    wanted = {
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": None if body.top_k is None else max(body.top_k, 0),
        "min_p": body.min_p,
        "typical_p": body.typical_p,
        "top_n_sigma": None if body.top_n_sigma is None else max(body.top_n_sigma, 0.0),
        "xtc_probability": body.xtc_probability,
        "xtc_threshold": body.xtc_threshold,
        "repetition_penalty": body.repetition_penalty,
        "presence_penalty": body.presence_penalty,
        "frequency_penalty": body.frequency_penalty,
    }
    known = {name: value for name, value in wanted.items() if value is not None}
    sampling = replace(served.defaults, **known)  # type: ignore[arg-type]  # a top_k is an int, all else are floats
    min_tokens = body.min_tokens or 0
    return replace(
        sampling,
        temperature=sampling.temperature if sampling.temperature >= GREEDY_BELOW else 0.0,
        logit_bias=tuple((body.logit_bias or {}).items()),
        num_logprobs=0 if body.num_logprobs is None and body.ranks else body.num_logprobs,
        num_prompt_logprobs=body.num_prompt_logprobs or 0,
        min_tokens=min_tokens,
        suppressed_token_ids=tuple(sorted(stop_token_ids)) if min_tokens else (),
    )
