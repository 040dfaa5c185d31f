"""Saved runs, the report made of them, and comparing two."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import vl_convert

from shortlist_cli.evaluation.charts import all_charts
from shortlist_cli.evaluation.comparison import compare_runs
from shortlist_cli.evaluation.record import InvalidRecord, QueryRecord, RunRecord, SettingRecord, load_run
from shortlist_cli.evaluation.report import report_html, write_report
from shortlist_cli.evaluation.run import worst_queries
from shortlist_cli.evaluation.settings import RANKINGS
from shortlist_server.ranking.measures import MEASURES
from shortlist_server.ranking.significance import interval

LATENCY = {"p50_ms": 5.0, "p99_ms": 9.0, "queries_per_second": 100.0, "stages_p50_ms": {"embed": 2.0, "dense": 0.5}}
HOSTILE = "</script><script>alert('query')</script>"


def setting(label: str, final: list[float], values: dict[str, float] | None = None) -> SettingRecord:
    queries = [
        QueryRecord(
            query=f"q{number}",
            text=HOSTILE if number == 0 else f"query {number}",
            judged={"a": 1, "b": 0},
            ids={ranking: ["b", "a"] if ranking == "final" and value < 1 else ["a", "b"] for ranking in RANKINGS},
            measures={ranking: dict.fromkeys(MEASURES, value if ranking == "final" else 1.0) for ranking in RANKINGS},
            hits=[{"id": "b", "score": 0.9, "dense": {"rank": 1, "score": 0.5}, "fused": {"rank": 0, "score": 0.9}}],
        )
        for number, value in enumerate(final)
    ]
    quality = {
        measure: {
            ranking: dataclasses.asdict(interval([query.measures[ranking][measure] for query in queries]))
            for ranking in RANKINGS
        }
        for measure in MEASURES
    }
    versus = None if not values else {"mean": 0.1, "low": 0.0, "high": 0.2, "p": 0.2, "p_adjusted": 0.3}
    return SettingRecord(
        label=label, values=values or {}, quality=quality, latency=LATENCY, versus_defaults=versus, queries=queries
    )


def run_of(*settings: SettingRecord) -> RunRecord:
    return RunRecord(
        name="animals/test",
        created="2026-01-02T03:04:05+00:00",
        command="shortlist eval animals",
        about={"documents": 2, "passages": 2, "embedder": "hashing", "reranker": "none", "qrels": "x"},
        settings=list(settings),
        stage_latency=dict.fromkeys(RANKINGS, LATENCY),
        documents={"b": {"title": "<b>Bold</b>", "text": HOSTILE}},
    )


@pytest.fixture
def run() -> RunRecord:
    return run_of(
        setting("defaults", [0.0, 0.5, 1.0]), setting("rerank.weight=1", [0.1, 0.6, 1.0], {"rerank.weight": 1})
    )


def test_a_saved_run_is_read_as_it_was(run: RunRecord, tmp_path: Path) -> None:
    run.save(tmp_path / "run")
    again = load_run(tmp_path / "run")
    assert json.dumps(dataclasses.asdict(again)) == json.dumps(dataclasses.asdict(run))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("run.json", None, "run.json is missing"),
        ("queries.jsonl", None, "queries.jsonl is missing"),
        ("run.json", '{"format": 99}', "saved by another release"),
        ("run.json", "{", "is not a saved run"),
        ("queries.jsonl", '{"setting": "other"}\n', "is not a saved run"),
        ("queries.jsonl", "", "settings without queries"),
    ],
)
def test_what_is_no_saved_run_is_refused(
    run: RunRecord, tmp_path: Path, file: str, text: str | None, message: str
) -> None:
    run.save(tmp_path)
    if text is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(text)
    with pytest.raises(InvalidRecord, match=message):
        load_run(tmp_path)


def test_a_save_that_was_interrupted_is_no_run(run: RunRecord, tmp_path: Path) -> None:
    run.save(tmp_path)
    run.settings[1].queries[1].hits = [{"id": object()}]
    with pytest.raises(TypeError):
        run.save(tmp_path)
    with pytest.raises(InvalidRecord, match=r"run\.json is missing"):
        load_run(tmp_path)


def test_a_query_without_a_relevant_document_is_none_of_the_worst(run: RunRecord) -> None:
    first = run.settings[0]
    assert [record.query for record in worst_queries(first)] == ["q0", "q1"]
    first.queries[0].judged = {"a": 0, "b": -1}
    assert [record.query for record in worst_queries(first)] == ["q1"]


def test_every_chart_is_one_that_vega_lite_can_draw(run: RunRecord) -> None:
    charts = all_charts(run)
    stages = {f"stages-{measure}" for measure in MEASURES}
    assert set(charts) == {*stages, "latency", "movement", "change", "spread", "times"}
    for name, chart in charts.items():
        svg = vl_convert.vegalite_to_svg({**chart, "width": 300})
        assert "<path" in svg, name


def test_every_chart_is_as_wide_as_its_place_and_has_a_name(run: RunRecord) -> None:
    for name, chart in all_charts(run).items():
        assert chart["width"] == "container", name
        assert chart["description"], name


def test_where_all_figures_are_equal_the_chart_of_latency_says_which_and_names_do_not_overlap() -> None:
    one = setting("defaults", [0.6, 0.6])
    one.quality = {measure: {name: {"mean": 0.6, "low": 0.6, "high": 0.6} for name in RANKINGS} for measure in MEASURES}
    same = run_of(one)
    same.stage_latency = {name: {**LATENCY, "p50_ms": ms} for name, ms in zip(RANKINGS, (1, 4, 7, 9), strict=True)}
    latency = all_charts(same)["latency"]
    assert [row["roomy"] for row in latency["layer"][-1]["data"]["values"]] == [True, False, False]
    svg = vl_convert.vegalite_to_svg({**latency, "width": 300})
    assert ">0.600<" in svg
    assert ">1<" not in svg


def test_the_report_needs_nothing_from_elsewhere_and_escapes_what_it_shows(run: RunRecord, tmp_path: Path) -> None:
    page = write_report(run, tmp_path).read_text()
    page, libraries = page.split('<script type="module">')
    assert not re.search(r"<[^>]*(src|href)=", page)
    assert "import(" not in libraries
    assert HOSTILE not in page
    assert "<b>Bold</b>" not in page
    assert page.count("</script>") == libraries.count("</script>") == 1
    for expected in ("animals/test", "Worst queries", "rerank.weight=1", "not shown", 'id="chart-movement"'):
        assert expected in page


def test_a_run_in_which_everything_is_right_has_a_report_too() -> None:
    page = report_html(run_of(setting("defaults", [1.0, 1.0])))
    assert "None: every query ranks all its relevant documents first." in page
    assert "Nothing to show" in page


def test_comparing_says_what_changed_and_for_which_queries(run: RunRecord) -> None:
    better = run_of(setting("defaults", [0.5, 0.5, 1.0]))
    comparison = compare_runs(run, better)
    final = comparison.differences["final"]["ndcg_at_10"]
    assert (final.better, final.worse, final.same) == (1, 0, 2)
    assert final.mean == pytest.approx(0.5 / 3)
    assert comparison.moved[-1][0] == "q0"
    assert comparison.differences["dense"]["ndcg_at_10"].p == 1
    assert comparison.warnings == ()
    assert compare_runs(run, run, None, "rerank.weight=1").differences["final"]["ndcg_at_10"].better == 2


def test_comparing_warns_where_the_runs_do_not_match(run: RunRecord) -> None:
    other = run_of(setting("defaults", [0.0, 0.5]))
    other.about = {**other.about, "qrels": "y"}
    assert len(compare_runs(run, other).warnings) == 2
    with pytest.raises(InvalidRecord, match=r"no setting 'none'; there are: defaults; rerank.weight=1"):
        compare_runs(run, other, "none")
    for query in other.settings[0].queries:
        query.query += "x"
    with pytest.raises(InvalidRecord, match="no query in common"):
        compare_runs(run, other)


def test_names_in_the_latency_chart_do_not_lie_over_each_other() -> None:
    def at(label: str, ms: float, final: float) -> SettingRecord:
        values = {} if label == "defaults" else {"rerank.weight": final}
        record = setting(label, [final], values)
        record.latency = {**LATENCY, "p50_ms": ms}
        return record

    run = run_of(at("defaults", 10.0, 0.5), at("near", 10.2, 0.501), at("far", 15.0, 0.9))
    run.stage_latency = {}
    named = all_charts(run)["latency"]["layer"][-1]["data"]["values"]
    assert [point["label"] for point in named] == ["final (defaults)", "far"]
