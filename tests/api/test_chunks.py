"""Events to bytes: what a stream of OpenAI's looks like, byte for byte. The choices speak as completions do."""

import json
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest

from app.api.answers import AnswerPlan
from app.api.chunks import ChunkWriter
from app.api.completions import CompletionVoice
from app.api.echo import Echo
from app.api.errors import GenerationFailed
from app.api.logprobs import TokenTexts
from app.engine.detokenizer import Detokenizer, Vocabulary
from app.engine.request import DEADLINE, FinishReason, Timings, TokenEvent
from model.batch import TargetLogprob
from tests.api.api_parts import events_of
from tests.fakes import EOS, ByteTokenizer

TEXTS = TokenTexts(ByteTokenizer())
PLAN = AnswerPlan(
    id="x-1",
    created=7,
    model='the "model"',
    fingerprint="fp_1",
    prompts=((1, 2, 3, 4, 5),),
    num_candidates=1,
    num_choices=1,
    eos_token_ids=frozenset({EOS}),
    num_logprobs=None,
    num_prompt_logprobs=None,
    with_token_ids=False,
    with_timings=True,
    with_usage=False,
    with_running_usage=False,
)
HEAD = (
    'data: {"id":"x-1","object":"text_completion","created":7,"model":"the \\"model\\"","system_fingerprint":"fp_1",'
    '"choices":['
)
TIMES = Timings(queue_s=0.001, prefill_s=0.5, decode_s=2.0, num_blocks=2, num_bytes=64)
STOP = {"finish_reason": FinishReason.STOP, "stop_reason": EOS}


def token(text: str, token_id: int = 97, **fields) -> TokenEvent:
    return TokenEvent(fields.pop("index", 0), token_id, text, **fields)


def writer(
    num_choices: int = 1, echoes: tuple[Echo, ...] = (), prompt_is_in_choice: bool = True, **changes
) -> ChunkWriter:
    plan = replace(PLAN, num_candidates=num_choices, num_choices=num_choices, **changes)
    voices = [CompletionVoice(plan, TEXTS, index, echoes) for index in range(num_choices * len(plan.prompts))]
    return ChunkWriter(plan, "text_completion", voices, TEXTS, prompt_is_in_choice=prompt_is_in_choice)


def chunks(data: bytes) -> list[dict]:
    return [json.loads(event) for event in events_of(data.decode()) if event != "[DONE]"]


def test_the_bytes_of_a_stream():
    stream = writer()

    assert stream.write([token("Hé\n")]).decode() == (
        HEAD + '{"index":0,"text":"H\\u00e9\\n","logprobs":null,"finish_reason":null}]}\n\n'
    )
    assert not stream.is_finished
    assert stream.write([token("", EOS, **STOP)]).decode() == (
        HEAD + '{"index":0,"text":"","logprobs":null,"finish_reason":"stop","stop_reason":null}]}\n\ndata: [DONE]\n\n'
    )
    assert stream.is_finished


def test_the_bytes_of_a_stream_with_usage():
    usage = '{"prompt_tokens":5,"completion_tokens":1,"total_tokens":6,"prompt_tokens_details":{"cached_tokens":0}}'

    assert writer(with_usage=True).write([token("a", finish_reason=FinishReason.LENGTH)]).decode() == (
        HEAD + '{"index":0,"text":"a","logprobs":null,"finish_reason":"length","stop_reason":null}],"usage":null}\n\n'
        f'{HEAD}],"usage":{usage}}}\n\n'
        "data: [DONE]\n\n"
    )


def test_tokens_that_print_nothing_wait_for_one_that_does():
    stream = writer(with_token_ids=True)

    assert stream.write([token("", 0xC3)]) == b""
    assert chunks(stream.write([token("é", 0xA9)]))[0]["choices"][0]["token_ids"] == [0xC3, 0xA9]


def test_events_that_come_together_are_one_chunk_for_each_choice():
    stream = writer(num_choices=2, with_token_ids=True, num_logprobs=0)

    events = [token("a", logprob=-1.0), token("x", index=1, logprob=-2.0), token("b", 98, logprob=-3.0)]
    first, second = (chunk["choices"][0] for chunk in chunks(stream.write(events)))

    assert (first["index"], first["text"], first["token_ids"]) == (0, "ab", [97, 98])
    assert first["logprobs"]["token_logprobs"] == [-1.0, -3.0]
    assert (second["index"], second["text"]) == (1, "x")


TEXT = 'plain, "quoted", back\\slash, new\nline, é, 世界, 👩‍🚀, \u2028 and \x7f' * 2


@pytest.mark.parametrize("seed", range(300))
def test_however_a_text_is_cut_its_pieces_add_up(seed):
    """Cut into tokens anywhere, within characters too; and the tokens into arrivals."""
    draw, raw = Random(seed), TEXT.encode()
    places = sorted(draw.sample(range(1, len(raw)), draw.randrange(1, 60)))
    token_bytes = [raw[start:end] for start, end in pairwise([0, *places, len(raw)])]
    detokenizer = Detokenizer(Vocabulary(token_bytes, frozenset()))
    events = [token(detokenizer.push(token_id), token_id) for token_id in range(len(token_bytes))]
    stream, data = writer(with_token_ids=True), b""

    events[-1] = replace(events[-1], finish_reason=FinishReason.LENGTH)
    while events:
        arrived, events = events[: (size := draw.randrange(1, 5))], events[size:]
        data += stream.write(arrived)

    choices = [chunk["choices"][0] for chunk in chunks(data)]
    assert data.isascii()
    assert "".join(choice["text"] for choice in choices) == TEXT
    assert [token_id for choice in choices for token_id in choice["token_ids"]] == list(range(len(token_bytes)))


def test_the_end_comes_after_the_last_choice():
    stream = writer(num_choices=2)

    early = stream.write([token("b", finish_reason=FinishReason.LENGTH)])
    late = stream.write([token("x", index=1, finish_reason=FinishReason.LENGTH)])

    assert b"[DONE]" not in early
    assert late.endswith(b"data: [DONE]\n\n")


def test_usage_so_far_is_in_every_chunk_where_it_is_asked_for():
    stream = writer(with_usage=True, with_running_usage=True)

    first = chunks(stream.write([token("a"), token("b")]))
    last = chunks(stream.write([token("", EOS, **STOP)]))

    assert [chunk["usage"]["completion_tokens"] for chunk in first + last] == [2, 3, 3]
    assert last[-1]["choices"] == []


def test_text_offsets_go_on_from_chunk_to_chunk():
    stream = writer(num_logprobs=0)

    both = chunks(stream.write([token("ab", logprob=-1.0)])) + chunks(stream.write([token("c", logprob=-1.0)]))

    assert [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in both] == [[0], [1]]


@pytest.mark.parametrize(
    ("reason", "stop_reason", "changes", "told"),
    [
        (FinishReason.STOP, EOS, {}, ("stop", None)),
        (FinishReason.STOP, EOS, {"eos_token_ids": frozenset()}, ("stop", EOS)),
        (FinishReason.STOP, 98, {}, ("stop", 98)),
        (FinishReason.STOP, 'say "when"', {}, ("stop", 'say "when"')),
        (FinishReason.LENGTH, DEADLINE, {}, ("length", "deadline")),
        (FinishReason.ABORT, None, {}, ("abort", None)),
    ],
)
def test_why_a_choice_ended_is_told(reason, stop_reason, changes, told):
    end = writer(**changes).write([token("a", finish_reason=reason, stop_reason=stop_reason)])

    choice = chunks(end)[0]["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == told


def test_an_error_is_raised_for_whoever_sends_to_tell():
    stream = writer()

    with pytest.raises(GenerationFailed, match="The model broke") as caught:
        stream.write([token("a"), TokenEvent(0, finish_reason=FinishReason.ERROR, error="The model broke.")])
    assert json.loads(events_of(stream.error(caught.value).decode())[0])["error"]["message"] == "The model broke."


def test_timings_are_in_the_last_chunk_before_the_end():
    end = [token("b", finish_reason=FinishReason.LENGTH, timings=TIMES)]
    plain, with_usage = writer(), writer(with_usage=True)

    assert "timings" not in chunks(plain.write([token("a")]))[0]
    assert chunks(plain.write(end))[-1]["timings"] == {
        "queue_ms": 1.0,
        "prompt_n": 5,
        "prompt_ms": 500.0,
        "prompt_per_second": 10.0,
        "predicted_n": 2,
        "predicted_ms": 2000.0,
        "predicted_per_second": 0.5,
        "kv_blocks": 2,
        "kv_bytes": 64,
    }
    assert ["timings" in chunk for chunk in chunks(with_usage.write(end))] == [False, True]
    assert "timings" not in chunks(writer(with_timings=False).write(end))[0]


def test_timings_are_those_of_all_choices():
    stream = writer(num_choices=2)

    first = chunks(stream.write([token("a", finish_reason=FinishReason.LENGTH, timings=TIMES)]))
    longer = replace(TIMES, decode_s=4.0)
    last = chunks(stream.write([token("b", index=1, finish_reason=FinishReason.LENGTH, timings=longer)]))

    assert "timings" not in first[0]
    assert (last[0]["timings"]["kv_blocks"], last[0]["timings"]["predicted_ms"]) == (4, 4000.0)


# ── the prompt ──

READ = TokenEvent(0, prompt_logprobs=(TargetLogprob(-0.5, ((2, -0.5),)), TargetLogprob(-1.0, ((9, -0.1),))))
AND_MORE = TokenEvent(0, prompt_logprobs=(TargetLogprob(-1.5), TargetLogprob(-2.0)))


def test_an_echo_comes_first_with_its_log_probabilities():
    stream = writer(echoes=(Echo("12345", (0, 1, 2, 3, 4)),), num_logprobs=1)

    assert stream.write([READ]) == b""
    first, second = chunks(
        stream.write([AND_MORE, token("a", logprob=-3.0)]) + stream.write([token("b", 98, logprob=-4.0)])
    )

    assert (first["choices"][0]["text"], second["choices"][0]["text"]) == ("12345a", "b")
    logprobs = first["choices"][0]["logprobs"]
    assert logprobs["token_logprobs"] == [None, -0.5, -1.0, -1.5, -2.0, -3.0]
    assert logprobs["top_logprobs"][:3] == [None, {"\x02": -0.5}, {"\t": -0.1, "\x03": -1.0}]
    assert logprobs["text_offset"] == [0, 1, 2, 3, 4, 5]
    assert second["choices"][0]["logprobs"]["text_offset"] == [6]


def test_log_probabilities_of_the_prompt_are_in_the_first_chunk_of_each_choice():
    stream = writer(num_choices=2, num_prompt_logprobs=0, with_token_ids=True)
    events = [READ, replace(READ, index=1), AND_MORE, replace(AND_MORE, index=1), token("a"), token("b", index=1)]

    first, second = chunks(stream.write(events))
    (later,) = chunks(stream.write([token("c")]))

    for chunk in (first, second):
        choice = chunk["choices"][0]
        assert choice["prompt_token_ids"] == [1, 2, 3, 4, 5]
        assert [entry and list(entry) for entry in choice["prompt_logprobs"]] == [None, ["2"], ["3"], ["4"], ["5"]]
        assert choice["prompt_logprobs"][1]["2"] == {"logprob": -0.5, "rank": None, "decoded_token": "\x02"}
    assert not {"prompt_token_ids", "prompt_logprobs"} & later["choices"][0].keys()


def test_for_chat_they_stand_beside_the_choices_once():
    stream = writer(num_choices=2, num_prompt_logprobs=1, with_token_ids=True, prompt_is_in_choice=False)

    (second,) = chunks(stream.write([replace(READ, index=1), token("b", index=1)]))
    (first,) = chunks(stream.write([READ, AND_MORE, token("a")]))

    assert first["prompt_token_ids"] == [1, 2, 3, 4, 5]
    assert first["prompt_logprobs"][2]["9"] == {"logprob": -0.1, "rank": 1, "decoded_token": "\t"}
    assert "prompt_token_ids" not in {**second, **second["choices"][0], **first["choices"][0]}


def test_a_prompt_that_was_only_read_is_told_at_the_end():
    stream = writer(num_prompt_logprobs=0, num_logprobs=0, echoes=(Echo("12345", (0, 1, 2, 3, 4)),))
    end = TokenEvent(0, finish_reason=FinishReason.LENGTH, prompt_logprobs=AND_MORE.prompt_logprobs)

    (only,) = chunks(stream.write([READ]) + stream.write([end]))

    assert only["choices"][0]["text"] == "12345"
    assert len(only["choices"][0]["prompt_logprobs"]) == len(only["choices"][0]["logprobs"]["tokens"]) == 5
