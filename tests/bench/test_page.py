"""The report's HTML, read by a parser: what stands in its tables, what its charts carry, and that nothing escapes."""

import json
from html.parser import HTMLParser

import pytest

from app.bench.page import page
from tests.bench.hand_written import load

PLOTLY = "/* plotly.js */"
HOSTILE = "</script><script>alert(1)</script>&<b>"


class Read(HTMLParser):
    """Rows of cells, texts by tag, and the figures that scripts of JSON carry."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.rows, self.texts, self.figures, self.attributes = [], [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag == "tr":
            self.rows.append([])
        if tag not in ("meta", "link", "img"):
            self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.tags.pop()[0] == tag, f"</{tag}> closes something else"

    def handle_data(self, text):
        tag, attributes = self.tags[-1] if self.tags else ("", {})
        if tag in ("td", "th"):
            self.rows[-1].append(text)
        elif tag == "script" and attributes.get("type") == "application/json":
            self.figures.append(json.loads(text))
        elif text.strip():
            self.texts.append((tag, text.strip()))

    def of(self, wanted):
        return [text for tag, text in self.texts if tag == wanted]


def read(*results):
    return Read("\n".join(page(results, PLOTLY)))


def test_one_load_is_told_with_tables_charts_and_definitions():
    told = read(load())

    assert told.of("h1") == ["Load test"]
    assert told.of("summary") == ["16 at once"]
    assert ["Time to first token (TTFT)", "125", "100", "200", "250", "300", "400"] in told.rows
    assert ["goodput", "12 req/s within ttft 500 ms"] in told.rows
    assert ["failed", "2 timeout: no end after 600 s"] in told.rows
    assert told.of("h3") == [
        "Tokens over time",
        "Requests",
        "Requests in the server",
        "Time to first token",
        "Inter-token latency",
    ]
    assert len(told.figures) == 5
    assert told.of("dt") == ["ttft"]
    assert told.tags == []


def test_several_loads_are_compared_before_each_is_told():
    told = read(load(max_concurrency=1), load(max_concurrency=8))

    assert told.of("summary") == ["1 at once", "8 at once"]
    assert ["8 at once", "15.68", "1,536", "100", "300", "20", "60", "3"] in told.rows
    assert told.of("h3")[:2] == ["Throughput against load", "Time to first token against load"]
    assert len([name for _, name, _ in told.attributes if name == "open"]) == 1


def test_plotly_is_in_the_page_and_nothing_is_fetched():
    told = read(load(), load(max_concurrency=1))

    assert PLOTLY in told.of("script")
    assert not [name for _, name, _ in told.attributes if name in ("src", "href", "srcset", "action", "data")]


@pytest.mark.parametrize(
    "changes",
    [
        {"model_id": HOSTILE},
        {"label": HOSTILE},
        {"date": HOSTILE},
        {"warnings": [HOSTILE]},
        {"missed_limits": [HOSTILE]},
        {"failures": {HOSTILE: 1}, "failure_messages": {HOSTILE: HOSTILE}},
        {"definitions": {HOSTILE: HOSTILE}},
        {"timeline": [load()["timeline"][0] | {"failure": HOSTILE}]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_others_say_is_text_and_never_code(changes):
    clean, told = read(load()), read(load(**changes))

    assert told.tags == []
    assert "alert(1)" not in " ".join(told.of("script"))
    assert len(told.of("script")) == len(clean.of("script"))
    assert not [tag for tag, _, _ in told.attributes if tag == "b"]


def test_what_taints_a_load_stands_in_it():
    told = read(load(warnings=["gave up"], oversaturated=True))

    assert [text for text in told.of("p") if text in ("gave up",) or "more than the server" in text] == [
        "more than the server can do: waits grow, throughput does not",
        "gave up",
    ]


def test_a_file_of_vllm_makes_a_page_without_what_it_lacks():
    told = read({"request_throughput": 8.0, "output_throughput": 768.0, "median_ttft_ms": 50.0, "completed": 9})

    assert told.of("summary") == ["all at once"]
    assert ["Time to first token (TTFT)", "50"] in told.rows
    assert told.figures == []
