"""Chats on the wire: what a stream's deltas add up to is the message of the whole answer, wherever the text is cut."""

import json
import random
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any

import pytest

from app.api.answers import AnswerPlan, by_choice
from app.api.chat.parser import CallRules, Start, TagParser
from app.api.chat.route import ChatAnswer
from app.api.chat.voice import ChatVoice
from app.api.chunks import ChunkWriter
from app.api.logprobs import TokenTexts
from app.engine.detokenizer import Detokenizer, Vocabulary
from app.engine.request import FinishReason, TokenEvent
from tests.api.api_parts import events_of
from tests.fakes import EOS, ByteTokenizer

TEXTS = TokenTexts(ByteTokenizer())
AUTO = CallRules(frozenset({"f", "天气"}))
CERTAIN = CallRules(AUTO.names, is_certain=True)
CALL = '<tool_call>\n{"name": "f", "arguments": {"城市": "Zürich 😀\\n", "n": [1.5, null, "👩‍🚀"]}}\n</tool_call>'
OTHER = '<tool_call>\n{"name": "天气", "arguments": {}}\n</tool_call>'
CHATS = {
    "content": ("Grüße, 世界! 👩‍🚀\n\n a < b & <c> \u2028\n", Start.ANSWER, AUTO),
    "reasoning": ("<think>\nhm… 数学 👍🏽\n\n2 < 3\n</think>\n\nJa: 世界 </think>", Start.ANSWER, None),
    "reasoning that the prompt opened": ("ñandú 🦤</thin\n</think>\n\nÉ", Start.REASONING, AUTO),
    "tool calls": (f"Ich schaue… 🔎\n{CALL}\n{OTHER}\n", Start.ANSWER, AUTO),
    "tool calls by a grammar": (f"{CALL}\n{OTHER}", Start.ANSWER, CERTAIN),
    "all": (f"<think>\nhm 数\n</think>\n\n¿?\n{CALL}\nund 世\n{OTHER} <tool_call>é</tool_call>", Start.ANSWER, AUTO),
}


def voices(start: Start, rules: CallRules | None, number: int = 1) -> list[ChatVoice]:
    ids = [count() for _ in range(number)]
    return [ChatVoice(TagParser(start, rules, lambda own=own: f"id-{next(own)}"), TEXTS) for own in ids]


def plan(number: int = 1) -> AnswerPlan:
    return AnswerPlan(
        id="x-1",
        created=7,
        model="m",
        fingerprint="fp",
        prompts=((1,),),
        num_candidates=number,
        num_choices=number,
        eos_token_ids=frozenset({EOS}),
        num_logprobs=None,
        num_prompt_logprobs=None,
        with_token_ids=False,
        with_timings=False,
        with_usage=False,
        with_running_usage=False,
    )


def said(text: str, index: int, chance: random.Random) -> list[TokenEvent]:
    """`text` as a vocabulary with odd tokens would have it: cut between any two bytes."""
    raw = text.encode()
    places = sorted(chance.choices(range(len(raw) + 1), k=chance.randint(0, 40)))
    pieces = [raw[begin:end] for begin, end in zip([0, *places], [*places, len(raw)], strict=True)]
    detokenizer = Detokenizer(Vocabulary(pieces, frozenset()))
    events = [TokenEvent(index, token_id, detokenizer.push(token_id)) for token_id in range(len(pieces))]
    return [*events, TokenEvent(index, EOS, detokenizer.flush(), finish_reason=FinishReason.STOP, stop_reason=EOS)]


def interleaved(choices: Sequence[list[TokenEvent]], chance: random.Random) -> Iterable[list[TokenEvent]]:
    """Some events of some choices at a time, those of a choice in their order."""
    waiting = [list(events) for events in choices]
    while any(waiting):
        batch: list[TokenEvent] = []
        for events in waiting:
            batch += [events.pop(0) for _ in range(min(chance.choice((0, 1, 1, 2, 9)), len(events)))]
        if batch:
            yield batch


def add_up(chunks: Iterable[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """Messages and finish reasons, as OpenAI's client makes them of deltas."""
    choices: list[dict[str, Any]] = [{"content": None, "tool_calls": []} for _ in range(number)]
    for chunk in chunks:
        (choice,) = chunk["choices"]
        message, delta = choices[choice["index"]], dict(choice["delta"])
        assert ("role" in delta) == (not message.keys() & {"role"}), "the role stands in the first delta"
        assert "finish_reason" not in message, "nothing comes behind the last"
        for call in delta.pop("tool_calls", ()):
            if "id" in call:
                assert call["index"] == len(message["tool_calls"])
                message["tool_calls"].append(call)
            else:
                message["tool_calls"][call["index"]]["function"]["arguments"] += call["function"]["arguments"]
        for name, value in delta.items():
            message[name] = (message.get(name) or "") + value if value is not None else message.get(name)
        if choice["finish_reason"]:
            message["finish_reason"] = choice["finish_reason"]
    return choices


def whole(text: str, start: Start, rules: CallRules | None, number: int) -> list[dict[str, Any]]:
    events = by_choice((event for index in range(number) for event in said(text, index, random.Random(0))), number)
    answer = ChatAnswer(plan(number), TEXTS, voices(start, rules, number)).render(events)
    return [choice.model_dump() for choice in answer.choices]


@pytest.mark.parametrize("name", CHATS)
def test_300_ways_to_cut_a_stream_add_up_to_the_answer(name):
    text, start, rules = CHATS[name]
    chance = random.Random(name)
    expected = whole(text, start, rules, 2)

    for _ in range(300):
        writer = ChunkWriter(plan(2), "chat.completion.chunk", voices(start, rules, 2), TEXTS)
        batches = interleaved([said(text, 0, chance), said(text, 1, chance)], chance)
        stream = b"".join(writer.write(batch) for batch in batches).decode("ascii")
        *chunks, done = events_of(stream)
        assert done == "[DONE]"
        for found, choice in zip(add_up(map(json.loads, chunks), 2), expected, strict=True):
            message = choice["message"]
            assert found["finish_reason"] == choice["finish_reason"]
            assert (found["content"] or "") == (message["content"] or "")
            assert found.get("reasoning_content") == message.get("reasoning_content")
            calls = [{key: value for key, value in call.items() if key != "index"} for call in found["tool_calls"]]
            assert calls == message.get("tool_calls", [])
            assert all(isinstance(json.loads(call["function"]["arguments"]), dict) for call in calls)


def message(text: str, start: Start = Start.ANSWER, rules: CallRules | None = AUTO) -> dict[str, Any]:
    return whole(text, start, rules, 1)[0]["message"]


def test_a_message_has_what_there_is_to_say():
    assert message("Yes") == {"role": "assistant", "content": "Yes", "refusal": None}
    assert message("") == {"role": "assistant", "content": "", "refusal": None}
    assert message("<think>hm</think>") == {
        "role": "assistant",
        "content": "",
        "refusal": None,
        "reasoning_content": "hm",
    }
    assert message(OTHER) == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [{"id": "id-0", "type": "function", "function": {"name": "天气", "arguments": "{}"}}],
    }


def deltas(pieces: Sequence[str], rules: CallRules = AUTO) -> list[dict[str, Any]]:
    (voice,) = voices(Start.ANSWER, rules)
    members = [voice.delta(piece, is_last=index == len(pieces) - 1) for index, piece in enumerate(pieces)]
    return [json.loads(f"{{{member}}}")["delta"] for member in members if member]


def test_deltas_name_only_what_they_bring():
    assert deltas(["<think>\n", "hm", "\n</think>\n\n", "Yes", "!", ""]) == [
        {"role": "assistant", "reasoning_content": "hm"},
        {"content": "Yes"},
        {"content": "!"},
        {},
    ]
    assert deltas([""]) == [{"role": "assistant", "content": ""}]


def test_a_call_begins_with_its_id_and_name_and_goes_on_with_arguments():
    head, rest = '<tool_call>\n{"name": "f", "arguments": ', '{"a": 1}}\n</tool_call>'

    assert deltas([head, rest[:4], rest[4:]], CERTAIN) == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"index": 0, "id": "id-0", "type": "function", "function": {"name": "f", "arguments": ""}}],
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]},
    ]


def test_calls_that_come_together_are_one_entry_each():
    (delta,) = deltas([f"Hm\n{OTHER}\n{OTHER}"])

    assert delta["content"] == "Hm"
    assert [call["index"] for call in delta["tool_calls"]] == [0, 1]
    assert [call["function"] for call in delta["tool_calls"]] == [{"name": "天气", "arguments": "{}"}] * 2


@pytest.mark.parametrize(
    ("text", "reason", "expected"),
    [
        (OTHER, FinishReason.STOP, "tool_calls"),
        (OTHER, FinishReason.LENGTH, "length"),
        (OTHER, FinishReason.ABORT, "abort"),
        ("Yes", FinishReason.STOP, "stop"),
        ("<tool_call>x</tool_call>", FinishReason.STOP, "stop"),
    ],
)
def test_the_reason_of_the_end_tells_of_calls(text, reason, expected):
    (voice,) = voices(Start.ANSWER, AUTO)
    voice.delta(text, is_last=True)

    assert voice.finish_reason(reason) == expected
