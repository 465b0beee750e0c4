"""Events to bytes: what a stream looks like, byte for byte."""

import json
from dataclasses import replace

import pytest

from app.api.answers import AnswerFormat, AnswerPlan
from app.api.chat import ChatFormat
from app.api.completions import CompletionFormat
from app.api.errors import GenerationFailed
from app.api.logprobs import TokenTexts
from app.api.stream import ChunkWriter
from app.engine.request import FinishReason, TokenEvent
from tests.api.api_parts import events_of
from tests.fakes import EOS, ByteTokenizer

TEXTS = TokenTexts(ByteTokenizer())
CHAT, COMPLETION = ChatFormat(TEXTS), CompletionFormat(TEXTS)
PLAN = AnswerPlan(
    id="x-1",
    created=7,
    model='the "model"',
    num_choices=1,
    num_prompt_tokens=5,
    eos_token_ids=frozenset({EOS}),
    with_logprobs=False,
    with_token_ids=False,
    with_usage=False,
    with_running_usage=False,
)
HEAD = '"created":7,"model":"the \\"model\\"","choices":'


def token(text: str, token_id: int = 97, **fields) -> TokenEvent:
    return TokenEvent(fields.pop("index", 0), token_id, text, **fields)


def writer(answer_format: AnswerFormat = CHAT, **changes) -> ChunkWriter:
    return ChunkWriter(replace(PLAN, **changes), answer_format)


def chunks(data: bytes) -> list[dict]:
    return [json.loads(event) for event in events_of(data.decode()) if event != "[DONE]"]


def test_the_bytes_of_a_chat():
    stream = writer()
    head = f'data: {{"id":"x-1","object":"chat.completion.chunk",{HEAD}'

    assert stream.write([token("Hé\n")]).decode() == (
        head
        + '[{"index":0,"delta":{"role":"assistant","content":"H\\u00e9\\n"},"logprobs":null,"finish_reason":null}]}\n\n'
    )
    assert stream.write([token(" b")]).decode() == (
        head + '[{"index":0,"delta":{"content":" b"},"logprobs":null,"finish_reason":null}]}\n\n'
    )
    assert not stream.is_finished
    assert stream.write([token("", EOS, finish_reason=FinishReason.STOP, stop_reason=EOS)]).decode() == (
        head + '[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop","stop_reason":null}]}\n\ndata: [DONE]\n\n'
    )
    assert stream.is_finished


def test_the_bytes_of_a_completion():
    stream = writer(COMPLETION, with_usage=True)
    head = f'data: {{"id":"x-1","object":"text_completion",{HEAD}'
    usage = '{"prompt_tokens":5,"completion_tokens":1,"total_tokens":6,"prompt_tokens_details":{"cached_tokens":0}}'

    assert stream.write([token("a", finish_reason=FinishReason.LENGTH)]).decode() == (
        head + '[{"index":0,"text":"a","logprobs":null,"finish_reason":"length","stop_reason":null}],"usage":null}\n\n'
        f'{head}[],"usage":{usage}}}\n\n'
        "data: [DONE]\n\n"
    )


def test_tokens_that_print_nothing_wait_for_one_that_does():
    stream = writer(with_token_ids=True)

    assert stream.write([token("", 0xC3)]) == b""
    assert chunks(stream.write([token("é", 0xA9)]))[0]["choices"][0]["token_ids"] == [0xC3, 0xA9]


def test_events_that_come_together_are_one_chunk_for_each_choice():
    stream = writer(num_choices=2, with_token_ids=True, with_logprobs=True)

    events = [token("a", logprob=-1.0), token("x", index=1, logprob=-2.0), token("b", 98, logprob=-3.0)]
    first, second = (chunk["choices"][0] for chunk in chunks(stream.write(events)))

    assert (first["index"], first["delta"]["content"], first["token_ids"]) == (0, "ab", [97, 98])
    assert [entry["logprob"] for entry in first["logprobs"]["content"]] == [-1.0, -3.0]
    assert (second["index"], second["delta"]["content"]) == (1, "x")


def test_each_choice_has_its_role_once_and_the_end_comes_after_the_last():
    stream = writer(num_choices=2)

    stream.write([token("a")])
    early = stream.write([token("b", finish_reason=FinishReason.LENGTH)])
    late = stream.write([token("x", index=1, finish_reason=FinishReason.LENGTH)])

    assert "role" not in chunks(early)[0]["choices"][0]["delta"]
    assert b"[DONE]" not in early
    assert chunks(late)[0]["choices"][0]["delta"] == {"role": "assistant", "content": "x"}
    assert late.endswith(b"data: [DONE]\n\n")


def test_a_choice_that_ends_without_text_has_a_role_all_the_same():
    end = writer().write([token("", EOS, finish_reason=FinishReason.STOP)])

    assert chunks(end)[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}


def test_usage_so_far_is_in_every_chunk_where_it_is_asked_for():
    stream = writer(with_usage=True, with_running_usage=True)

    first = chunks(stream.write([token("a"), token("b")]))
    last = chunks(stream.write([token("", EOS, finish_reason=FinishReason.STOP)]))

    assert [chunk["usage"]["completion_tokens"] for chunk in first + last] == [2, 3, 3]
    assert last[-1]["choices"] == []


def test_text_offsets_go_on_from_chunk_to_chunk():
    stream = writer(COMPLETION, with_logprobs=True)

    both = chunks(stream.write([token("ab", logprob=-1.0)])) + chunks(stream.write([token("c", logprob=-1.0)]))

    assert [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in both] == [[0], [1]]


def test_a_stop_at_the_end_of_text_has_no_reason_and_others_have():
    def reason(stop_reason, **changes):
        end = writer(**changes).write([token("a", finish_reason=FinishReason.STOP, stop_reason=stop_reason)])
        return chunks(end)[0]["choices"][0]["stop_reason"]

    assert reason(EOS) is None
    assert reason(EOS, eos_token_ids=frozenset()) == EOS
    assert reason(98) == 98
    assert reason('say "when"') == 'say "when"'


def test_an_error_is_raised_for_whoever_sends_to_tell():
    with pytest.raises(GenerationFailed, match="The model broke"):
        writer().write([token("a"), TokenEvent(0, finish_reason=FinishReason.ERROR, error="The model broke.")])
