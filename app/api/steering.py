"""What of a request steers the choice of tokens and takes the tokenizer or the whole vocabulary to work out: words that
are not to come, the breakers of repetitions, token ids that alone are allowed, the form that a text is given. Slow for
long lists: done on a thread, never on the event loop."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from app.api.errors import InvalidRequest
from app.api.prompts import check_token_ids, encode
from app.api.schemas.generation import GenerationRequest
from app.api.schemas.sampling import SamplingRequest
from app.api.served import ServedModel, Tokenizer
from app.engine.grammars.constraints import GrammarConstraint
from app.engine.grammars.grammar import BadGrammar, Grammar
from app.engine.request import Constraint, Dry

DEFAULT_BREAKERS = ("\n", ":", '"', "*")  # llama.cpp's


@dataclass(frozen=True, slots=True)
class Steering:
    """As RequestParams has them."""

    bad_words: tuple[tuple[int, ...], ...] = ()
    dry: Dry | None = None
    new_constraint: Callable[[], Constraint | None] = lambda: None  # each request has its own


class AllowedTokens:
    """A constraint that never changes."""

    def __init__(self, token_ids: Iterable[int], vocab_size: int) -> None:
        mask = bytearray(-(-vocab_size // 8))
        for token_id in token_ids:
            mask[token_id // 8] |= 1 << token_id % 8
        self._mask = bytes(mask)

    def allowed(self) -> bytes:
        return self._mask

    def accept(self, token_id: int) -> None:
        """Whatever came, the same may come next."""


class BothAllow:
    """What two constraints allow."""

    def __init__(self, one: Constraint, other: Constraint) -> None:
        self._one, self._other = one, other

    def allowed(self) -> bytes:
        one, other = self._one.allowed(), self._other.allowed()
        both = int.from_bytes(one, "little") & int.from_bytes(other, "little")
        return both.to_bytes(max(len(one), len(other)), "little")

    def accept(self, token_id: int) -> None:
        self._one.accept(token_id)
        self._other.accept(token_id)


async def steering_of(body: GenerationRequest, served: ServedModel, tool_grammar: Grammar | None = None) -> Steering:
    """`tool_grammar`: of a chat that has to call a tool; stands in for what the body asks for. Most requests steer
    nothing, and wait for no thread. Raises InvalidRequest."""
    if body.bad_words or body.dry_multiplier or body.allowed_token_ids or tool_grammar or body.grammar:
        return await asyncio.to_thread(_steer, body, served, tool_grammar)
    return Steering()


def _steer(body: GenerationRequest, served: ServedModel, tool_grammar: Grammar | None) -> Steering:
    return Steering(
        bad_words=_bad_words(body.bad_words or (), served.tokenizer),
        dry=_dry(body, served.tokenizer),
        new_constraint=_new_constraint(_allowed(body, served), _compiled(body, served, tool_grammar)),
    )


def _new_constraint(
    allowed: AllowedTokens | None, grammar: GrammarConstraint | None
) -> Callable[[], Constraint | None]:
    if grammar is None:
        return lambda: allowed
    return lambda: grammar.copy() if allowed is None else BothAllow(grammar.copy(), allowed)


def _compiled(body: GenerationRequest, served: ServedModel, tool_grammar: Grammar | None) -> GrammarConstraint | None:
    grammar = tool_grammar or body.grammar
    if grammar is None:
        return None
    for field, value in (("min_tokens", body.min_tokens), ("ignore_eos", body.ignore_eos)):
        if value:  # where a grammar has ended, nothing but the end of the text may come
            raise InvalidRequest(field, "does not go with a text whose form is given")
    param = "tools" if tool_grammar else "response_format" if body.structured_outputs is None else "structured_outputs"
    try:
        return served.grammars.compile(grammar)
    except BadGrammar as error:
        raise InvalidRequest(param, str(error)) from None


def _allowed(body: SamplingRequest, served: ServedModel) -> AllowedTokens | None:
    if not body.allowed_token_ids:
        return None
    check_token_ids("allowed_token_ids", body.allowed_token_ids, served)
    return AllowedTokens(body.allowed_token_ids, served.tokenizer.vocab_size)


def _bad_words(words: Sequence[str], tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """As vLLM has it, a word's tokens at the start of a text, and behind a space: tokenizers write them differently."""
    spellings = [spelling for word in words for spelling in (word.lstrip(), " " + word.lstrip())]
    sequences = [tuple(encode(tokenizer, text, "bad_words", add_special_tokens=False)) for text in spellings]
    return tuple(dict.fromkeys(sequence for sequence in sequences if sequence))


def _dry(body: SamplingRequest, tokenizer: Tokenizer) -> Dry | None:
    if not body.dry_multiplier or body.dry_penalty_last_n == 0:
        return None
    breakers = DEFAULT_BREAKERS if body.dry_sequence_breakers is None else body.dry_sequence_breakers
    return Dry(
        multiplier=body.dry_multiplier,
        base=1.75 if body.dry_base is None else body.dry_base,
        allowed_length=body.dry_allowed_length or 2,
        last_n=-1 if body.dry_penalty_last_n is None else body.dry_penalty_last_n,
        breaker_token_ids=tokens_with(breakers, tokenizer.token_bytes),
    )


def tokens_with(strings: Sequence[str], token_bytes: Sequence[bytes]) -> frozenset[int]:
    """The ids of all tokens that have one of `strings` in them."""
    patterns = [string.encode() for string in strings]
    return frozenset(
        token_id for token_id, raw in enumerate(token_bytes) if any(pattern in raw for pattern in patterns)
    )
