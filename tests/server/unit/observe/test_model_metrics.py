"""Metrics of models that come and go while the server runs."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from shortlist_server.observe.lanes import ModelMetrics


def test_a_model_that_comes_again_has_each_series_once_and_one_that_is_gone_has_none() -> None:
    registry = CollectorRegistry()
    metrics = ModelMetrics(registry)

    def lines(model: str) -> list[str]:
        return [line for line in generate_latest(registry).decode().splitlines() if f'model="{model}"' in line]

    for waiting in (1, 2):
        metrics.watch_queue("words@1", "query", lambda waiting=waiting: (waiting, 10 * waiting))  # type: ignore[misc]
        metrics.watch_cache("words@1", lambda waiting=waiting: (waiting, 0))  # type: ignore[misc]
    metrics.watch_cache("other@1", lambda: (7, 7))
    assert lines("words@1") == [
        'shortlist_lane_queued_items{lane="query",model="words@1"} 2.0',
        'shortlist_lane_queued_cost{lane="query",model="words@1"} 20.0',
        'shortlist_query_cache_hits_total{model="words@1"} 2.0',
        'shortlist_query_cache_misses_total{model="words@1"} 0.0',
    ]
    metrics.forget("words@1")
    assert lines("words@1") == []
    assert len(lines("other@1")) == 2
