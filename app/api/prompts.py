"""Prompts as clients write them → token ids, and what token ids must be. Slow for long ones: called on a thread, never
on the event loop. `param` is the field that a refusal names."""

from collections.abc import Iterable, Sequence

from app.api.errors import InvalidRequest
from app.api.served import ServedModel, Tokenizer


def text_token_ids(
    prompts: Sequence[str | list[int]],
    tokenizer: Tokenizer,
    add_special_tokens: bool | None = None,
    param: str = "prompt",
) -> list[list[int]]:
    """Texts get the special tokens that the model's texts begin with, unless those are declined; token ids stay as they
    are. Raises InvalidRequest."""
    adds = add_special_tokens is not False
    return [
        encode(tokenizer, prompt, param, add_special_tokens=adds) if isinstance(prompt, str) else prompt
        for prompt in prompts
    ]


def encode(
    tokenizer: Tokenizer, text: str, param: str, *, add_special_tokens: bool = True, mark: str = ""
) -> list[int]:
    """Raises InvalidRequest for a text that the tokenizer does not take."""
    try:
        return tokenizer.encode(text, add_special_tokens, mark=mark)
    except ValueError as error:
        raise InvalidRequest(param, str(error)) from None


def check_prompts(prompts: Sequence[Sequence[int]], served: ServedModel, param: str = "prompt") -> None:
    """Raises InvalidRequest."""
    for prompt in prompts:
        if not prompt:
            raise InvalidRequest(param, "must have at least one token")
        if len(prompt) <= served.max_model_len:  # a longer one is refused whatever it holds, and may hold a million
            check_token_ids(param, prompt, served)


def check_token_ids(param: str, token_ids: Iterable[int], served: ServedModel) -> None:
    """Raises InvalidRequest."""
    if max(token_ids, default=0) >= served.tokenizer.vocab_size:
        raise InvalidRequest(param, f"token ids must be below {served.tokenizer.vocab_size}, the vocabulary's size")
