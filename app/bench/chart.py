"""What a chart of a report is: a figure for plotly.js, which is JSON that says what lines and bars there are. Nothing
is drawn here, and no plotly is needed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Okabe and Ito's colours, which stay apart for every kind of sight.
BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#8c8c8c"

Trace = dict[str, Any]
Layout = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Chart:
    title: str
    note: str  # how to read it
    traces: Sequence[Trace]
    layout: Layout
    is_wide: bool = False  # it needs the page's whole width

    @property
    def figure(self) -> dict[str, Any]:
        """As plotly.js and plotly.graph_objects.Figure take it."""
        return {"data": list(self.traces), "layout": self.layout}


def axis(title: str, **more: Any) -> Layout:
    return {"title": {"text": title}, **more}


def log_axis(title: str) -> Layout:
    """A tick at each doubling, with its whole number: plotly's own ticks show the last digit alone."""
    return axis(title, type="log", dtick=math.log10(2), tickformat=",.4~g")


def line(name: str, x: Sequence[Any], y: Sequence[Any], colour: str, dash: str = "solid", **more: Any) -> Trace:
    """A line through points; one that has no y breaks it."""
    style = {"color": colour, "dash": dash, "shape": more.pop("shape", "linear")}
    return {"type": "scatter", "mode": "lines", "name": name, "x": list(x), "y": list(y), "line": style, **more}
