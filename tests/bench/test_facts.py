"""A load in words: what is known is said, and what is not known is not made up."""

from app.bench.facts import about, compared, facts_of, failures_of, judgements_of, warnings_of
from tests.bench.hand_written import load


def test_everything_that_a_result_knows_is_said():
    facts = dict(facts_of(load()))

    assert facts == {
        "requests": "196 completed, 3 failed, 1 cancelled, 12.50 s long",
        "throughput": "1,536 output tok/s, 1,600 in the steady window, 1,700 at the peak, 2,048 with prompts, "
        "15.68 req/s",
        "goodput": "12 req/s within ttft 500 ms",
        "server": "batch of 14.20 on average, queue of 3 at most, KV use up to 25.0 %, "
        "queue 10.0 % + prefill 10.0 % + decode 80.0 % of the requests' time",
        "client": "8.0 % of a core, event loop 1.50 ms late (p99), requests sent 0.500 ms late (p99)",
    }


def test_what_is_not_known_has_no_line():
    facts = dict(facts_of(load(server=None, client={}, request_goodput=None, steady_output_throughput=None)))

    assert facts.keys() == {"requests", "throughput"}
    assert "steady" not in facts["throughput"]


def test_goodput_is_of_all_requests_and_within_all_limits():
    limits = {"ttft": 500.0, "tpot": 50.0}
    facts = dict(facts_of(load(goodput_share=0.75, goodput=limits)))

    assert facts["goodput"] == "12 req/s (75.0 %) within ttft 500 ms and tpot 50 ms"


def test_a_server_that_tells_of_prefill_alone_has_no_queue_in_the_split():
    facts = dict(facts_of(load(server={"prefill_s": 1.0, "decode_s": 3.0, "preemptions": 2})))

    assert facts["server"] == "2 preemptions, prefill 25.0 % + decode 75.0 % of the requests' time"


def test_failures_are_counted_by_kind_with_what_was_said_first():
    assert list(failures_of(load())) == [("2 timeout", "no end after 600 s"), ("1 no usage", "")]
    assert list(failures_of(load(failures={}))) == []


def test_warnings_of_the_run_come_before_those_of_the_client():
    client = {"warnings": ["this client is slow"]}

    assert warnings_of(load(warnings=["gave up"], client=client)) == ["gave up", "this client is slow"]
    assert warnings_of(load(server=None)) == []


def test_an_interrupted_run_says_what_it_left():
    assert warnings_of(load(interrupted=4)) == ["interrupted with 4 requests in flight, which count for nothing"]
    assert warnings_of(load(interrupted=0)) == []


def test_what_was_asked_of_whom():
    assert about(load()) == "minimind, http://127.0.0.1:8000"
    told = about(load(label="before", input_len=1024, output_len=128))
    assert told == "before, minimind, http://127.0.0.1:8000, prompts of 1,024 tokens, answers of 128"


def test_loads_are_compared_by_what_any_of_them_has():
    unstreamed = load(p50_ttft_ms=None, p99_ttft_ms=None, p50_tpot_ms=None, p99_tpot_ms=None)

    assert [q.key for q in compared([unstreamed])] == ["request_throughput", "output_throughput"]
    assert "p99_ttft_ms" in [q.key for q in compared([unstreamed, load()])]


def test_a_proof_is_told_with_how_it_ended():
    verdict = {"holds": True, "greedy": 12, "seeded": 10, "distinct": 20, "shortcomings": [], "differences": []}
    asked = "12 greedy and 10 seeded requests asked again alone"

    assert dict(facts_of(load(verify=verdict)))["verified"] == f"{asked}, every answer the same"
    verdict |= {"holds": False, "differences": [{}, {}], "shortcomings": ["few"]}
    assert dict(facts_of(load(verify=verdict)))["verified"] == f"{asked}, 2 answers DIFFER, few"


def test_what_a_sweep_found_of_a_load():
    assert list(judgements_of(load())) == []
    found = load(oversaturated=True, missed_limits=["FAILS: p99_ttft<1s"])
    assert list(judgements_of(found)) == [
        "more than the server can do: waits grow, throughput does not",
        "FAILS: p99_ttft<1s",
    ]
