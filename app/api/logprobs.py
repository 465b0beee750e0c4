"""Log-probabilities of tokens in the shapes of the APIs, with the tokens as text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from app.api.schemas.chat import ChatLogprobs, ChosenTokenLogprob, TokenLogprob
from app.api.schemas.completions import CompletionLogprobs
from app.api.schemas.generation import PromptLogprob, PromptLogprobs
from app.api.served import Tokenizer
from app.engine.request import TokenEvent
from model.batch import TargetLogprob

LEAST_LOGPROB = -9999.0  # in the place of minus infinity, which JSON does not have
CONTINUATION_BYTES = bytes(range(0x80, 0xC0))  # of UTF-8: they continue a character


class TokenTexts:
    """Tokens as text, U+FFFD for bytes that are not whole characters."""

    def __init__(self, tokenizer: Tokenizer, *, prints_special_tokens: bool = False) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._unprinted = frozenset[int]() if prints_special_tokens else tokenizer.special_token_ids

    def raw(self, token_id: int) -> bytes:
        return self._token_bytes[token_id]

    def text(self, token_id: int) -> str:
        return self._token_bytes[token_id].decode(errors="replace")

    def printed(self, token_id: int) -> bytes:
        return b"" if token_id in self._unprinted else self._token_bytes[token_id]


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token of a text with what the model made of it: nothing, of a prompt's first."""

    token_id: int
    logprob: float | None
    top_logprobs: Sequence[tuple[int, float]] = ()


def scored(tokens: Iterable[TokenEvent]) -> list[ScoredToken]:
    """Of the events with tokens."""
    return [
        ScoredToken(event.token_id, event.logprob, event.top_logprobs) for event in tokens if event.token_id is not None
    ]


def scored_prompt(token_ids: Sequence[int], targets: Sequence[TargetLogprob], num_top: int) -> list[ScoredToken]:
    """`targets` are of the second token and on. A prompt that was not read to its end has none for its last tokens,
    which are left out."""
    rest = [
        ScoredToken(token_id, target.logprob, target.top_logprobs[:num_top])
        for token_id, target in zip(token_ids[1:], targets, strict=False)
    ]
    return [ScoredToken(token_ids[0], None), *rest]


class Offsets:
    """Where in a text its tokens begin, counted in characters, one token after another."""

    def __init__(self, num_characters: int = 0) -> None:
        self.num_characters = num_characters  # that have begun

    def next(self, printed: bytes) -> int:
        is_within_character = bool(printed) and printed[0] in CONTINUATION_BYTES
        offset = max(self.num_characters - is_within_character, 0)
        self.num_characters += len(printed.translate(None, CONTINUATION_BYTES))
        return offset


def completion_logprobs(tokens: Sequence[ScoredToken], text_offset: list[int], texts: TokenTexts) -> CompletionLogprobs:
    """`text_offset` has one for each token."""
    return CompletionLogprobs(
        tokens=[texts.text(token.token_id) for token in tokens],
        token_logprobs=[None if token.logprob is None else finite(token.logprob) for token in tokens],
        top_logprobs=[_by_text(token, texts) for token in tokens],
        text_offset=text_offset,
    )


def chat_logprobs(tokens: Sequence[TokenEvent], texts: TokenTexts) -> ChatLogprobs:
    return ChatLogprobs(content=[_chosen(event, texts) for event in tokens if event.token_id is not None])


def prompt_logprobs(tokens: Sequence[ScoredToken], texts: TokenTexts) -> PromptLogprobs:
    """In vLLM's shape: by token id, the prompt's own among them."""
    return [None if token.logprob is None else _by_id(token, texts) for token in tokens]


def finite(logprob: float | None) -> float:
    assert logprob is not None, "the request asked for it"
    return max(logprob, LEAST_LOGPROB)


def _by_text(token: ScoredToken, texts: TokenTexts) -> dict[str, float] | None:
    """The most likely first. Of tokens with the same text, the most likely stands for all."""
    if token.logprob is None:
        return None
    by_text: dict[str, float] = {}
    for token_id, logprob in (*token.top_logprobs, (token.token_id, token.logprob)):
        by_text.setdefault(texts.text(token_id), finite(logprob))
    return by_text


def _by_id(token: ScoredToken, texts: TokenTexts) -> dict[int, PromptLogprob]:
    ranked = [(token_id, logprob, rank) for rank, (token_id, logprob) in enumerate(token.top_logprobs, start=1)]
    by_id: dict[int, PromptLogprob] = {}
    for token_id, logprob, rank in (*ranked, (token.token_id, token.logprob, None)):
        text = texts.text(token_id)
        by_id.setdefault(token_id, PromptLogprob(logprob=finite(logprob), rank=rank, decoded_token=text))
    return by_id


def _chosen(event: TokenEvent, texts: TokenTexts) -> ChosenTokenLogprob:
    """Where alternatives are asked for, the chosen token is always among them: as one more, if need be."""
    assert event.token_id is not None
    chosen = _with_bytes(event.token_id, event.logprob, texts)
    top = [_with_bytes(token_id, logprob, texts) for token_id, logprob in event.top_logprobs]
    if top and event.token_id not in dict(event.top_logprobs):
        top.append(chosen)
    return ChosenTokenLogprob(**chosen.model_dump(), top_logprobs=top)


def _with_bytes(token_id: int, logprob: float | None, texts: TokenTexts) -> TokenLogprob:
    return TokenLogprob(token=texts.text(token_id), logprob=finite(logprob), bytes=list(texts.raw(token_id)))
