"""The HTML of a report: tables, charts as JSON that report.js draws, and the definitions of what they show. Whatever a
server or a user named is escaped; nothing in the page is fetched from anywhere.
"""

import json
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from itertools import chain

from app.bench.chart import Chart
from app.bench.facts import about, compared, facts_of, failures_of, judgements_of, warnings_of
from app.bench.load_charts import load_charts
from app.bench.quantities import LATENCIES, NOTHING, in_words, load_of, statistics_of, value_of
from app.bench.records import RunResult
from app.bench.run_charts import server_chart, spread_charts, tokens_chart
from app.bench.timeline import timeline_chart


def page(results: Sequence[RunResult], plotly: str) -> Iterator[str]:
    """Its lines. `plotly` is the text of plotly.min.js."""
    here = files("app.bench")
    title = escape(about(results[0]))
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>Load test: {title}</title>\n<style>\n{(here / 'report.css').read_text(encoding='utf-8')}</style>"
    yield f"<script>{plotly}</script>\n</head>\n<body>"
    yield f"<h1>Load test</h1>\n<p>{title}</p>"
    yield f'<p class="quiet">{escape(str(results[0].get("date") or ""))}</p>'
    yield from _comparison(results)
    for number, result in enumerate(results):
        yield from _run(result, is_open=number == len(results) - 1)
    yield from _definitions(results[0])
    yield f"<script>\n{(here / 'report.js').read_text(encoding='utf-8')}</script>\n</body>\n</html>"


def _comparison(results: Sequence[RunResult]) -> Iterator[str]:
    """Several loads side by side."""
    if len(results) < 2:
        return
    quantities = compared(results)
    keys = [*(quantity.key for quantity in quantities), "failed"]
    rows = [[load_of(result), *_cells(result, keys)] for result in results]
    yield "<h2>Loads</h2>"
    yield from _table(["load", *(f"{quantity.label}, {quantity.unit}" for quantity in quantities), "failed"], rows)
    yield from _charts(list(load_charts(results)))


def _run(result: RunResult, *, is_open: bool) -> Iterator[str]:
    yield f"<details{' open' if is_open else ''}>\n<summary>{escape(load_of(result))}</summary>"
    notes = chain(judgements_of(result), warnings_of(result))
    yield from (f'<p class="warning">{escape(note)}</p>' for note in notes)
    yield from _latencies(result)
    yield from _facts(result)
    drawn = (tokens_chart(result), timeline_chart(result), server_chart(result), spread_charts(result))
    yield from _charts(list(chain(*drawn)))
    yield "</details>"


def _latencies(result: RunResult) -> Iterator[str]:
    statistics = statistics_of(result)
    rows = [
        [f"{latency.label} ({latency.short})", *_cells(result, [latency.statistic(name).key for name in statistics])]
        for latency in LATENCIES
    ]
    yield from _table(["milliseconds", *statistics], [row for row in rows if set(row[1:]) != {NOTHING}])


def _cells(result: RunResult, keys: Sequence[str]) -> list[str]:
    return [in_words(value_of(result, key)) for key in keys]


def _facts(result: RunResult) -> Iterator[str]:
    yield '<table class="facts">'
    for name, text in facts_of(result):
        yield f'<tr><th scope="row">{escape(name)}</th><td>{escape(text)}</td></tr>'
    for count, message in failures_of(result):
        text = f"{count}: {message}".removesuffix(": ")
        yield f'<tr class="failure"><th scope="row">failed</th><td>{escape(text)}</td></tr>'
    yield "</table>"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield '<div class="scroll"><table>\n<thead><tr>'
    yield from (f'<th scope="col">{escape(name)}</th>' for name in header)
    yield "</tr></thead>\n<tbody>"
    for name, *cells in rows:
        values = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        yield f'<tr><th scope="row">{escape(name)}</th>{values}</tr>'
    yield "</tbody>\n</table></div>"


def _charts(charts: Sequence[Chart]) -> Iterator[str]:
    """They are drawn once they are seen; each carries its figure."""
    yield '<div class="charts">'
    for chart in charts:
        yield f'<section class="{"wide" if chart.is_wide else "narrow"}"><h3>{escape(chart.title)}</h3>'
        yield f'<p class="quiet">{escape(chart.note)}</p>'
        yield '<div class="plot"><div class="canvas"></div>'
        yield f'<script type="application/json">{_json(chart)}</script></div>'
        yield "</section>"
    yield "</div>"


def _json(chart: Chart) -> str:
    """No `<` in it: what a server said must not end the script."""
    return json.dumps(chart.figure, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _definitions(result: RunResult) -> Iterator[str]:
    yield "<h2>What the figures are</h2>\n<dl>"
    for name, sentence in (result.get("definitions") or {}).items():
        yield f"<dt>{escape(str(name))}</dt><dd>{escape(str(sentence))}</dd>"
    yield "</dl>"
