"""Prompts as clients write them → token ids. Slow for long ones: called on a thread, never on the event loop."""

from collections.abc import Sequence

from app.api.errors import InvalidRequest
from app.api.served import Tokenizer


def text_token_ids(
    prompts: Sequence[str | list[int]], tokenizer: Tokenizer, add_special_tokens: bool | None = None
) -> list[list[int]]:
    """Texts get the special tokens that the model's texts begin with, unless those are declined; token ids stay as they
    are. Raises InvalidRequest."""
    adds = add_special_tokens is not False
    return [
        encode(tokenizer, prompt, "prompt", add_special_tokens=adds) if isinstance(prompt, str) else prompt
        for prompt in prompts
    ]


def encode(
    tokenizer: Tokenizer, text: str, param: str, *, add_special_tokens: bool = True, mark: str = ""
) -> list[int]:
    """Raises InvalidRequest, naming the field `param`, for a text that the tokenizer does not take."""
    try:
        return tokenizer.encode(text, add_special_tokens, mark=mark)
    except ValueError as error:
        raise InvalidRequest(param, str(error)) from None
