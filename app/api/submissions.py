"""A wire request and its prompts as token ids → what the engine is to run. Decides defaults, seeds and stop tokens."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace

from app.api.errors import InvalidRequest
from app.api.schemas.generation import GenerationRequest
from app.api.served import ServedModel
from app.engine.request import RequestParams, Submission
from model.batch import SamplingParams

GREEDY_BELOW = 1e-5  # such a temperature leaves the best token alone, and a smaller one overflows
NUM_SEEDS = 2**64


def build_submissions(
    body: GenerationRequest,
    prompts: Sequence[Sequence[int]],
    request_id: str,
    served: ServedModel,
    default_max_tokens: Callable[[int], int],
) -> list[Submission]:
    """`n` for each prompt, the choices of a prompt side by side. `default_max_tokens` is given a prompt's length.

    Choice i of a prompt has the request's seed + i, whichever prompt it is: in a list, a prompt is answered as alone.
    Raises InvalidRequest.
    """
    _check_token_ids("stop_token_ids", body.stop_token_ids or (), served)
    choices = body.n or 1
    submissions: list[Submission] = []
    for prompt in prompts:
        params = _params(body, served, body.token_limit or max(default_max_tokens(len(prompt)), 1))
        seed = secrets.randbits(64) if body.seed is None else body.seed
        for choice in range(choices):
            name = request_id if len(prompts) * choices == 1 else f"{request_id}-{len(submissions)}"
            sampling = replace(params.sampling, seed=(seed + choice) % NUM_SEEDS)
            submissions.append(Submission(name, tuple(prompt), replace(params, sampling=sampling)))
    return submissions


def check_prompts(prompts: Sequence[Sequence[int]], served: ServedModel) -> None:
    for prompt in prompts:
        if not prompt:
            raise InvalidRequest("prompt", "must have at least one token")
        _check_token_ids("prompt", prompt, served)


def _check_token_ids(param: str, token_ids: Sequence[int], served: ServedModel) -> None:
    if token_ids and max(token_ids) >= served.tokenizer.vocab_size:
        raise InvalidRequest(param, f"token ids must be below {served.tokenizer.vocab_size}, the vocabulary's size")


def _params(body: GenerationRequest, served: ServedModel, max_tokens: int) -> RequestParams:
    if (body.min_tokens or 0) > max_tokens:
        raise InvalidRequest("min_tokens", f"must be at most max_tokens, which is {max_tokens}")
    ends = frozenset() if body.ignore_eos else served.eos_token_ids
    stop_token_ids = ends | frozenset(body.stop_token_ids or ())
    return RequestParams(max_tokens, _sampling(body, served, stop_token_ids), body.stop_strings, stop_token_ids)


def _sampling(body: GenerationRequest, served: ServedModel, stop_token_ids: frozenset[int]) -> SamplingParams:
    wanted = {
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": None if body.top_k is None else max(body.top_k, 0),
        "min_p": body.min_p,
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
        num_logprobs=body.num_logprobs,
        min_tokens=min_tokens,
        suppressed_token_ids=tuple(sorted(stop_token_ids)) if min_tokens else (),
    )
