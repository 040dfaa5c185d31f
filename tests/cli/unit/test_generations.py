"""What the commands of a reindex print."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from shortlist import (
    ChangedQuery,
    Chunking,
    Generation,
    GenerationComparison,
    HitMoves,
    RankingComparison,
    RankingQuality,
    ReindexEstimate,
    ReindexProgress,
)
from shortlist_cli.commands import generations as views


def made(**values: Any) -> Generation:
    settings: dict[str, Any] = {
        "number": 2,
        "state": "building",
        "embedder": "base",
        "embedder_revision": "0123456789abcdef",
        "dimension": 768,
        "chunking": Chunking(max_tokens=256),
        "query_instruction": "",
        "number_format": "int8",
        "create_time": datetime.datetime(2030, 1, 2, tzinfo=datetime.UTC),
        "serve_time": None,
        "passage_count": 10,
        "disk_bytes": 5_000_000,
        "complete": False,
    }
    return Generation(**{**settings, **values})


def compared(difference: float, p_value: float) -> GenerationComparison:
    quality = RankingQuality(ndcg_at_10=0.5, recall_at_100=0.9, mrr_at_10=0.4)
    final = RankingComparison(serving=quality, candidate=quality, ndcg_difference=difference, p_value=p_value)
    return GenerationComparison(
        serving=1,
        candidate=2,
        query_count=40,
        mean_overlap=0.62,
        changed_first_hits=9,
        moves=HitMoves(same=50, higher=20, lower=20, gone=10),
        serving_median_seconds=0.004,
        serving_p95_seconds=0.009,
        candidate_median_seconds=0.012,
        candidate_p95_seconds=0.031,
        rankings={"final": final},
        examples=(
            ChangedQuery(id="q", text="what a  query", overlap=0.0, serving_ids=tuple("abcd"), candidate_ids=("x",)),
            ChangedQuery(id="r", text="an old query", overlap=1.0, serving_ids=("a",), candidate_ids=("a",)),
        ),
        degraded_searches=3,
    )


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({}, "building"),
        ({"paused_reason": "why"}, "paused"),
        ({"complete": True}, "ready to serve"),
        ({"state": "former", "complete": True}, "former"),
        ({"state": "former", "complete": False}, "former, incomplete"),
        ({"state": "former", "problem": "a row is damaged"}, "damaged"),
        ({"state": "serving", "complete": True}, "serving"),
    ],
)
def test_a_state_is_shown_as_what_it_means(values: dict[str, Any], shown: str) -> None:
    assert views.standing(made(**values)) == shown


@pytest.mark.parametrize(
    ("difference", "p_value", "shown"),
    [
        (0.1, 0.01, "better"),
        (-0.1, 0.01, "worse"),
        (-0.1, 0.05, "no difference shown"),
        (0.0, 1.0, "no difference shown"),
    ],
)
def test_only_a_difference_that_chance_does_not_explain_is_a_verdict(
    difference: float, p_value: float, shown: str
) -> None:
    comparison = compared(difference, p_value)
    assert views.verdict(comparison.rankings["final"]) == shown
    assert views.is_worse(comparison) == (shown == "worse")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.2, "0 s"),
        (89, "89 s"),
        (90, "2 min"),
        (480, "8 min"),
        (5400, "1 h 30 min"),
        (12000, "3 h 20 min"),
        (7200, "2 h"),
    ],
)
def test_a_time_is_rounded_to_what_matters(seconds: float, shown: str) -> None:
    assert views.duration(seconds) == shown


def test_a_comparison_shows_quality_moves_times_and_what_changed(capsys: pytest.CaptureFixture[str]) -> None:
    views.print_comparison(compared(0.1234, 0.0004))
    shown, noted = capsys.readouterr()
    lines = [line.split("\t") for line in shown.splitlines()]
    assert ["final", "0.5000", "0.5000", "+0.1234", "<0.001", "better", "0.9000", "0.9000"] in lines
    values = {line[0]: line[1] for line in lines if len(line) == 2}
    assert values["hits in both, of the first ten"] == "62%"
    assert values["hits that are gone"] == "10%"
    assert values["median search, now and new"] == "4.0 ms, 12.0 ms"
    assert ["what a query", "0%", "a, b, c", "x"] in lines
    assert "an old query" not in shown
    assert "3 searches" in noted


def test_an_estimate_that_does_not_fit_warns(capsys: pytest.CaptureFixture[str]) -> None:
    estimate = ReindexEstimate(
        document_count=1000,
        passage_count=2000,
        token_count=300_000,
        seconds=500,
        disk_bytes=200_000_000,
        free_disk_bytes=100_000_000,
        memory_bytes=1,
        free_memory_bytes=2,
        sampled_documents=100,
    )
    views.print_estimate(estimate)
    shown, noted = capsys.readouterr()
    assert "time on an idle server\t8 min" in shown
    assert "disk\t200 MB of 100 MB free" in shown
    assert "does not fit on the disk" in noted
    assert "memory" not in noted


def test_a_pause_is_shown_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    views.print_generations([made(paused_reason="the model is gone")])
    progress = ReindexProgress(
        done_documents=1234,
        total_documents=5000,
        done_tokens=10,
        failed_documents=2,
        documents_per_second=0.0,
        tokens_per_second=0.0,
        remaining_seconds=None,
        disk_bytes=0,
        paused_reason="the model is gone",
    )
    views.print_progress(progress)
    shown, noted = capsys.readouterr()
    assert "2\tpaused\tbase\t0123456789ab\t768" in shown
    assert "documents\t1,234 of 5,000" in shown
    assert "time left\tnot known" in shown
    assert "failed documents\t2" in shown
    assert "generation 2 is paused: the model is gone" in noted
