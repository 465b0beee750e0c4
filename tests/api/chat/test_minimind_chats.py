"""Chats with MiniMind models of every era, by their own tokenizers and templates: from the messages to the token ids of
the prompt, and from the token ids of the answer to its deltas."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from app.api.access import Access
from app.api.app import create_app
from app.api.chat.parser import Start
from app.api.chat.prompts import chat_prompt
from app.api.errors import InvalidRequest
from app.api.metrics import Metrics
from app.api.schemas.chat import ChatRequest
from app.api.served import ServedModel
from app.engine.detokenizer import Vocabulary
from app.engine.engine import Engine
from app.engine.grammars.constraints import GrammarCompiler
from app.engine.limits import Limits
from model.chat_template import ChatTemplate
from model.tokenizer import Tokenizer
from tests.api.api_parts import asking, events_of, served_model
from tests.fakes import FakeRunner
from tests.model.minimind_data import TEMPLATE_FILES, golden_lines, needs_minimind, tokenizer_folder

pytestmark = needs_minimind
USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
NUM_ASKED = {"v1": 21, "v2-early": 21, "v2-250426": 21, "v2": 36, "v3": 37}  # golden prompts a request can ask for
EMPTY_THOUGHT = "<think>\n\n</think>\n\n"

Served = Callable[[str], ServedModel]


@pytest.fixture
def served(tmp_path: Path) -> Served:
    numbers = count()

    def serve(era: str) -> ServedModel:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        tokenizer_folder(era, folder)
        return served_model(tokenizer=Tokenizer.from_folder(folder), chat_template=ChatTemplate.from_folder(folder))

    return serve


def asked_for(line: dict[str, Any], known: frozenset[str]) -> dict[str, Any] | None:
    """The body that asks for a golden prompt. None for what the API has otherwise: what the template would ignore is
    honoured or refused, text in parts is not lost, and a call has the shape that clients know."""
    kwargs = dict(line["kwargs"])
    flag = kwargs.pop("add_generation_prompt", True)
    calls = [call for message in line["messages"] for call in message.get("tool_calls", ())]
    if not ({"add_generation_prompt"} <= known or flag) or not kwargs.keys() <= known:
        return None
    if (line["tools"] and "tools" not in known) or any("function" not in call for call in calls):
        return None
    if any(isinstance(message["content"], list) for message in line["messages"]):
        return None
    if not all(value is None or isinstance(value, bool) for value in kwargs.values()):
        return None
    body = {"messages": line["messages"], "tools": line["tools"], "add_generation_prompt": flag}
    return {**body, "chat_template_kwargs": kwargs or None}


def spells_a_special_token(line: dict[str, Any], model: ServedModel) -> bool:
    names = [model.tokenizer.name(token_id) for token_id in model.tokenizer.special_token_ids]
    return any(name in json.dumps(line["messages"]) for name in names)


@pytest.mark.parametrize("era", TEMPLATE_FILES)
def test_minimind_s_golden_prompts_are_what_requests_become(era, served):
    model = served(era)
    lines = golden_lines("templates", era)
    asked = [(body, line) for line in lines if (body := asked_for(line, model.chat_template.variables))]
    spelled = [line for _, line in asked if spells_a_special_token(line, model)]

    assert (len(asked), len(spelled)) == (NUM_ASKED[era], 2)
    for body, line in asked:
        found = chat_prompt(ChatRequest.model_validate(body), model)
        assert found.text == line["text"]
        assert (found.start is Start.REASONING) == line["text"].endswith("<think>\n")
        if line in spelled:  # which stays text
            assert found.token_ids != line["ids"]
            assert model.tokenizer.decode(found.token_ids) == line["text"]
        else:
            assert found.token_ids == line["ids"]


@pytest.mark.parametrize("era", TEMPLATE_FILES)
def test_content_in_parts_reaches_templates_that_know_only_texts(era, served):
    model = served(era)
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]

    def prompt(content: Any) -> list[int]:
        messages = [{"role": role, "content": content} for role in ("system", "user", "assistant", "user")]
        return chat_prompt(ChatRequest.model_validate({"messages": messages}), model).token_ids

    assert prompt(parts) == prompt("a\nb") != prompt("")


def ways(switch: bool) -> list[dict[str, Any]]:
    """In which a client says whether to think."""
    named = [{name: switch} for name in ("enable_thinking", "open_thinking")]
    effort = {"reasoning_effort": "high" if switch else "none"}
    return [*named, *({"chat_template_kwargs": field} for field in named), effort, {**named[0], **named[1], **effort}]


@pytest.mark.parametrize(
    ("era", "switch", "end", "start"),
    [
        ("v3", True, "<think>\n", Start.REASONING),
        ("v3", False, EMPTY_THOUGHT, Start.ANSWER),
        ("v2", True, "", Start.ANSWER),  # left to the model
        ("v2", False, EMPTY_THOUGHT, Start.ANSWER),
    ],
)
def test_each_switch_opens_and_closes_thinking(era, switch, end, start, served):
    model = served(era)

    for fields in ways(switch):
        found = chat_prompt(ChatRequest.model_validate({"messages": [USER], **fields}), model)
        assert found.text.endswith(f"<|im_start|>assistant\n{end}")
        assert found.start is start


@pytest.mark.parametrize("era", ["v1", "v2-early", "v2-250426"])
def test_where_no_switch_was_thinking_cannot_be_asked_for_and_need_not_be_declined(era, served):
    model = served(era)

    for fields in ways(True):
        with pytest.raises(InvalidRequest, match=r"cannot be told otherwise|no such variable"):
            chat_prompt(ChatRequest.model_validate({"messages": [USER], **fields}), model)
    for fields in ways(False):
        assert chat_prompt(ChatRequest.model_validate({"messages": [USER], **fields}), model).start is Start.ANSWER


CALLS = [
    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1,  "b": "é"}'}},
    {"id": "c2", "type": "function", "function": {"name": "f", "arguments": {}}},
]
HISTORY = [
    USER,
    {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": CALLS},
    {"role": "tool", "tool_call_id": "c1", "content": "one"},
    {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "two"}]},
    {"role": "assistant", "content": "Well.", "reasoning_content": "so"},
    USER,
]
CALLED = (
    '<tool_call>\n{"name": "f", "arguments": {"a":1,  "b": "é"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
)
RESULTS = "<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response>"
THOUGHT = "<think>\n{}\n</think>\n\n"


@pytest.mark.parametrize(("era", "thought", "end"), [("v2", "", ""), ("v3", THOUGHT, EMPTY_THOUGHT)])
def test_reasoning_calls_and_results_of_the_past_are_as_the_model_was_taught(era, thought, end, served):
    found = chat_prompt(ChatRequest.model_validate({"messages": HISTORY, "tools": [TOOL]}), served(era))
    system, *turns = found.text.split("<|im_start|>")[1:]

    assert json.dumps(TOOL) in system
    assert turns == [
        "user\nhi<|im_end|>\n",
        f"assistant\n{thought.format('hm')}{CALLED}<|im_end|>\n",
        f"user\n{RESULTS}<|im_end|>\n",
        f"assistant\n{thought.format('so')}Well.<|im_end|>\n",
        "user\nhi<|im_end|>\n",
        f"assistant\n{end}",
    ]


@pytest.mark.parametrize("era", ["v1", "v2-early", "v2-250426"])
def test_of_a_template_without_tools_they_are_in_the_messages(era, served):
    text = chat_prompt(ChatRequest.model_validate({"messages": HISTORY, "tools": [TOOL]}), served(era)).text

    assert json.dumps(TOOL["function"]) in text.partition("user\n")[0]
    assert text.index(CALLED) < text.index(f"user\n{RESULTS}") < text.index("Well.")


@pytest.mark.parametrize("thinks", [True, False])
def test_an_answer_sent_back_has_the_tokens_that_it_had(thinks, served):
    model, said = served("v3"), "hm\n</think>\n\nYes." if thinks else "Yes."
    fields = {"open_thinking": thinks}
    first = chat_prompt(ChatRequest.model_validate({"messages": [USER], **fields}), model).token_ids
    answer = {"role": "assistant", "content": "Yes.", "reasoning_content": "hm" if thinks else None}
    later = chat_prompt(ChatRequest.model_validate({"messages": [USER, answer, USER], **fields}), model).token_ids

    so_far = [*first, *model.tokenizer.encode(said), 2]
    assert later[: len(so_far)] == so_far


def app_that_says(model: ServedModel, token_ids: Sequence[int]) -> FastAPI:
    vocabulary = Vocabulary(model.tokenizer.token_bytes, model.tokenizer.special_token_ids)
    script, metrics = [*token_ids, 2], Metrics()
    runner = FakeRunner(lambda seen, num_prompt: script[len(seen) - num_prompt], max_model_len=1024, num_blocks=512)
    engine = Engine(runner, vocabulary, Limits(8, 64, 8), metrics.observe)
    ends = frozenset({2})
    described = replace(model, max_model_len=1024, eos_token_ids=ends, grammars=GrammarCompiler(vocabulary, ends))
    return create_app(described, engine, metrics, Access(()))


async def streamed(app: FastAPI, **fields: Any) -> tuple[list[str], dict[str, Any]]:
    """Which members the deltas had, in their order, and what each adds up to."""
    async with asking(app) as client:
        answer = await client.post("/v1/chat/completions", json={"messages": [USER], "stream": True, **fields})
    assert answer.status_code == 200, answer.text
    *chunks, done = events_of(answer.text)
    assert done == "[DONE]"
    told: dict[str, Any] = {}
    for choice in (json.loads(chunk)["choices"][0] for chunk in chunks):
        for name, value in choice["delta"].items():
            told[name] = told.get(name, type(value)()) + value if value is not None else told.get(name)
        told["finish_reason"] = choice["finish_reason"]
    return list(told), told


CALL = '<tool_call>\n{"name": "f", "arguments": {"城市": "北京"}}\n</tool_call>'
SAID = {  # era, whether thinking is asked for, what is said, reasoning, content, number of calls
    "thinking opened by the prompt": ("v3", True, "hm 数\n</think>\n\n是的。", "hm 数", "是的。", 0),
    "thinking opened by the model": ("v3", None, "<think>\nhm\n</think>\n\nYes", "hm", "Yes", 0),
    "thinking, then calls": ("v3", True, f"hm\n</think>\n\n我看。\n{CALL}\n{CALL}", "hm", "我看。", 2),
    "calls without thinking": ("v3", False, CALL, None, None, 1),
    "MiniMind2, tags in letters": ("v2", True, f"<think>\nhm\n</think>\n\n好\n{CALL}", "hm", "好", 1),
    "MiniMind2-R1 of April 2025": (
        "v2-250426",
        None,
        "<think>\nhm\n</think>\n<answer>\n好\n</answer>",
        "hm",
        "<answer>\n好\n</answer>",
        0,
    ),
    "MiniMind2-R1 of early 2025": (
        "v2-early",
        None,
        "<think>hm</think>\n<answer>好</answer>",
        "hm",
        "<answer>好</answer>",
        0,
    ),
}


@pytest.mark.parametrize("name", SAID)
async def test_reasoning_and_calls_are_streamed_apart(name, served):
    era, thinks, text, reasoning, content, num_calls = SAID[name]
    model = served(era)
    token_ids = model.tokenizer.encode(text)
    fields = {"tools": [TOOL]} | ({} if thinks is None else {"enable_thinking": thinks})
    names, told = await streamed(app_that_says(model, token_ids), **fields)

    assert told.get("reasoning_content") == reasoning
    assert told.get("content") == content
    assert [call["function"] for call in told.get("tool_calls", ())] == [
        {"name": "f", "arguments": '{"城市": "北京"}'}
    ] * num_calls
    assert told["finish_reason"] == ("tool_calls" if num_calls else "stop")
    if era == "v3":
        tags = {21, 22, 25, 26}.intersection(token_ids)
        assert len(tags) == sum(tag in text for tag in ("<think>", "</think>", "<tool_call>", "</tool_call>"))
