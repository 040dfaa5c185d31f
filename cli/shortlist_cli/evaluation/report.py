"""The report of a run: one self-contained HTML file that needs no network.

``report.html.j2`` is the page with all its texts; this module computes the values. The browser draws the charts with
Vega-Lite, whose libraries ``vl-convert`` embeds, about 0.9 MB a report. Jinja escapes all values, so text from
documents and queries cannot become markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from shortlist_cli.evaluation.charts import DEPTH, FIRST, all_charts, movements
from shortlist_cli.evaluation.record import QueryRecord, RunRecord, SettingRecord
from shortlist_cli.evaluation.run import WORST_HITS, worst_queries
from shortlist_server.ranking.measures import MEASURES
from shortlist_server.ranking.significance import SIGNIFICANCE, shown

_DRAW = """
const charts = JSON.parse(document.getElementById("charts").textContent);
const options = {renderer: "svg", actions: {export: true, source: false, compiled: false, editor: false}};
for (const [name, spec] of Object.entries(charts)) vegaEmbed("#chart-" + name, spec, options);
"""

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
        models=run.about.get("models", {}),
        ingest=run.about.get("ingest"),
        quality=[{"name": name, **first.quality[measure]["final"]} for measure, name in MEASURES.items()],
        measures=list(MEASURES.values()),
        stages=_stages(first),
        first_measure=MEASURES[FIRST],
        settings=_settings(run),
        moved=_moved(first),
        changed=_changed(first),
        worst=[_query(run, record, _stages(first)) for record in worst_queries(first)],
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


def _settings(run: RunRecord) -> list[Values]:
    """The rows of the settings' table, best first; empty where only the defaults were measured."""
    if len(run.settings) < 2:
        return []
    return [_setting(one) for one in sorted(run.settings, key=lambda one: -one.quality[FIRST]["final"]["mean"])]


def _setting(setting: SettingRecord) -> Values:
    versus = setting.versus_defaults
    if versus is not None:
        changed = "worse" if versus["mean"] < 0 else "better"
        verdict = "same" if versus["p_adjusted"] >= SIGNIFICANCE else changed
        versus = {**versus, "p": shown(versus["p_adjusted"]), "verdict": verdict}
    return {
        "label": setting.label,
        "quality": [setting.quality[measure]["final"]["mean"] for measure in MEASURES],
        "versus": versus,
        "latency": setting.latency,
    }


def _moved(setting: SettingRecord) -> dict[str, int]:
    """Numbers of relevant documents by how reranking moved them."""
    moves = movements(setting)
    beyond = DEPTH + 1
    return {
        "total": len(moves),
        "up": sum((after or beyond) < (before or beyond) for before, after, _ in moves),
        "down": sum((after or beyond) > (before or beyond) for before, after, _ in moves),
        "into": sum((before or beyond) > 10 >= (after or beyond) for before, after, _ in moves),
        "out": sum((before or beyond) <= 10 < (after or beyond) for before, after, _ in moves),
        "lost": sum(before is None and after is None for before, after, _ in moves),
    }


def _changed(setting: SettingRecord) -> dict[str, float]:
    """Numbers of queries by how reranking changed them, and the mean change."""
    changes = [record.measures["final"][FIRST] - record.measures["fused"][FIRST] for record in setting.queries]
    better, worse = sum(c > 1e-9 for c in changes), sum(c < -1e-9 for c in changes)
    same = len(changes) - better - worse
    return {"better": better, "worse": worse, "same": same, "mean": sum(changes) / len(changes)}


def _stages(setting: SettingRecord) -> list[str]:
    """The stages that hits were scored by."""
    reranks = {name for record in setting.queries for hit in record.hits for name in hit if name.startswith("rerank")}
    return ["dense", "lexical", "fused", *(sorted(reranks) or ["rerank"])]


def _query(run: RunRecord, record: QueryRecord, stages: Sequence[str]) -> Values:
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
                "stages": [hit.get(stage) for stage in stages],
            }
            for hit in record.hits[:WORST_HITS]
        ],
        "rankings": rankings,
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
