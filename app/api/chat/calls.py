"""A chat request → what the engine is to run, and how its text is to be read: the one path of chat completions,
responses and messages. What the answer looks like is for each of them to say."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from fastapi import Request

from app.api.chat.deltas import ChatParser
from app.api.chat.grammar import chat_grammar
from app.api.chat.parser import CallRules, TagParser
from app.api.chat.prompts import chat_prompt
from app.api.generation import Call, Generation
from app.api.long_work import on_a_thread
from app.api.schemas.chat import ChatRequest


@dataclass(frozen=True, slots=True)
class ChatCall(Call):
    """Its `plan` and `submissions`, one for each choice; and a parser for each of these."""

    new_parser: Callable[[], ChatParser]


@dataclass(frozen=True, slots=True)
class ChatCalls:
    generation: Generation

    async def prepare(self, request: Request, body: ChatRequest, id_prefix: str = "chatcmpl") -> ChatCall:
        """The parts that take long run on a thread. Raises UnknownModel, InvalidRequest."""
        served = self.generation.served
        served.require(body.model)
        prompt = await on_a_thread(request, chat_prompt, body, served)
        grammar = chat_grammar(body, prompt.start)
        room_for = partial(self.generation.room_for, num_candidates=body.num_candidates)
        call = await self.generation.prepare(request, body, [prompt.token_ids], id_prefix, room_for, grammar)
        rules = _call_rules(body, is_certain=grammar is not None) if body.offered_tools else None
        return ChatCall(call.plan, call.submissions, lambda: TagParser(prompt.start, rules))


def _call_rules(body: ChatRequest, *, is_certain: bool) -> CallRules:
    return CallRules(
        names=frozenset(tool.function.name for tool in body.offered_tools),
        is_single=body.parallel_tool_calls is False,
        is_certain=is_certain,
    )
