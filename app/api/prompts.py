"""Prompts as clients write them → token ids. Slow for long ones: called on a thread, never on the event loop."""

from collections.abc import Sequence

from app.api.errors import InvalidRequest
from app.api.schemas.chat import ChatMessage
from app.api.served import ServedModel, Tokenizer


def text_token_ids(prompts: Sequence[str | list[int]], tokenizer: Tokenizer) -> list[list[int]]:
    """Texts get the special tokens that the model's texts begin with; token ids stay as they are. Raises
    InvalidRequest."""
    return [encode(tokenizer, prompt, "prompt") if isinstance(prompt, str) else prompt for prompt in prompts]


def chat_token_ids(
    messages: Sequence[ChatMessage],
    served: ServedModel,
    *,
    add_generation_prompt: bool = True,
    add_special_tokens: bool = False,
) -> list[int]:
    """By the model's own template, which writes its special tokens itself. Raises InvalidRequest."""
    if served.chat_template is None:
        raise InvalidRequest("messages", "this model has no chat template; use /v1/completions")
    plain = [message.for_template() for message in messages]
    try:
        text = served.chat_template.render(plain, add_generation_prompt=add_generation_prompt)
    except ValueError as error:
        raise InvalidRequest("messages", f"the model's chat template refuses them: {error}") from None
    return encode(served.tokenizer, text, "messages", add_special_tokens=add_special_tokens)


def encode(tokenizer: Tokenizer, text: str, param: str, *, add_special_tokens: bool = True) -> list[int]:
    """Raises InvalidRequest, naming the field `param`, for a text that the tokenizer does not take."""
    try:
        return tokenizer.encode(text, add_special_tokens=add_special_tokens)
    except ValueError as error:
        raise InvalidRequest(param, str(error)) from None
