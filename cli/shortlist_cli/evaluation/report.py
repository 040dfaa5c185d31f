"""The report of a run: one HTML file that needs nothing else, not even a network.

The charts are Vega-Lite's, drawn in the browser by the libraries that ``vl-convert`` brings along, about 0.9 MB a
report. Everything that comes from documents and queries is escaped.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from shortlist_cli.evaluation.charts import DEPTH, FIRST, all_charts, movements
from shortlist_cli.evaluation.measures import MEASURES
from shortlist_cli.evaluation.record import QueryRecord, RunRecord, SettingRecord
from shortlist_cli.evaluation.run import WORST_HITS, worst_queries
from shortlist_cli.evaluation.significance import shown

_DRAW = """
const charts = JSON.parse(document.getElementById("charts").textContent);
const options = {renderer: "svg", actions: {export: true, source: false, compiled: false, editor: false}};
for (const [name, spec] of Object.entries(charts)) vegaEmbed("#chart-" + name, spec, options);
"""


def write_report(run: RunRecord, folder: Path) -> Path:
    """Writes ``report.html`` into the folder of a saved run and returns its path."""
    path = folder / "report.html"
    path.write_text(report_html(run), encoding="utf-8")
    return path


def report_html(run: RunRecord) -> str:
    """The report as a page."""
    import vl_convert

    charts = all_charts(run)
    first = run.settings[0]
    style = resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8")
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{_e(run.name)}: Shortlist evaluation</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{style}</style></head><body><main>",
        _head(run),
        _tiles(run),
        _figure(
            charts,
            [f"stages-{measure}" for measure in MEASURES],
            "Quality by stage",
            "Each ranking comes from searches of its own: one index alone, the other alone, both fused, and the whole "
            "search. Lines are 95 % intervals over the queries.",
        ),
        _figure(
            charts,
            "latency",
            "Quality against latency",
            "The caller's time of one search at a time, against the ranking it gives. The dashed line joins what "
            "nothing else beats in both. Hover for the figures.",
        ),
        _settings_table(run),
        '<div class="pair">',
        _figure(charts, "movement", "What the second stage moved", _movement_line(first)),
        _figure(charts, "change", "Gains and losses of the second stage", _change_line(first)),
        '</div><div class="pair">',
        _figure(charts, "spread", "How queries fare", "A query at 0 has no relevant document in its first ten."),
        _figure(charts, "times", "Where the time goes", "As the server reports it; stages may run side by side."),
        "</div>",
        _worst(run),
        _foot(run),
        "</main>",
        f'<script type="application/json" id="charts">{_script_json(charts)}</script>',
        f'<script type="module">{vl_convert.javascript_bundle(_DRAW)}</script>',
        "</body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _head(run: RunRecord) -> str:
    about = run.about
    models = about.get("models", {})
    facts = [
        f"{len(run.settings[0].queries):,} queries",
        f"{about['documents']:,} documents in {about['passages']:,} passages",
        f"embedder {models.get('embedder') or about['embedder']}",
        f"reranker {models.get('reranker') or about['reranker']}",
        run.created.replace("T", " ").replace("+00:00", " UTC"),
    ]
    return f'<header><p class="kicker">Shortlist evaluation</p><h1>{_e(run.name)}</h1>' + (
        f'<p class="facts">{" · ".join(map(_e, facts))}</p></header>'
    )


def _tiles(run: RunRecord) -> str:
    first = run.settings[0]
    tiles = [
        (
            f"{values['mean']:.3f}",
            f"final {MEASURES[measure]}",
            f"{values['low']:.3f} to {values['high']:.3f}" if values["low"] < values["high"] else "",
        )
        for measure, values in ((measure, first.quality[measure]["final"]) for measure in MEASURES)
    ]
    if first.latency is not None:
        tiles.append((f"{first.latency['p50_ms']:.1f} ms", "p50 of a search", f"p99 {first.latency['p99_ms']:.1f} ms"))
    ingest = run.about.get("ingest")
    if ingest and ingest["documents_per_second"]:
        refused = f"{ingest['failed']:,} refused" if ingest["failed"] else f"in {ingest['seconds']:,.1f} s"
        tiles.append((f"{ingest['documents_per_second']:,.0f}/s", "documents ingested", refused))
    cells = "".join(
        f'<div class="tile"><b>{_e(value)}</b><span>{_e(name)}</span><small>{_e(more)}</small></div>'
        for value, name, more in tiles
    )
    return f'<section class="tiles">{cells}</section>'


def _figure(charts: Mapping[str, Any], names: str | Sequence[str], title: str, text: str) -> str:
    names = [names] if isinstance(names, str) else names
    if not any(name in charts for name in names):
        return f"<section><h2>{_e(title)}</h2><p>Nothing to show: {_e(text)}</p></section>"
    drawn = "".join(f'<div class="chart" id="chart-{name}"></div>' for name in names)
    row = drawn if len(names) == 1 else f'<div class="row">{drawn}</div>'
    return f"<section><h2>{_e(title)}</h2><p>{_e(text)}</p>{row}</section>"


def _settings_table(run: RunRecord) -> str:
    if len(run.settings) < 2:
        return ""
    rows = []
    ordered = sorted(run.settings, key=lambda setting: -setting.quality[FIRST]["final"]["mean"])
    for setting in ordered:
        versus, timed = setting.versus_defaults, setting.latency or {}
        verdict = "" if versus is None else "same" if versus["p_adjusted"] >= 0.05 else "better"
        if verdict == "better" and versus is not None and versus["mean"] < 0:
            verdict = "worse"
        rows.append(
            [
                _e(setting.label),
                *(f"{setting.quality[measure]['final']['mean']:.4f}" for measure in MEASURES),
                "" if versus is None else f"{versus['mean']:+.4f}",
                "" if versus is None else f"{versus['low']:+.4f} to {versus['high']:+.4f}",
                "" if versus is None else shown(versus["p_adjusted"]),
                f'<span class="{verdict}">{ {"same": "not shown"}.get(verdict, verdict) }</span>',
                f"{timed['p50_ms']:.1f}" if timed else "",
                f"{timed['p99_ms']:.1f}" if timed else "",
            ]
        )
    columns = ["setting", *MEASURES.values(), "Δ", "95 % interval", "p, adjusted", "difference", "p50 ms", "p99 ms"]
    return (
        '<section class="settings"><h2>Settings</h2><p>'
        "Final rankings, best first. Δ is the change of "
        f"{_e(MEASURES[FIRST])} against the defaults; p is a paired randomisation test over the queries, adjusted for "
        f"the number of settings (Benjamini and Hochberg).</p>{_table(columns, rows)}</section>"
    )


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


def _worst(run: RunRecord) -> str:
    worst = worst_queries(run.settings[0])
    if not worst:
        return "<section><h2>Worst queries</h2><p>Every query has all its relevant documents first.</p></section>"
    items = "".join(_query(run, record, is_open=place < 3) for place, record in enumerate(worst))
    return (
        '<section class="queries"><h2>Worst queries</h2>'
        f"<p>The {len(worst)} queries with the lowest final {_e(MEASURES[FIRST])}, "
        "with their first hits and where their relevant documents ended up. Among equals, those come first whose "
        f"documents the first stage had ranked higher.</p>{items}</section>"
    )


def _query(run: RunRecord, record: QueryRecord, *, is_open: bool) -> str:
    rankings = tuple(record.measures)
    figures = " ".join(
        f'<span class="badge {ranking}">{ranking} {record.measures[ranking][FIRST]:.2f}</span>' for ranking in rankings
    )
    hits = [
        [
            str(place),
            _document(run, hit["id"], record.judged.get(hit["id"], 0)),
            f"{hit['score']:.3f}",
            *(_at(hit.get(stage)) for stage in ("dense", "lexical", "fused", "rerank")),
        ]
        for place, hit in enumerate(record.hits[:WORST_HITS], 1)
    ]
    relevant = [(id, grade) for id, grade in record.judged.items() if grade > 0]
    wanted = [
        [
            "",
            _document(run, id, grade),
            *(str(record.rank(ranking, id) or f'<i title="not in its first {DEPTH}">-</i>') for ranking in rankings),
        ]
        for id, grade in relevant[:WORST_HITS]
    ]
    more = f"<p>and {len(relevant) - WORST_HITS} more</p>" if len(relevant) > WORST_HITS else ""
    lost = f"<p>Degraded: {_e(', '.join(record.lost))}</p>" if record.lost else ""
    columns = ["", "hit", "score", "dense", "lexical", "fused", "rerank"]
    opened = " open" if is_open else ""
    return (
        f"<details{opened}><summary><span class='query'>{_e(record.text)}</span> {figures}</summary>"
        f"{_table(columns, hits) if hits else '<p>No hits.</p>'}{lost}"
        f"{_table(['', 'relevant document', *(f'{ranking} rank' for ranking in rankings)], wanted)}{more}</details>"
    )


def _document(run: RunRecord, id: str, grade: int) -> str:
    shown = run.documents.get(id, {})
    mark = f'<span class="relevant" title="grade {grade}">relevant</span> ' if grade > 0 else ""
    title, text = shown.get("title", ""), shown.get("text", "")
    return f"{mark}<b>{_e(title or id)}</b> <code>{_e(id)}</code><br><small>{_e(text)}</small>"


def _at(stage: Mapping[str, Any] | None) -> str:
    return "" if stage is None else f"{stage['rank'] or '-'} <small>{stage['score']:.3f}</small>"


def _foot(run: RunRecord) -> str:
    machine = run.about.get("machine", {})
    return (
        f"<footer><p><code>{_e(run.command)}</code></p><p>{_e(machine.get('processor', ''))}, "
        f"{_e(machine.get('cores', ''))} cores, Python {_e(machine.get('python', ''))}. Measures by ir-measures; "
        "intervals and tests by SciPy; charts by Vega-Lite.</p></footer>"
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{_e(column)}</th>' for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _script_json(value: Any) -> str:
    # "</script>" in a query's text would end the element.
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def _e(value: object) -> str:
    return html.escape(str(value))
