"""A load's requests as bars on a time axis, each from its scheduled time by queue, prefill and decode to its end."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from app.bench.chart import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, Chart, Trace, axis
from app.bench.records import RunResult

MAX_ROWS = 400  # beyond that no bar could be told from the next
PIXELS_A_ROW, LEAST_PIXELS, MOST_PIXELS = 8, 260, 1400
BAR = 0.85  # of a row
SHORTEST = 0.001  # seconds of a stage that is drawn

HELD, QUEUED, PREFILL = "held by the client", "queued", "prefill"
UNTIL_FIRST, DECODE, WHOLE, FAILED = "queued and prefill", "decode", "answered", "failed"
COLOURS = MappingProxyType(
    {
        HELD: GREY,
        QUEUED: ORANGE,
        PREFILL: GREEN,
        UNTIL_FIRST: ORANGE,
        DECODE: BLUE,
        WHOLE: PURPLE,
        FAILED: RED,
    }
)


@dataclass(frozen=True, slots=True)
class Span:
    stage: str
    begin: float
    end: float


def spans_of(entry: Mapping[str, Any]) -> Iterator[Span]:
    """The stages of one request, as far as client and server tell them apart."""
    scheduled, sent, first, ended = (entry[name] for name in ("scheduled", "sent", "first", "ended"))
    yield Span(HELD, scheduled, sent)
    if entry.get("failure"):
        yield Span(FAILED, sent, ended)
    elif first is None:
        yield Span(WHOLE, sent, ended)
    elif entry.get("queue_s") is None:
        yield Span(UNTIL_FIRST, sent, first)
        yield Span(DECODE, first, ended)
    else:
        taken = min(sent + entry["queue_s"], first)
        yield Span(QUEUED, sent, taken)
        yield Span(PREFILL, taken, first)
        yield Span(DECODE, first, ended)


def timeline_chart(result: RunResult) -> Iterator[Chart]:
    """None where a result does not have its requests."""
    entries = _thinned(result.get("timeline") or ())
    if not entries:
        return
    rows = [(row, entry, span) for row, entry in enumerate(entries) for span in spans_of(entry)]
    shown = [(row, entry, span) for row, entry, span in rows if span.end - span.begin >= SHORTEST]
    traces = [_bars(stage, [item for item in shown if item[2].stage == stage]) for stage in COLOURS]
    height = min(max(PIXELS_A_ROW * len(entries), LEAST_PIXELS), MOST_PIXELS)
    yield Chart(
        "Requests",
        "A bar for each request, in the order of their scheduled times" + _share_shown(result, len(entries)),
        [trace for trace in traces if trace["x"]],
        {
            "barmode": "overlay",
            "height": height,
            "xaxis": axis("seconds"),
            "yaxis": axis("request", autorange="reversed", showticklabels=False, zeroline=False),
        },
        is_wide=True,
    )


def _thinned(entries: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """At most MAX_ROWS, evenly taken."""
    if len(entries) <= MAX_ROWS:
        return entries
    return [entries[place * len(entries) // MAX_ROWS] for place in range(MAX_ROWS)]


def _share_shown(result: RunResult, num_shown: int) -> str:
    num_all = result.get("num_prompts") or 0
    return f"; {num_shown:,} of {num_all:,} are shown." if num_all > num_shown else "."


def _bars(stage: str, items: Sequence[tuple[int, Mapping[str, Any], Span]]) -> Trace:
    return {
        "type": "bar",
        "orientation": "h",
        "name": stage,
        "y": [row for row, _, _ in items],
        "base": [round(span.begin, 4) for _, _, span in items],
        "width": BAR,  # else a stage that few requests have gets bars as wide as those are apart
        "x": [round(span.end - span.begin, 4) for _, _, span in items],
        "text": [_about(entry) for _, entry, _ in items],
        "textposition": "none",
        "hovertemplate": "%{text}<br>%{fullData.name} for %{x:.3f} s<extra></extra>",
        "marker": {"color": COLOURS[stage]},
    }


def _about(entry: Mapping[str, Any]) -> str:
    ending = entry.get("failure") or ("cancelled" if entry.get("cancelled") else None)
    told = f"{entry.get('prompt_tokens') or 0:,} + {entry.get('output_tokens') or 0:,} tokens"
    return f"request {entry['number']}: {ending or told}"
