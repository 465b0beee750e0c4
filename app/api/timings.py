"""Where the time of an answer went, from what the engine says of each of its requests at its end."""

from collections.abc import Sequence

from app.api.schemas.generation import Timings
from app.engine.request import Timings as RequestTimings


def timings_of(requests: Sequence[RequestTimings], num_prompt_tokens: int, num_tokens: int) -> Timings:
    """`requests`, at least one, ran side by side: their sizes add up, and the longest time is that of them all."""
    queue_s = max(one.queue_s for one in requests)
    prefill_s = max(one.prefill_s for one in requests)
    decode_s = max(one.decode_s for one in requests)
    return Timings(
        queue_ms=_ms(queue_s),
        prompt_n=num_prompt_tokens,
        prompt_ms=_ms(prefill_s),
        prompt_per_second=_rate(num_prompt_tokens, prefill_s),
        predicted_n=num_tokens,
        predicted_ms=_ms(decode_s),
        predicted_per_second=_rate(max(num_tokens - len(requests), 0), decode_s),
        kv_blocks=sum(one.num_blocks for one in requests),
        kv_bytes=sum(one.num_bytes for one in requests),
    )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _rate(number: int, seconds: float) -> float:
    return round(number / seconds, 3) if seconds > 0 else 0.0
