"""What a load's figures say in words: the lines beside a table of latencies, on a terminal and in a report alike."""

from collections.abc import Iterator, Sequence

from app.bench.quantities import OUTPUT_RATE, REQUEST_RATE, TPOT, TTFT, Quantity, in_words, value_of
from app.bench.records import RunResult


def about(result: RunResult) -> str:
    """What was asked of whom."""
    given = (result.get("label"), result.get("model_id"), result.get("base_url"), *_lengths(result))
    return ", ".join(str(part) for part in given if part)


def _lengths(result: RunResult) -> Iterator[str]:
    for key, words in (("input_len", "prompts of {} tokens"), ("output_len", "answers of {}")):
        if (value := value_of(result, key)) is not None:
            yield words.format(in_words(value))


def warnings_of(result: RunResult) -> list[str]:
    """What taints the figures: of the run, then of the client."""
    client = result.get("client") or {}
    given = [*(result.get("warnings") or ()), *(client.get("warnings") or ())]
    interrupted = value_of(result, "interrupted")
    left = [f"interrupted with {in_words(interrupted)} requests in flight, which count for nothing"]
    return [*(left if interrupted else []), *(str(warning) for warning in given)]


def judgements_of(result: RunResult) -> Iterator[str]:
    """What a sweep found of this load."""
    if result.get("oversaturated"):
        yield "more than the server can do: waits grow, throughput does not"
    yield from (str(miss) for miss in result.get("missed_limits") or ())


def compared(results: Sequence[RunResult]) -> list[Quantity]:
    """What the loads of one command are compared by: what any of them has."""
    wanted = (REQUEST_RATE, OUTPUT_RATE, *(time.statistic(name) for time in (TTFT, TPOT) for name in ("p50", "p99")))
    return [quantity for quantity in wanted if any(value_of(result, quantity.key) is not None for result in results)]


def facts_of(result: RunResult) -> Iterator[tuple[str, str]]:
    """What a result says besides latencies: a word and a line for each that is there."""
    for name, parts in (
        ("requests", _request_parts(result)),
        ("throughput", _throughput_parts(result)),
        ("goodput", _goodput_parts(result)),
        ("server", _server_parts(result)),
        ("client", _client_parts(result)),
        ("verified", _verification_parts(result)),
    ):
        if text := ", ".join(parts):
            yield name, text


def _request_parts(result: RunResult) -> Iterator[str]:
    yield f"{in_words(value_of(result, 'completed'))} completed"
    for name in ("failed", "cancelled"):
        if value := value_of(result, name):
            yield f"{in_words(value)} {name}"
    yield f"{in_words(value_of(result, 'duration'), 's')} long"


def failures_of(result: RunResult) -> Iterator[tuple[str, str]]:
    """A kind of failure with how often it was, and what was said the first time."""
    messages = result.get("failure_messages") or {}
    for kind, count in (result.get("failures") or {}).items():
        yield f"{count:,} {kind}", str(messages.get(kind, ""))


def _throughput_parts(result: RunResult) -> Iterator[str]:
    for key, words in (
        ("output_throughput", "output tok/s"),
        ("steady_output_throughput", "in the steady window"),
        ("peak_output_throughput", "at the peak"),
        ("total_token_throughput", "with prompts"),
        ("request_throughput", "req/s"),
    ):
        if (value := value_of(result, key)) is not None:
            yield f"{in_words(value)} {words}"


def _goodput_parts(result: RunResult) -> Iterator[str]:
    if (good := value_of(result, "request_goodput")) is None:
        return
    share = value_of(result, "goodput_share")
    of_all = "" if share is None else f" ({in_words(share, 'share')})"
    limits = (f"{name} {limit:g} ms" for name, limit in (result.get("goodput") or {}).items())
    yield f"{in_words(good, 'req/s')}{of_all} within {' and '.join(limits) or 'the limits'}"


def _server_parts(result: RunResult) -> Iterator[str]:
    for key, words, unit in (
        ("server.batch_avg", "batch of {} on average", ""),
        ("server.tokens_per_step", "{} tokens a step", ""),
        ("server.queue_max", "queue of {} at most", ""),
        ("server.kv_max", "KV use up to {}", "share"),
    ):
        if (value := value_of(result, key)) is not None:
            yield words.format(in_words(value, unit))
    if preemptions := value_of(result, "server.preemptions"):
        yield f"{in_words(preemptions)} preemptions"
    yield from _split(result)


def _split(result: RunResult) -> Iterator[str]:
    """Where the requests' time went, by the server's own account."""
    stages = {name: value_of(result, f"server.{name}_s") for name in ("queue", "prefill", "decode")}
    whole = sum(seconds or 0.0 for seconds in stages.values())
    shares = [
        f"{name} {in_words(part / whole, 'share')}" for name, part in stages.items() if part is not None and whole
    ]
    if shares:
        yield " + ".join(shares) + " of the requests' time"


def _client_parts(result: RunResult) -> Iterator[str]:
    for key, words, unit in (
        ("client.cpu_share", "{} of a core", "share"),
        ("client.loop_lag_p99_ms", "event loop {} late (p99)", "ms"),
        ("client.late_sends_p99_ms", "requests sent {} late (p99)", "ms"),
    ):
        if (value := value_of(result, key)) is not None:
            yield words.format(in_words(value, unit))


def _verification_parts(result: RunResult) -> Iterator[str]:
    verdict = result.get("verify")
    if not verdict:
        return
    yield f"{verdict['greedy']:,} greedy and {verdict['seeded']:,} seeded requests asked again alone"
    if differences := len(verdict.get("differences") or ()):
        yield f"{differences:,} answers DIFFER"
    yield from verdict.get("shortcomings") or ()
    if verdict["holds"]:
        yield "every answer the same"
