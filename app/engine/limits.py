"""What fits: how much runs at once, and what is refused at the door because it never could."""

import math
from dataclasses import dataclass

from app.engine.errors import RequestTooLong
from app.engine.request import Submission
from model.batch import RunnerInfo


@dataclass(frozen=True, slots=True)
class Limits:
    max_num_seqs: int  # slots
    max_num_batched_tokens: int  # tokens in a step, decode and prefill together
    max_queued_requests: int = 1024  # that wait for their first slot while all are taken
    max_queued_tokens: int = 2**20  # of the prompts of these
    max_seconds: float = math.inf  # from a request's arrival to its end

    def __post_init__(self) -> None:
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens ({self.max_num_batched_tokens}) must be at least max_num_seqs "
                f"({self.max_num_seqs}): each running request decodes one token a step."
            )


def room_for(info: RunnerInfo, num_prompt_tokens: int) -> int:
    """The most tokens that a request with such a prompt may generate; less than 0: it cannot even be read."""
    return min(info.max_model_len, info.num_blocks * info.block_size) - num_prompt_tokens


def refuse_too_long(info: RunnerInfo, submission: Submission) -> None:
    """Raises RequestTooLong for what does not fit, however empty the server is."""
    prompt, wanted = len(submission.prompt_token_ids), submission.params.max_tokens
    room = room_for(info, prompt)
    if wanted > room:
        limit = prompt + room
        what = "context" if limit == info.max_model_len else "KV cache"
        advice = f"Shorten the prompt or ask for at most {room} tokens." if room > 0 else "Shorten the prompt."
        raise RequestTooLong(
            f"The prompt has {prompt} tokens and max_tokens is {wanted}, together {prompt + wanted}; "
            f"the {what} holds {limit}. {advice}"
        )
