"""What an answer says of its time, from what the engine says of each of its requests."""

from app.api.schemas.generation import Timings
from app.api.timings import timings_of
from app.engine.request import Timings as RequestTimings


def test_of_one_request():
    one = RequestTimings(queue_s=0.0015, prefill_s=0.25, decode_s=2.0, num_blocks=3, num_bytes=96)

    assert timings_of([one], 100, 21) == Timings(
        queue_ms=1.5,
        prompt_n=100,
        prompt_ms=250.0,
        prompt_per_second=400.0,
        predicted_n=21,
        predicted_ms=2000.0,
        predicted_per_second=10.0,  # twenty intervals between twenty-one tokens
        kv_blocks=3,
        kv_bytes=96,
    )


def test_sizes_add_up_and_the_longest_time_counts():
    one, other = RequestTimings(1.0, 0.5, 4.0, 3, 96), RequestTimings(2.0, 0.25, 1.0, 2, 64)

    found = timings_of([one, other], 10, 42)

    assert (found.queue_ms, found.prompt_ms, found.predicted_ms) == (2000.0, 500.0, 4000.0)
    assert (found.kv_blocks, found.kv_bytes, found.predicted_per_second) == (5, 160, 10.0)


def test_what_took_no_time_has_no_rate():
    found = timings_of([RequestTimings(0.5, 0.0, 0.0, 0, 0)], 10, 0)

    assert (found.prompt_per_second, found.predicted_per_second) == (0.0, 0.0)
