"""The charts of a report, as specifications for Vega-Lite (https://vega.github.io/vega-lite/).

Each function returns a chart of a run, or None where the run has no data for it. Pure functions; any thread.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from shortlist_cli.evaluation.record import RunRecord, SettingRecord
from shortlist_cli.evaluation.settings import RANKINGS
from shortlist_server.ranking.measures import MEASURES

Spec = dict[str, Any]

FIRST, *_ = MEASURES
"""The measure that decides."""

COLOURS = {"dense": "#5b8ff9", "lexical": "#e8a13a", "fused": "#8e6cc9", "final": "#1f9d6b"}
UP, DOWN, SAME = "#1f9d6b", "#d1495b", "#9aa3af"
DEPTH = 100
"""Deepest rank of a chart; ranks beyond it are drawn at ``BEYOND``."""

BEYOND = 150
SHOWN_QUERIES = 3
MAX_BARS = 600
NAME_WIDTH, NAME_HEIGHT = 0.35, 0.06
"""Share of the latency chart that the name of a setting takes, across and up."""

NARROW = 400
"""A chart less wide than this, in pixels, is a phone's: there a name takes most of the latency chart."""

_SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
_CONFIG: Spec = {
    "font": "system-ui, -apple-system, 'Segoe UI', sans-serif",
    "view": {"stroke": None},
    "axis": {"gridColor": "#eceff3", "domainColor": "#c3cad5", "tickColor": "#c3cad5", "labelColor": "#4a5362"},
    "title": {"fontSize": 13, "fontWeight": 600, "anchor": "start", "color": "#1d2430"},
    "legend": {"orient": "top", "title": None, "labelColor": "#4a5362"},
}


def all_charts(run: RunRecord) -> dict[str, Spec]:
    """Every chart that the run has data for, by name."""
    charts = {
        **{f"stages-{measure}": quality_by_stage(run, measure) for measure in MEASURES},
        "latency": quality_against_latency(run),
        "movement": rank_movement(run.settings[0]),
        "change": change_by_query(run.settings[0]),
        "spread": spread(run.settings[0]),
        "times": stage_times(run.settings[0]),
    }
    return {name: chart for name, chart in charts.items() if chart is not None}


def quality_by_stage(run: RunRecord, measure: str) -> Spec:
    """A measure of each ranking of the defaults, with its interval."""
    quality = run.settings[0].quality[measure]
    values = [{"ranking": ranking, **quality[ranking]} for ranking in run.settings[0].rankings]
    x = {
        "field": "ranking",
        "type": "nominal",
        "sort": list(RANKINGS),
        "title": None,
        "axis": {"labelAngle": 0, "domain": False, "ticks": False},
    }
    mean = {
        "field": "mean",
        "type": "quantitative",
        "title": None,
        "axis": {"values": [0, 0.2, 0.4, 0.6, 0.8, 1]},
        # Room for the figure above the highest bar, the same in each chart.
        "scale": {"domain": [0, 1.1], "nice": False},
    }
    colour = {
        "field": "ranking",
        "type": "nominal",
        "legend": None,
        "scale": {"domain": list(COLOURS), "range": list(COLOURS.values())},
    }
    tooltip = [{"field": "ranking"}, *(_number(name) for name in ("mean", "low", "high"))]
    bars = {
        "mark": {"type": "bar", "cornerRadiusEnd": 3, "width": {"band": 0.72}},
        "encoding": {"y": mean, "color": colour, "tooltip": tooltip},
    }
    whiskers = {
        "mark": {"type": "rule", "strokeWidth": 1.5, "color": "#1d2430", "opacity": 0.65},
        "encoding": {"y": {"field": "low", "type": "quantitative"}, "y2": {"field": "high"}},
    }
    figures = {
        "mark": {"type": "text", "dy": -7, "fontWeight": 600, "fontSize": 11.5, "color": "#1d2430"},
        "encoding": {
            "y": {"field": "high", "type": "quantitative"},
            "text": {"field": "mean", "type": "quantitative", "format": ".3f"},
        },
    }
    layers = {"encoding": {"x": x}, "layer": [bars, whiskers, figures]}
    return _chart(
        f"{MEASURES[measure]} of each ranking, with its 95 % interval",
        values,
        {"title": MEASURES[measure], "width": "container", "height": 230, **layers},
    )


def quality_against_latency(run: RunRecord) -> Spec | None:
    """The deciding measure over the median latency: the stages of the defaults, and every setting."""
    rows = []
    first = run.settings[0]
    for ranking, timed in run.stage_latency.items():
        if ranking != "final":
            kind = "a stage alone"
            rows.append({"label": ranking, "kind": kind, **first.quality[FIRST][ranking], "ms": timed["p50_ms"]})
    for setting in run.settings:
        if setting.latency is not None:
            kind = "whole search" if setting.values else "defaults"
            label = setting.label if setting.values else "final (defaults)"
            rows.append(
                {"label": label, "kind": kind, **setting.quality[FIRST]["final"], "ms": setting.latency["p50_ms"]}
            )
    if not rows:
        return None
    best, front = -1.0, []
    for row in sorted(rows, key=lambda row: (row["ms"], -row["mean"])):
        if row["mean"] > best:
            best = row["mean"]
            front.append({"ms": row["ms"], "mean": best})
    kinds = ["a stage alone", "whole search", "defaults"]
    x = {
        "field": "ms",
        "type": "quantitative",
        "title": "p50 of a search, ms",
        "axis": {"tickCount": {"expr": f"width < {NARROW} ? 5 : 10"}},
        "scale": {"zero": False, "padding": 60},
    }
    y = {
        "field": "mean",
        "type": "quantitative",
        "title": MEASURES[FIRST],
        "axis": {"format": ".3f"},
        "scale": {"zero": False, "padding": 14},
    }
    colour = {
        "field": "kind",
        "type": "nominal",
        "scale": {"domain": kinds, "range": ["#9aa3af", "#5b8ff9", COLOURS["final"]]},
        "legend": {"columns": {"expr": f"width < {NARROW} ? 2 : 3"}},
    }
    tooltip = [{"field": "label", "title": "setting"}, *(_number(name) for name in ("mean", "low", "high"))]
    tooltip.append({"field": "ms", "type": "quantitative", "format": ".1f", "title": "p50 ms"})
    frontier = {
        "data": {"values": front},
        "mark": {"type": "line", "interpolate": "step-after", "strokeDash": [4, 4], "color": "#c3cad5"},
        "encoding": {"x": x, "y": y},
    }
    points = {
        "mark": {"type": "point", "filled": True, "size": 95, "opacity": 0.95},
        "encoding": {"x": x, "y": y, "color": colour, "tooltip": tooltip},
    }
    layers = [frontier, points]
    on_front = {(point["ms"], point["mean"]) for point in front}
    named = _apart(
        [row for row in rows if row["kind"] != "whole search"]
        + [row for row in rows if row["kind"] == "whole search" and (row["ms"], row["mean"]) in on_front]
    )
    roomy = _apart(named, width=1.0)
    layers.append(
        {
            "data": {"values": [{**row, "roomy": row in roomy} for row in named]},
            "mark": {"type": "text", "dy": -11, "fontSize": 11, "color": "#4a5362"},
            "encoding": {
                "x": x,
                "y": y,
                "text": {"field": "label"},
                "opacity": {"condition": {"test": f"width >= {NARROW} || datum.roomy", "value": 1}, "value": 0},
            },
        }
    )
    return _chart(
        f"{MEASURES[FIRST]} against the median time of a search",
        rows,
        {"width": "container", "height": 320, "layer": layers},
    )


def _apart(rows: list[Spec], width: float = NAME_WIDTH) -> list[Spec]:
    """The points whose names do not overlap; earlier rows win."""
    across, up = (max(values) - min(values) for values in zip(*((row["ms"], row["mean"]) for row in rows), strict=True))
    kept: list[Spec] = []
    for row in rows:
        if all(
            abs(row["ms"] - other["ms"]) > width * across or abs(row["mean"] - other["mean"]) > NAME_HEIGHT * up
            for other in kept
        ):
            kept.append(row)
    return kept


def movements(setting: SettingRecord) -> list[tuple[int | None, int | None, str]]:
    """For every relevant document: its rank before reranking, its rank after it, the query's text."""
    return [
        (record.rank("fused", id), record.rank("final", id), record.text)
        for record in setting.queries
        for id, grade in record.judged.items()
        if grade > 0
    ]


def rank_movement(setting: SettingRecord) -> Spec | None:
    """The ranks of relevant documents before reranking against those after it."""
    at: dict[tuple[int, int], list[str]] = defaultdict(list)
    for before, after, text in movements(setting):
        if before is not None or after is not None:
            at[before or BEYOND, after or BEYOND].append(text)
    if not at:
        return None
    values = [
        {
            "before": before,
            "after": after,
            "documents": len(texts),
            "moved": "up" if after < before else "down" if after > before else "stayed",
            "queries": " · ".join(_short(text) for text in texts[:SHOWN_QUERIES])
            + (f" · and {len(texts) - SHOWN_QUERIES} more" if len(texts) > SHOWN_QUERIES else ""),
        }
        for (before, after), texts in at.items()
    ]
    ticks = [1, 2, 3, 5, 10, 20, 50, 100, BEYOND]
    axis = {"values": ticks, "labelExpr": f"datum.value >= {BEYOND} ? '>{DEPTH}' : datum.label"}
    scale = {"type": "log", "domain": [0.6, BEYOND * 1.4], "nice": False}
    x = {
        "field": "before",
        "type": "quantitative",
        "scale": scale,
        "axis": axis,
        "title": "rank before reranking (fused)",
    }
    y = {
        "field": "after",
        "type": "quantitative",
        "scale": {**scale, "reverse": True},
        "axis": axis,
        "title": "rank after reranking (final)",
    }
    diagonal = {
        "data": {"values": [{"before": 1, "after": 1}, {"before": BEYOND, "after": BEYOND}]},
        "mark": {"type": "line", "color": "#c3cad5", "strokeDash": [4, 4]},
        "encoding": {"x": x, "y": y},
    }
    points = {
        "mark": {"type": "circle", "opacity": 0.72},
        "encoding": {
            "x": x,
            "y": y,
            "size": {
                "field": "documents",
                "type": "quantitative",
                "scale": {"type": "sqrt", "range": [36, 900]},
                "legend": None,
            },
            "color": {
                "field": "moved",
                "type": "nominal",
                "scale": {"domain": ["up", "stayed", "down"], "range": [UP, SAME, DOWN]},
            },
            "tooltip": [
                {"field": "before", "title": "before reranking"},
                {"field": "after", "title": "after reranking"},
                {"field": "documents", "title": "relevant documents"},
                {"field": "queries"},
            ],
        },
    }
    return _chart(
        "Ranks of relevant documents before and after reranking",
        values,
        {"width": "container", "height": 380, "layer": [diagonal, points]},
    )


def change_by_query(setting: SettingRecord) -> Spec | None:
    """The change that reranking made to each query, greatest gain first; unchanged queries are left out."""
    rows: list[Spec] = []
    for record in setting.queries:
        before, after = (record.measures[ranking][FIRST] for ranking in ("fused", "final"))
        if abs(after - before) > 1e-9:
            row = {"query": record.query, "text": _short(record.text), "fused": before, "final": after}
            rows.append({**row, "change": after - before, "better": "better" if after > before else "worse"})
    if not rows:
        return None
    rows.sort(key=lambda row: -float(row["change"]))
    step = max(1, -(-len(rows) // MAX_BARS))
    rows = [{**row, "place": place} for place, row in enumerate(rows[::step], 1)]
    return _chart(
        f"Change of {MEASURES[FIRST]} by reranking, query by query",
        rows,
        {
            "width": "container",
            "height": 380,
            "mark": {"type": "bar", "width": {"band": 0.9}},
            "encoding": {
                "x": {
                    "field": "place",
                    "type": "ordinal",
                    "axis": {"labels": False, "ticks": False, "title": "queries that changed"},
                },
                "y": {"field": "change", "type": "quantitative", "title": f"change of {MEASURES[FIRST]}"},
                "color": {
                    "field": "better",
                    "type": "nominal",
                    "scale": {"domain": ["better", "worse"], "range": [UP, DOWN]},
                },
                "tooltip": [{"field": "text", "title": "query"}, *(_number(n) for n in ("fused", "final", "change"))],
            },
        },
    )


def spread(setting: SettingRecord) -> Spec:
    """The number of queries by their figure, before and after reranking."""
    names = ["0", "<0.2", "<0.4", "<0.6", "<0.8", "<1", "1"]

    def place(value: float) -> str:
        if value <= 0:
            return names[0]
        return names[6] if value >= 1 else names[min(5, 1 + int(value / 0.2))]

    counts: Counter[tuple[str, str]] = Counter()
    for record in setting.queries:
        for ranking in ("fused", "final"):
            counts[ranking, place(record.measures[ranking][FIRST])] += 1
    values = [
        {"ranking": ranking, "figure": name, "queries": counts[ranking, name]}
        for ranking in ("fused", "final")
        for name in names
    ]
    return _chart(
        f"Queries by their {MEASURES[FIRST]}, before and after reranking",
        values,
        {
            "width": "container",
            "height": 250,
            "mark": {"type": "bar", "cornerRadiusEnd": 2},
            "encoding": {
                "x": {
                    "field": "figure",
                    "type": "ordinal",
                    "sort": names,
                    "title": f"{MEASURES[FIRST]} of a query",
                    "axis": {"labelAngle": 0},
                },
                "xOffset": {"field": "ranking", "sort": ["fused", "final"]},
                "y": {"field": "queries", "type": "quantitative", "axis": {"format": "d", "tickMinStep": 1}},
                "color": {
                    "field": "ranking",
                    "type": "nominal",
                    "scale": {"domain": ["fused", "final"], "range": [COLOURS["fused"], COLOURS["final"]]},
                },
                "tooltip": [{"field": "ranking"}, {"field": "figure"}, {"field": "queries"}],
            },
        },
    )


def stage_times(setting: SettingRecord) -> Spec | None:
    """The median time of each stage of a search with the defaults."""
    stages: Mapping[str, float] = (setting.latency or {}).get("stages_p50_ms", {})
    if not stages:
        return None
    values = [{"stage": stage, "ms": ms} for stage, ms in stages.items()]
    y = {"field": "stage", "type": "nominal", "sort": list(stages), "title": None}
    x = {"field": "ms", "type": "quantitative", "title": "p50, ms"}
    bars = {"mark": {"type": "bar", "cornerRadiusEnd": 3, "color": "#5b8ff9"}, "encoding": {"x": x, "y": y}}
    text = {"field": "ms", "type": "quantitative", "format": ".2f"}
    figures = {
        "mark": {"type": "text", "align": "left", "dx": 5, "fontSize": 11},
        "encoding": {"x": x, "y": y, "text": text},
    }
    return _chart(
        "Median time of each stage, in milliseconds",
        values,
        {"width": "container", "height": 250, "layer": [bars, figures]},
    )


def _chart(description: str, values: list[Spec], spec: Spec) -> Spec:
    """Adds the common head. Screen readers read ``description``."""
    head = {"$schema": _SCHEMA, "description": description, "background": None, "config": _CONFIG}
    return {**head, "data": {"values": values}, **spec}


def _number(field: str) -> Spec:
    return {"field": field, "type": "quantitative", "format": ".4f"}


def _short(text: str, length: int = 90) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
