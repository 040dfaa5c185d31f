"""Searches during a saturated ingest, and an ingest during searches, through a real server.

python bench/fairness.py [--quick] [--data FOLDER]
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bars import at_least, at_most, finish
from served import COLLECTION, SCIFACT, documents, queries, search_all, serving

from shortlist import Client, Document

P99_LIMIT, P50_LIMIT, INGEST_LIMIT = 5.0, 3.0, 0.7
SEARCHES_PER_SECOND = 5


def feed(target: str, corpus: Sequence[Document], prefix: str, seconds: float, rate: object) -> None:
    """Ingests copies of documents under new ids for a given time; sets the documents per second."""
    begin = time.perf_counter()

    def copies() -> object:
        number = 0
        while time.perf_counter() - begin < seconds:
            original = corpus[number % len(corpus)]
            # Changed, because the server does not embed a text with a known content hash again.
            text = f"{original.text} {prefix}{number}"
            yield Document(id=f"{prefix}{number}", title=original.title, text=text)
            number += 1

    with Client(target) as client:
        summary = client.ingest(COLLECTION, copies()).finish()  # type: ignore[arg-type]
    rate.value = summary.durable / (time.perf_counter() - begin)  # type: ignore[attr-defined]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter phases")
    parser.add_argument("--data", type=Path, default=SCIFACT, help="a folder in BEIR format")
    options = parser.parse_args()
    corpus, texts = documents(options.data, 1000), queries(options.data)
    seconds = 8.0 if options.quick else 40.0
    context = multiprocessing.get_context("spawn")
    rate = context.Value("d", 0.0)

    def feeding(prefix: str) -> multiprocessing.process.BaseProcess:
        process = context.Process(target=feed, args=(server.target, corpus, prefix, seconds, rate))
        process.start()
        time.sleep(3)
        return process

    with tempfile.TemporaryDirectory() as temporary, serving(Path(temporary), corpus[:300]) as server:
        search_all(server.target, texts[-50:])
        pause = 1 / SEARCHES_PER_SECOND
        count = int((seconds - 4) * SEARCHES_PER_SECOND * 0.8)
        idle = search_all(server.target, texts[:count], pause_seconds=pause)
        process = feeding("alone-")
        process.join()
        alone = rate.value
        process = feeding("beside-")
        busy = search_all(server.target, texts[count : 2 * count], pause_seconds=pause)
        process.join()
        beside = rate.value
    finish(
        "fairness",
        [
            at_most("search p99 under ingest / idle p99", busy.at(0.99) / idle.at(0.99), P99_LIMIT),
            at_most("search p50 under ingest / idle p50", busy.at(0.5) / idle.at(0.5), P50_LIMIT),
            at_least("ingest rate beside searches / alone", beside / alone, INGEST_LIMIT),
        ],
        idle_ms={"p50": idle.at(0.5), "p99": idle.at(0.99)},
        under_ingest_ms={"p50": busy.at(0.5), "p99": busy.at(0.99)},
        searches_per_second=busy.per_second,
        documents_per_second={"alone": alone, "beside_searches": beside},
    )


if __name__ == "__main__":
    main()
