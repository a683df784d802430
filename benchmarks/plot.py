"""The medians as a picture: a panel for each workload, with a bar for each contender. Plain SVG, for light and dark."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from xml.sax.saxutils import escape

Medians = Mapping[str, float]

#: Everything is in pixels.
COLUMNS, PANEL, LABEL, FIGURE, GAP = 2, 440, 165, 75, 30
BAR, STEP, TITLE, HEADER = 12, 18, 22, 58

#: Greys that can be read on white and on black, and one colour, for this worker.
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #57606a }
.title { font-weight: 600; fill: #24292f }
.figure, .unit { font-size: 11px }
.label { text-anchor: end }
.peer { fill: #8c959f } .own { fill: #1a7f64 } .floor { fill: none; stroke: #8c959f; stroke-dasharray: 3 2 }
@media (prefers-color-scheme: dark) {
text { fill: #9198a1 } .title { fill: #e6edf3 } .own { fill: #2ea88a }
}"""


#: What can be plotted: what it says above, and how a bar's figure comes from the medians.
BARS: dict[str, tuple[str, Callable[[Medians], float | None]]] = {
    "rate": ("Requests per second; more is better.", lambda medians: medians.get("rate")),
    "cpu": (
        "Requests per second of the server's CPU time; more is better.",
        lambda medians: 1e6 / medians["cpu"] if medians.get("cpu") else None,
    ),
}


def plot(report: Mapping[str, Any], subtitle: str, bars: str = "rate") -> str:
    """An SVG document of what :func:`benchmarks.report.as_json` has made.

    :param subtitle: when and on what it was measured.
    :param bars: what of :data:`BARS` to show.
    """
    heading, value_of = BARS[bars]
    workloads = list(report["workloads"].values())
    rows = [workloads[at : at + COLUMNS] for at in range(0, len(workloads), COLUMNS)]
    parts: list[str] = []
    top = HEADER
    for row in rows:
        for column, workload in enumerate(row):
            parts += _panel(workload, value_of, column * (PANEL + GAP), top)
        top += max(TITLE + STEP * len(_shown(workload)) for workload in row) + GAP
    width = COLUMNS * PANEL + (COLUMNS - 1) * GAP
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top}" viewBox="0 0 {width} {top}">'
        f"<title>Benchmarks of this worker and its peers</title><style>{STYLE}</style>"
    )
    heading += " Idle connections: KiB of memory each; less is better."
    texts = [_text(0, 16, heading, "title"), _text(0, 34, subtitle, "unit")]
    return "\n".join([head, *texts, *parts, "</svg>\n"])


def _panel(
    workload: Mapping[str, Any], value_of: Callable[[Medians], float | None], left: int, top: int
) -> Iterator[str]:
    is_idle = any("idle" in entry["medians"] for entry in workload["contenders"].values())
    medians = {name: entry["medians"] for name, entry in _shown(workload).items()}
    values = {name: each.get("idle") if is_idle else value_of(each) for name, each in medians.items()}
    # The floor is no contender: where it is far out, its bar is cut.
    scale = max((value for name, value in values.items() if value and name != "floor"), default=1)
    yield _text(left, top + 12, f"{workload['title']}{', KiB each' if is_idle else ''}", "title")
    for number, (name, value) in enumerate(values.items()):
        y = top + TITLE + number * STEP
        yield _text(left + LABEL - 8, y + 10, workload["contenders"][name]["title"], "label")
        length = min(1, (value or 0) / scale) * (PANEL - LABEL - FIGURE)
        if value:
            kind = {"floor": "floor", "channels": "own", "asgi3": "own"}.get(name, "peer")
            yield f'<rect class="{kind}" x="{left + LABEL}" y="{y}" width="{length:.1f}" height="{BAR}"/>'
        yield _text(left + LABEL + length + 6, y + 10, figure(value), "figure")


def _shown(workload: Mapping[str, Any]) -> dict[str, Any]:
    """The contenders; the floor where it has something to show."""
    contenders = workload["contenders"].items()
    return {name: entry for name, entry in contenders if name != "floor" or entry["medians"]}


def figure(value: float | None) -> str:
    """A figure with three digits at least, if it has them; a dash where there is none."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y}">{escape(text)}</text>'
