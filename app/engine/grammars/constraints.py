"""Structured output: from a grammar to which tokens may come next, by llguidance, whose parser works on bytes. Here are
its tokens, and the bounds on what a client's grammar may cost.

A grammar is compiled for one request and kept nowhere: nothing that a client wrote outlives its request.
"""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from app.engine.detokenizer import Vocabulary
from app.engine.errors import ConstraintFailed
from app.engine.grammars.grammar import BadGrammar, Grammar, GrammarKind
from app.engine.grammars.json_schema import subschemas
from app.engine.grammars.lark import briefly, checked_lark, schema_of
from app.engine.grammars.trials import TOO_MUCH, GrammarTrials

SECONDS_TO_LOOK = 0.5  # for where in a schema a problem is
MAX_LEXER_STATES = 100_000  # of one request, about a kilobyte each: what a text of some length takes, and no more


class GrammarConstraint:
    """Implements `request.Constraint`. Copies are independent of each other, and may be used at the same time."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def copy(self) -> "GrammarConstraint":
        """For another choice of the same request: where this one is now, without compiling again."""
        return GrammarConstraint(self._matcher.deep_copy())

    def allowed(self) -> bytes:
        """As Chunk.allowed; an end-of-text token exactly where the grammar may end. Lets go of the interpreter while it
        works. Raises ConstraintFailed."""
        mask = self._matcher.compute_bitmask()
        self._raise_if_failed()
        return mask

    def accept(self, token_id: int) -> None:
        """Raises ConstraintFailed, and is of no more use, for one that was not allowed."""
        self._matcher.consume_token(token_id)
        self._raise_if_failed()

    def _raise_if_failed(self) -> None:
        if self._matcher.is_error():
            problem = briefly(self._matcher.get_error(), GrammarKind.LARK)
            raise ConstraintFailed(f"The grammar of this request cannot be followed any further: {problem}")


class _TokenTable:
    """A vocabulary as TokenizerWrapper wants it."""

    bos_token_id = None

    def __init__(self, token_bytes: Sequence[bytes], special_token_ids: frozenset[int]) -> None:
        self.tokens = list(token_bytes)
        self.special_token_ids = sorted(special_token_ids)
        self.eos_token_id = self.special_token_ids[0]  # the real ones are named beside this

    def __call__(self, text: bytes) -> list[int]:
        raise NotImplementedError  # asked for where tokens are forced


class GrammarCompiler:
    """For one vocabulary. May be called by several threads; it compiles one grammar at a time, whoever asks, so that
    compiling never takes more than one core from the steps."""

    def __init__(self, vocabulary: Vocabulary, eos_token_ids: frozenset[int]) -> None:
        self._token_bytes = vocabulary.token_bytes
        self._eos_token_ids = sorted(eos_token_ids.intersection(range(len(self._token_bytes))))
        self._special_token_ids = vocabulary.special_token_ids.union(self._eos_token_ids)
        self._tokenizer: LLTokenizer | None = None  # made at first use
        self._trials = GrammarTrials(self._token_bytes, self._special_token_ids)
        self._limits = LLParserLimits(max_lexer_states=MAX_LEXER_STATES, verbose_errors=False)
        self._lock = threading.Lock()

    def compile(self, grammar: Grammar) -> GrammarConstraint:
        """Takes some milliseconds, the first time and for hostile grammars some hundred: not for the event loop. Raises
        BadGrammar."""
        if not self._eos_token_ids:
            raise BadGrammar("", "this model has no end-of-text token to write behind what has a grammar")
        lark = checked_lark(grammar)
        with self._lock:
            if problem := self._trials.problem_of(lark):
                raise BadGrammar(self._place_of(problem, grammar), briefly(problem, grammar.kind))
            matcher = LLMatcher(self._made_tokenizer(), lark, log_level=0, limits=self._limits)
        if matcher.is_error():
            raise BadGrammar("", briefly(matcher.get_error(), grammar.kind))
        return GrammarConstraint(matcher)

    def _made_tokenizer(self) -> LLTokenizer:
        if self._tokenizer is None:
            table = _TokenTable(self._token_bytes, self._special_token_ids)
            self._tokenizer = LLTokenizer(TokenizerWrapper(table), eos_token=self._eos_token_ids)
        return self._tokenizer

    def _place_of(self, problem: str, grammar: Grammar) -> str:
        """Of the smallest part of a schema that has the problem by itself."""
        if grammar.kind is not GrammarKind.JSON_SCHEMA or problem == TOO_MUCH:
            return ""
        schema = schema_of(grammar)
        definitions = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
        place, waiting = "", list(subschemas(schema))
        ends = time.monotonic() + SECONDS_TO_LOOK
        while waiting and time.monotonic() < ends:
            inner, part = waiting.pop()
            if isinstance(part, dict) and self._has(problem, Grammar.of_schema({**definitions, **part})):
                place, waiting = inner, list(subschemas(part, inner))
        return place

    def _has(self, problem: str, grammar: Grammar) -> bool:
        with suppress(BadGrammar):  # a part with all definitions may be longer than the whole
            found = self._trials.problem_of(checked_lark(grammar))
            return found.partition("\n")[0] == problem.partition("\n")[0]
        return False
