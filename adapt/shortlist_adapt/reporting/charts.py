"""The charts of the report, as specifications for Vega-Lite, and as drawings that need neither network nor script.

Pure functions; any thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shortlist_adapt.reporting.decision import QueryChange

Spec = dict[str, Any]

LOSS, FIGURE, UP, DOWN = "#5b8ff9", "#1f9d6b", "#1f9d6b", "#d1495b"
MOST_POINTS = 400
"""Points of a line; a longer history is thinned out."""

_CONFIG: Spec = {
    "font": "system-ui, -apple-system, 'Segoe UI', sans-serif",
    "view": {"stroke": None},
    "axis": {"gridColor": "#eceff3", "domainColor": "#c3cad5", "tickColor": "#c3cad5", "labelColor": "#4a5362"},
    "title": {"fontSize": 13, "fontWeight": 600, "anchor": "start", "color": "#1d2430"},
}


def svg(spec: Spec) -> str:
    """The chart as an SVG element."""
    import vl_convert

    drawn: str = vl_convert.vegalite_to_svg(spec)
    return drawn


def losses(history: Sequence[Mapping[str, Any]]) -> Spec | None:
    """The training loss by step, None where none was noted."""
    return _line(_points(history, "loss"), "loss", "Loss", LOSS)


def development(history: Sequence[Mapping[str, Any]]) -> Spec | None:
    """The figure on the development split by step, None where none was measured."""
    return _line(_points(history, "development"), "development", "Development split", FIGURE)


def changes(queries: Sequence[QueryChange]) -> Spec | None:
    """The change of each held-out query, from the greatest loss to the greatest gain; None where nothing changed."""
    values = [
        {"place": place, "change": one.candidate - one.serving}
        for place, one in enumerate(sorted(queries, key=lambda one: one.candidate - one.serving))
        if one.candidate != one.serving
    ]
    if not values:
        return None
    return _chart(
        values,
        "Change of nDCG@10 of every query that changed",
        {
            "mark": {"type": "bar"},
            "encoding": {
                "x": {"field": "place", "type": "ordinal", "axis": None},
                "y": {"field": "change", "type": "quantitative", "title": None, "scale": {"domain": [-1, 1]}},
                "color": {
                    "condition": {"test": "datum.change > 0", "value": UP},
                    "value": DOWN,
                },
            },
        },
        width=680,
    )


def _points(history: Sequence[Mapping[str, Any]], name: str) -> list[Spec]:
    points = [{"step": one["step"], name: one[name]} for one in history if one.get(name) is not None]
    return points[:: max(1, len(points) // MOST_POINTS)]


def _line(values: list[Spec], name: str, title: str, colour: str) -> Spec | None:
    if not values:
        return None
    return _chart(
        values,
        title,
        {
            "mark": {"type": "line", "color": colour, "point": len(values) < 30},
            "encoding": {
                "x": {"field": "step", "type": "quantitative", "title": "step"},
                "y": {"field": name, "type": "quantitative", "title": None, "scale": {"zero": False}},
            },
        },
        width=320,
    )


def _chart(values: list[Spec], title: str, rest: Spec, *, width: int) -> Spec:
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "config": _CONFIG,
        "title": title,
        "data": {"values": values},
        "width": width,
        "height": 200,
        **rest,
    }
