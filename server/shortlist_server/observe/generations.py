"""Metrics of generations and of the reindexes that build them, read for every page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily, Metric

from shortlist_server.domain import Generation, GenerationState, ReindexProgress


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionGenerations:
    """The generations of a collection, and how far its reindex is; None where there is none."""

    collection: str
    generations: Sequence[Generation]
    reindex: ReindexProgress | None


def generation_metrics(collections: Sequence[CollectionGenerations]) -> Iterator[Metric]:
    """The gauges. The label is the state of a generation and not its number: numbers only grow."""
    serving = GaugeMetricFamily(
        "shortlist_collection_generation", "Number of the generation that serves.", labels=["collection"]
    )
    passages = GaugeMetricFamily(
        "shortlist_collection_generation_passages",
        "Live passages of the collection's generations, by state.",
        labels=["collection", "state"],
    )
    disk = GaugeMetricFamily(
        "shortlist_collection_generation_disk_bytes",
        "Bytes on disk of the collection's generations, by state; rows are estimated.",
        labels=["collection", "state"],
    )
    for one in collections:
        for generation in one.generations:
            labels = [one.collection, generation.state.value]
            if generation.state is GenerationState.SERVING:
                serving.add_metric([one.collection], generation.number)
            if generation.state is not GenerationState.DROPPING:
                # Several may be dropped at once; they share a sample below.
                passages.add_metric(labels, generation.passage_count)
                disk.add_metric(labels, generation.disk_bytes)
        dropping = [each for each in one.generations if each.state is GenerationState.DROPPING]
        if dropping:
            labels = [one.collection, GenerationState.DROPPING.value]
            passages.add_metric(labels, sum(each.passage_count for each in dropping))
            disk.add_metric(labels, sum(each.disk_bytes for each in dropping))
    yield from (serving, passages, disk)
    gauges: list[tuple[str, str, Callable[[ReindexProgress], float | None]]] = [
        ("documents", "Documents that the generation being built has.", lambda at: at.done_documents),
        (
            "remaining_documents",
            "Documents that the generation being built lacks.",
            lambda at: max(0, at.total_documents - at.done_documents),
        ),
        ("failed_documents", "Documents that the generation being built refused.", lambda at: at.failed_documents),
        (
            "documents_per_second",
            "Documents built per second, over a minute.",
            lambda at: at.documents_per_second,
        ),
        ("tokens_per_second", "Tokens embedded per second over the last minute.", lambda at: at.tokens_per_second),
        ("remaining_seconds", "Time left at this rate.", lambda at: at.remaining_seconds),
        ("paused", "Whether the reindex is paused: 1 or 0.", lambda at: bool(at.paused)),
    ]
    for name, help, read in gauges:
        gauge = GaugeMetricFamily(f"shortlist_reindex_{name}", help, labels=["collection"])
        for one in collections:
            value = None if one.reindex is None else read(one.reindex)
            if value is not None:
                gauge.add_metric([one.collection], value)
        yield gauge
