"""A collection changes its model while callers search it and a stream writes to it.

python bench/reindex.py [--quick] [--data FOLDER]

The reference is what fresh ingests with the new model give. Beside it, a collection made with the hashing embedder is
reindexed under load, compared, switched, rolled back, switched again, and its former generation dropped. The last part
measures searches of the real model while it is reindexed, and the speed of a reindex alone.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bars import at_least, at_most, finish, percentile
from callers import EXTRA, Answer, Callers, Writer
from ingest_text import bare_rate
from served import SCIFACT, documents, queries

from shortlist import Chunking, Client, CollectionConfig, Document, GenerationComparison
from shortlist_cli.evaluation.beir import Judged, load_split
from shortlist_cli.hosting.server_process import ServerProcess
from shortlist_server.config import DEFAULT_EMBEDDER, Config
from shortlist_server.inference.catalog import bundled_minilm
from shortlist_server.inference.loading import load_embedder

LIVE, ALONE = "live", "alone"
CALLERS, SEARCHES_PER_SECOND = 8, 12.0
WRITES_PER_SECOND = 5.0

QUALITY_LIMIT = 0.001
LATENCY_LIMIT = 3.0
SPEED_LIMIT = 0.85
SWITCH_LIMIT_MS = 250.0
COMMIT_LIMIT_MS = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured: documents, judged queries, seconds of each phase of searches, fresh ingests, rounds."""

    documents: int | None
    queries: int
    seconds: float
    fresh: int
    alone: int
    rounds: int


FULL = Size(documents=None, queries=300, seconds=20.0, fresh=2, alone=1500, rounds=3)
QUICK = Size(documents=400, queries=40, seconds=4.0, fresh=1, alone=150, rounds=1)


@dataclass(slots=True)
class Life:
    """What happened to the collection that changed its model.

    Attributes:
        expected: spans of time in seconds of ``perf_counter`` in which only these generations may answer.
        deleted: the span in which every document that the writer had added was deleted again.
    """

    failures: Counter[str] = field(default_factory=Counter)
    expected: list[tuple[float, float, set[int]]] = field(default_factory=list)
    deleted: tuple[float, float] = (0.0, 0.0)
    answers: list[Answer] = field(default_factory=list)
    quality: dict[str, float] = field(default_factory=dict)
    switch_ms: list[float] = field(default_factory=list)
    around_switch_ms: list[float] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


def judged_part(corpus: Sequence[Document], judged: Judged, size: Size) -> tuple[list[Document], Judged]:
    """The corpus and the queries of a run; of a part, the documents that its queries are judged on come first."""
    chosen = list(judged.queries)[: size.queries]
    part = Judged(
        name=judged.name,
        queries={id: judged.queries[id] for id in chosen},
        qrels={id: judged.qrels[id] for id in chosen},
    )
    needed = {document for grades in part.qrels.values() for document in grades}
    first = sorted(corpus, key=lambda document: document.id not in needed)
    return first[: size.documents], part


def final_quality(client: Client, collection: str, judged: Judged) -> float:
    """Final nDCG@10 of a collection."""
    (report,) = client.evaluate(collection, judged.queries, judged.qrels)
    return report.rankings["final"].ndcg_at_10


def fresh_quality(client: Client, corpus: Sequence[Document], judged: Judged, number: int) -> float:
    """Final nDCG@10 after an ingest into a new collection of the default model."""
    name = f"fresh-{number}"
    client.create_collection(name, CollectionConfig(embedder=DEFAULT_EMBEDDER))
    client.ingest(name, corpus).finish()
    quality = final_quality(client, name, judged)
    client.delete_collection(name)
    return quality


def alone_rate(client: Client, corpus: Sequence[Document], number: int) -> float:
    """Documents per second of a reindex while nothing else runs, without the estimate before it begins."""
    name = f"{ALONE}-{number}"
    client.create_collection(name, CollectionConfig(embedder="hashing"))
    client.ingest(name, corpus).finish()
    started = client.start_reindex(name, embedder=DEFAULT_EMBEDDER)
    begin = time.perf_counter()
    assert client.wait_operation(started.name).state == "succeeded"
    rate = len(corpus) / (time.perf_counter() - begin)
    client.delete_collection(name)
    return rate


def change_model(target: str, corpus: Sequence[Document], judged: Judged, texts: Sequence[str], size: Size) -> Life:
    """From hashing to the default model and back under load; see the module."""
    life = Life()
    with Client(target) as client:
        client.create_collection(LIVE, CollectionConfig(embedder="hashing"))
        client.ingest(LIVE, corpus).finish()
        life.quality["hashing"] = final_quality(client, LIVE, judged)
        callers = Callers(target, LIVE, texts, callers=CALLERS, per_second=SEARCHES_PER_SECOND)
        with callers:
            idle = spent(size.seconds)
            with Writer(target, LIVE, corpus[: len(corpus) // 4], per_second=WRITES_PER_SECOND) as writer:
                begin = time.perf_counter()
                candidate = client.reindex(LIVE, embedder=DEFAULT_EMBEDDER).number
                busy = (begin, time.perf_counter())
                before = (0.0, busy[1])
            deleted_from = time.perf_counter()
            caught_up = wait_complete(client, candidate)
            comparison = client.compare_generations(LIVE, queries=judged.queries, qrels=judged.qrels)
            switched = switch(client, life, candidate)
            life.quality["switched"] = final_quality(client, LIVE, judged)
            rolled_back = switch(client, life, None)
            life.quality["rolled back"] = final_quality(client, LIVE, judged)
            again = switch(client, life, None)
            time.sleep(size.seconds / 2)
            after = (again[1], time.perf_counter())
            life.deleted = (deleted_from, time.perf_counter())
            dropping = drop(client)
        canary = Callers(target, LIVE, texts, callers=1, per_second=10.0, generation=candidate)
        with canary:
            time.sleep(1)
    life.answers = [*callers.answers, *canary.answers]
    life.failures = callers.failures + canary.failures + writer.failures
    life.expected = [
        (before[0], switched[0], {1}),
        (switched[1], rolled_back[0], {candidate}),
        (rolled_back[1], again[0], {1}),
        (again[1], float("inf"), {candidate}),
    ]
    for begin, end in (switched, rolled_back, again):
        life.around_switch_ms += [answer.ms for answer in callers.between(begin - 1, end + 1)]
    life.figures = {
        "idle_ms": percentiles(callers.between(*idle)),
        "beside_reindex_ms": percentiles(callers.between(*busy)),
        "after_switch_ms": percentiles(callers.between(*after)),
        "reindex_seconds": busy[1] - busy[0],
        "reindex_documents_per_second": len(corpus) / (busy[1] - busy[0]),
        "writes_beside_reindex": dict(writer.acks),
        "seconds_until_complete_after_the_last_write": caught_up,
        "comparison": compared(comparison),
        "commit_ms_during_drop": dropping,
    }
    return life


def wait_complete(client: Client, number: int) -> float:
    """Waits until a generation has every write, also those that came when its model was too slow; returns the time."""
    begin = time.perf_counter()
    while not next(one for one in client.generations(LIVE) if one.number == number).complete:
        time.sleep(0.1)
    return time.perf_counter() - begin


def switch(client: Client, life: Life, number: int | None) -> tuple[float, float]:
    """Switches to a generation, or back with None; returns begin and end, with a second of searches after it."""
    begin = time.perf_counter()
    if number is None:
        client.roll_back_generation(LIVE)
    else:
        client.switch_generation(LIVE, number)
    end = time.perf_counter()
    life.switch_ms.append((end - begin) * 1000)
    time.sleep(1)
    return begin, end


def drop(client: Client) -> dict[str, float]:
    """Drops the former generation while small commits go on; returns their times, before and meanwhile."""
    probes = [Document(id=f"{EXTRA}probe-{number}", text=f"probe {number}") for number in range(600)]
    client.ingest(LIVE, probes).finish()
    ids = iter(probes)

    def commit() -> float:
        begin = time.perf_counter()
        assert client.delete(LIVE, [next(ids).id]).deleted_count == 1
        return (time.perf_counter() - begin) * 1000

    quiet = [commit() for _ in range(50)]
    former = next(one.number for one in client.generations(LIVE) if one.state == "former")
    begin = time.perf_counter()
    client.drop_generation(LIVE, former)
    called = time.perf_counter() - begin
    meanwhile: list[float] = []
    while any(one.number == former for one in client.generations(LIVE)):
        if len(meanwhile) < len(probes) - len(quiet):
            meanwhile.append(commit())
        time.sleep(0.02)
    return {
        "call": called * 1000,
        "seconds": time.perf_counter() - begin,
        "commits": len(meanwhile),
        "before_p50": statistics.median(quiet),
        "before_max": max(quiet),
        "p50": statistics.median(meanwhile or [0.0]),
        "max": max(meanwhile, default=0.0),
    }


def rechunk(target: str, texts: Sequence[str], size: Size) -> dict[str, dict[str, float]]:
    """Searches of the real model, idle and while its collection is reindexed into shorter passages."""
    with (
        Client(target) as client,
        Callers(target, LIVE, texts, callers=CALLERS, per_second=SEARCHES_PER_SECOND) as callers,
    ):
        time.sleep(2)
        idle = spent(size.seconds)
        operation = client.start_reindex(LIVE, chunking=Chunking(max_tokens=64))
        time.sleep(1)
        busy = spent(size.seconds)
        client.cancel_operation(operation.name)
    assert not callers.failures, callers.failures
    return {"idle": percentiles(callers.between(*idle)), "busy": percentiles(callers.between(*busy))}


def spent(seconds: float) -> tuple[float, float]:
    """Lets time pass; returns its begin and end."""
    begin = time.perf_counter()
    time.sleep(seconds)
    return begin, time.perf_counter()


def percentiles(answers: Sequence[Answer]) -> dict[str, float]:
    """Middle and end of the searches' times in milliseconds."""
    times = [answer.ms for answer in answers]
    return {"p50": percentile(times, 0.5), "p99": percentile(times, 0.99), "searches": len(times)}


def compared(comparison: GenerationComparison) -> dict[str, float]:
    """The figures of a comparison that a reader looks at first."""
    final = comparison.rankings["final"]
    return {
        "queries": comparison.query_count,
        "mean_overlap": comparison.mean_overlap,
        "final_ndcg_serving": final.serving.ndcg_at_10,
        "final_ndcg_candidate": final.candidate.ndcg_at_10,
        "p_value": final.p_value,
        "degraded_searches": comparison.degraded_searches,
        "serving_median_ms": comparison.serving_median_seconds * 1000,
        "candidate_median_ms": comparison.candidate_median_seconds * 1000,
    }


def wrong_answers(life: Life, models: Mapping[int, str]) -> int:
    """Answers of a generation that did not serve then, by another model than its own, or with a deleted document."""
    wrong = 0
    for answer in life.answers:
        allowed = {
            number
            for begin, end, numbers in life.expected
            if begin <= answer.begin and answer.end <= end
            for number in numbers
        }
        # A search that ran across a switch may end on either.
        fits = not allowed or answer.generation in allowed
        stale = (
            life.deleted[0] <= answer.begin
            and answer.end <= life.deleted[1]
            and any(id.startswith(EXTRA) for id in answer.ids)
        )
        wrong += stale or not (fits and answer.embedder == models.get(answer.generation))
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a part of the corpus and of the queries")
    parser.add_argument("--data", type=Path, default=SCIFACT, help="a folder in BEIR format")
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    corpus, judged = judged_part(documents(options.data), load_split(options.data, "test"), size)
    texts = queries(options.data)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        arguments = ["--embedder", "hashing", "--embedder", DEFAULT_EMBEDDER]
        server = ServerProcess(folder / "data", arguments=arguments, log_path=folder / "server.log")
        try:
            with Client(server.target) as client:
                fresh = [fresh_quality(client, corpus, judged, number) for number in range(size.fresh)]
                engine = load_embedder(DEFAULT_EMBEDDER, bundled_minilm(), "", Config(data_dir=folder / "bare"))
                rates = []
                for number in range(size.rounds):
                    bare = bare_rate(engine, corpus[: size.alone])
                    rates.append((alone_rate(client, corpus[: size.alone], number), bare))
                life = change_model(server.target, corpus, judged, texts, size)
                beside = rechunk(server.target, texts, size)
        finally:
            server.stop()
        log = (folder / "server.log").read_text(errors="replace")
    candidate = max(number for _, _, numbers in life.expected for number in numbers)
    changed = life.quality["switched"]
    # Vectors of int8 models depend on their batch, so two ingests of the same texts differ a little.
    off = max(min(fresh) - changed, changed - max(fresh), 0.0)
    finish(
        "reindex",
        [
            at_most("calls that failed", life.failures.total(), 0),
            at_most(
                "answers of a wrong generation", wrong_answers(life, {1: "hashing", candidate: DEFAULT_EMBEDDER}), 0
            ),
            at_most("final nDCG@10 after the switch, outside of the fresh ingests'", off, QUALITY_LIMIT),
            at_most(
                "final nDCG@10 of the comparison, against after the switch",
                abs(life.figures["comparison"]["final_ndcg_candidate"] - changed),
                QUALITY_LIMIT,
            ),
            at_most(
                "final nDCG@10 after rolling back, against before",
                abs(life.quality["rolled back"] - life.quality["hashing"]),
                QUALITY_LIMIT,
            ),
            at_most(
                "search p99 beside a reindex / idle p99", beside["busy"]["p99"] / beside["idle"]["p99"], LATENCY_LIMIT
            ),
            at_least(
                "reindex / bare loop, documents per second", statistics.median(a / b for a, b in rates), SPEED_LIMIT
            ),
            at_most("longest switch or roll-back, ms", max(life.switch_ms), SWITCH_LIMIT_MS),
            at_most("longest search around them, ms", max(life.around_switch_ms), SWITCH_LIMIT_MS),
            at_most(
                "longest commit during the drop, ms", life.figures["commit_ms_during_drop"]["max"], COMMIT_LIMIT_MS
            ),
        ],
        documents=len(corpus),
        queries=len(judged.queries),
        final_ndcg={"fresh": fresh, "fresh_spread": max(fresh) - min(fresh), **life.quality},
        searches=len(life.answers),
        failures=dict(life.failures),
        times_writes_left_a_generation_out=log.count("writes leave out generation"),
        switch_ms=life.switch_ms,
        reindex_documents_per_second_alone=[a for a, _ in rates],
        bare_documents_per_second=[b for _, b in rates],
        search_ms_of_the_real_model=beside,
        **life.figures,
    )


if __name__ == "__main__":
    main()
