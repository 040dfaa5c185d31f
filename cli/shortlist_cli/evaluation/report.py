"""The report of a run: one self-contained HTML file that needs no network.

``report.html.j2`` is the page; this module computes its values. The browser draws the charts with Vega-Lite, whose
libraries ``vl-convert`` embeds, about 0.9 MB a report. Jinja escapes all values, so text from
documents and queries cannot become markup.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from shortlist_cli.evaluation.charts import DEPTH, FIRST, all_charts, movements
from shortlist_cli.evaluation.record import QueryRecord, RunRecord, SettingRecord
from shortlist_cli.evaluation.run import WORST_HITS, worst_queries
from shortlist_cli.evaluation.significance import shown
from shortlist_server.ranking.measures import MEASURES

_DRAW = """
const charts = JSON.parse(document.getElementById("charts").textContent);
const options = {renderer: "svg", actions: {export: true, source: false, compiled: false, editor: false}};
for (const [name, spec] of Object.entries(charts)) vegaEmbed("#chart-" + name, spec, options);
"""

_SETTING_COLUMNS = (
    "setting",
    *MEASURES.values(),
    "Δ",
    "95 % interval",
    "p, adjusted",
    "difference",
    "p50 ms",
    "p99 ms",
)
_STAGES = ("dense", "lexical", "fused", "rerank")

Values = dict[str, Any]


def write_report(run: RunRecord, folder: Path) -> Path:
    """Writes ``report.html`` into the folder of a saved run and returns its path."""
    path = folder / "report.html"
    path.write_text(report_html(run), encoding="utf-8")
    return path


def report_html(run: RunRecord) -> str:
    """The report as a page."""
    import vl_convert

    first = run.settings[0]
    return _template().render(
        run=run,
        style=_resource("report.css"),
        script=vl_convert.javascript_bundle(_DRAW),
        charts=all_charts(run),
        stage_charts=[f"stages-{measure}" for measure in MEASURES],
        facts=_facts(run),
        tiles=_tiles(run),
        first_measure=MEASURES[FIRST],
        setting_columns=_SETTING_COLUMNS,
        settings=_settings(run),
        movement_line=_movement_line(first),
        change_line=_change_line(first),
        worst=[_query(run, record) for record in worst_queries(first)],
        depth=DEPTH,
        machine={"processor": "", "cores": "", "python": "", **run.about.get("machine", {})},
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "allow_nan": False}
    return environment.from_string(_resource("report.html.j2"))


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _facts(run: RunRecord) -> list[str]:
    about = run.about
    models = about.get("models", {})
    return [
        f"{len(run.settings[0].queries):,} queries",
        f"{about['documents']:,} documents in {about['passages']:,} passages",
        f"embedder {models.get('embedder') or about['embedder']}",
        f"reranker {models.get('reranker') or about['reranker']}",
        run.created.replace("T", " ").replace("+00:00", " UTC"),
    ]


def _tiles(run: RunRecord) -> list[Values]:
    first = run.settings[0]
    tiles = []
    for measure, name in MEASURES.items():
        figure = first.quality[measure]["final"]
        interval = f"{figure['low']:.3f} to {figure['high']:.3f}" if figure["low"] < figure["high"] else ""
        tiles.append({"value": f"{figure['mean']:.3f}", "name": f"final {name}", "more": interval})
    if timed := first.latency:
        p99 = f"p99 {timed['p99_ms']:.1f} ms"
        tiles.append({"value": f"{timed['p50_ms']:.1f} ms", "name": "p50 of a search", "more": p99})
    ingest = run.about.get("ingest")
    if ingest and ingest["documents_per_second"]:
        more = f"{ingest['failed']:,} refused" if ingest["failed"] else f"in {ingest['seconds']:,.1f} s"
        rate = f"{ingest['documents_per_second']:,.0f}/s"
        tiles.append({"value": rate, "name": "documents ingested", "more": more})
    return tiles


def _settings(run: RunRecord) -> list[Values]:
    """The rows of the settings' table, best first; empty where only the defaults were measured."""
    if len(run.settings) < 2:
        return []
    return [_setting(one) for one in sorted(run.settings, key=lambda one: -one.quality[FIRST]["final"]["mean"])]


def _setting(setting: SettingRecord) -> Values:
    versus, timed = setting.versus_defaults, setting.latency
    row = {
        "label": setting.label,
        "quality": [setting.quality[measure]["final"]["mean"] for measure in MEASURES],
        "p50": f"{timed['p50_ms']:.1f}" if timed else "",
        "p99": f"{timed['p99_ms']:.1f}" if timed else "",
    }
    if versus is None:
        return {**row, "change": "", "interval": "", "p": "", "verdict": ""}
    changed = "worse" if versus["mean"] < 0 else "better"
    return {
        **row,
        "change": f"{versus['mean']:+.4f}",
        "interval": f"{versus['low']:+.4f} to {versus['high']:+.4f}",
        "p": shown(versus["p_adjusted"]),
        "verdict": "same" if versus["p_adjusted"] >= 0.05 else changed,
    }


def _movement_line(setting: SettingRecord) -> str:
    moves = movements(setting)
    beyond = DEPTH + 1
    up = sum((after or beyond) < (before or beyond) for before, after, _ in moves)
    down = sum((after or beyond) > (before or beyond) for before, after, _ in moves)
    into = sum((before or beyond) > 10 >= (after or beyond) for before, after, _ in moves)
    out = sum((before or beyond) <= 10 < (after or beyond) for before, after, _ in moves)
    lost = sum(before is None and after is None for before, after, _ in moves)
    return (
        f"Of {len(moves):,} relevant documents {up:,} moved up and {down:,} down; {into:,} came into the first ten and "
        f"{out:,} left it. In neither ranking's first {DEPTH}: {lost:,}. Points above the line moved up."
    )


def _change_line(setting: SettingRecord) -> str:
    changes = [record.measures["final"][FIRST] - record.measures["fused"][FIRST] for record in setting.queries]
    better, worse = sum(c > 1e-9 for c in changes), sum(c < -1e-9 for c in changes)
    mean = sum(changes) / len(changes)
    return (
        f"{better:,} queries became better and {worse:,} worse, {len(changes) - better - worse:,} stayed; "
        f"{MEASURES[FIRST]} changed by {mean:+.4f} on average."
    )


def _query(run: RunRecord, record: QueryRecord) -> Values:
    rankings = tuple(record.measures)
    relevant = [(id, grade) for id, grade in record.judged.items() if grade > 0]
    return {
        "text": record.text,
        "figures": {ranking: record.measures[ranking][FIRST] for ranking in rankings},
        "lost": record.lost,
        "hits": [
            {
                "document": _document(run, hit["id"], record.judged.get(hit["id"], 0)),
                "score": hit["score"],
                "stages": [hit.get(stage) for stage in _STAGES],
            }
            for hit in record.hits[:WORST_HITS]
        ],
        "rank_columns": [f"{ranking} rank" for ranking in rankings],
        "relevant": [
            {
                "document": _document(run, id, grade),
                "ranks": [record.rank(ranking, id) for ranking in rankings],
            }
            for id, grade in relevant[:WORST_HITS]
        ],
        "more": max(0, len(relevant) - WORST_HITS),
    }


def _document(run: RunRecord, id: str, grade: int) -> Values:
    text: Mapping[str, str] = run.documents.get(id, {})
    return {"id": id, "grade": grade, "title": text.get("title", ""), "text": text.get("text", "")}
