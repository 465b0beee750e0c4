"""Log-probabilities of tokens in the shapes of both APIs, with the tokens as text."""

from collections.abc import Sequence

from app.api.schemas.chat import ChatLogprobs, ChosenTokenLogprob, TokenLogprob
from app.api.schemas.completions import CompletionLogprobs
from app.api.served import Tokenizer
from app.engine.request import TokenEvent

LEAST_LOGPROB = -9999.0  # in the place of minus infinity, which JSON does not have
CONTINUATION_BYTES = bytes(range(0x80, 0xC0))  # of UTF-8: they continue a character


class TokenTexts:
    """Tokens as text, U+FFFD for bytes that are not whole characters."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._special_token_ids = tokenizer.special_token_ids

    def raw(self, token_id: int) -> bytes:
        return self._token_bytes[token_id]

    def text(self, token_id: int) -> str:
        return self._token_bytes[token_id].decode(errors="replace")

    def printed(self, token_id: int) -> bytes:
        return b"" if token_id in self._special_token_ids else self._token_bytes[token_id]


def completion_logprobs(
    tokens: Sequence[TokenEvent], texts: TokenTexts, num_characters: int
) -> tuple[CompletionLogprobs, int]:
    """`num_characters` began before these tokens. Also returns how many have begun after them."""
    names, offsets = [], []
    for event in tokens:
        assert event.token_id is not None
        printed = texts.printed(event.token_id)
        names.append(texts.text(event.token_id))
        is_within_character = bool(printed) and printed[0] in CONTINUATION_BYTES
        offsets.append(max(num_characters - is_within_character, 0))
        num_characters += len(printed.translate(None, CONTINUATION_BYTES))
    logprobs = CompletionLogprobs(
        tokens=names,
        token_logprobs=[finite(event.logprob) for event in tokens],
        top_logprobs=[_by_text(event, texts) for event in tokens],
        text_offset=offsets,
    )
    return logprobs, num_characters


def chat_logprobs(tokens: Sequence[TokenEvent], texts: TokenTexts) -> ChatLogprobs:
    return ChatLogprobs(content=[_chosen(event, texts) for event in tokens])


def finite(logprob: float | None) -> float:
    assert logprob is not None, "the request asked for it"
    return max(logprob, LEAST_LOGPROB)


def _by_text(event: TokenEvent, texts: TokenTexts) -> dict[str, float]:
    """The most likely first. Of tokens with the same text, the most likely stands for all."""
    by_text: dict[str, float] = {}
    for token_id, logprob in (*event.top_logprobs, (event.token_id, event.logprob)):
        assert token_id is not None
        by_text.setdefault(texts.text(token_id), finite(logprob))
    return by_text


def _chosen(event: TokenEvent, texts: TokenTexts) -> ChosenTokenLogprob:
    assert event.token_id is not None
    top = [
        TokenLogprob(token=texts.text(token_id), logprob=finite(logprob), bytes=list(texts.raw(token_id)))
        for token_id, logprob in event.top_logprobs
    ]
    return ChosenTokenLogprob(
        token=texts.text(event.token_id),
        logprob=finite(event.logprob),
        bytes=list(texts.raw(event.token_id)),
        top_logprobs=top,
    )
