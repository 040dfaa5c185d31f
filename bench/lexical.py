"""The lexical stage at a million short texts, and the ranking quality that its posting budget costs.

Texts are drawn by the word frequencies of SciFact's abstracts; queries are SciFact's own. Quality is nDCG@10 on SciFact
itself, with and without the budget.

    python bench/lexical.py SCIFACT [--quick] [--rows N]

SCIFACT is a folder with corpus.jsonl, queries.jsonl and qrels/test.tsv. Needs no model.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from bars import at_most, finish, percentile

from shortlist_server.config import Config
from shortlist_server.domain import Chunking, CollectionConfig, Document, NewPassage, Upsert
from shortlist_server.storage.collection import EmbeddedCollection
from shortlist_server.storage.lexical.index import POSTING_BUDGET, LexicalIndex
from shortlist_server.storage.store import EmbeddedStore

CANDIDATES = 100
LATENCY_LIMIT_MS = 50.0
QUALITY_LIMIT = 0.003
GROUP = 2000
ONE = np.ones(1, dtype=np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scifact", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--quick", action="store_true", help="100,000 texts")
    options = parser.parse_args()
    rows = 100_000 if options.quick else options.rows
    corpus = [json.loads(line) for line in (options.scifact / "corpus.jsonl").read_text().splitlines()]
    lines = (options.scifact / "queries.jsonl").read_text().splitlines()
    queries = {query["_id"]: query["text"] for query in map(json.loads, lines)}
    with tempfile.TemporaryDirectory() as folder:
        store = EmbeddedStore(Config(data_dir=Path(folder)), maintain=False)
        try:
            judged = relevant(options.scifact / "qrels" / "test.tsv")
            quality = {name: ndcg(store, name, corpus, queries, judged, budget) for name, budget in budgets().items()}
            figures = latency(store, corpus, list(queries.values()), rows)
        finally:
            store.close()
    bars = [
        at_most("lexical p99 (ms)", figures["p99_ms"], LATENCY_LIMIT_MS),
        at_most("nDCG@10 lost to the budget on SciFact", quality["unbounded"] - quality["bounded"], QUALITY_LIMIT),
    ]
    finish("lexical", bars, rows=rows, posting_budget=POSTING_BUDGET, ndcg_at_10=quality, **figures)


def budgets() -> dict[str, int]:
    return {"bounded": POSTING_BUDGET, "unbounded": 1 << 60}


def latency(
    store: EmbeddedStore, corpus: Sequence[dict[str, str]], queries: Sequence[str], rows: int
) -> dict[str, float]:
    collection = fill(store, "short", (("", text) for text in short_texts(corpus, rows)))
    took, bounded = [], 0
    for query in queries:
        start = time.perf_counter()
        bounded += collection.lexical(query, CANDIDATES).bounded
        took.append((time.perf_counter() - start) * 1e3)
    return {
        "p50_ms": percentile(took, 0.5),
        "p99_ms": percentile(took, 0.99),
        "max_ms": max(took),
        "queries": len(queries),
        "bounded_share": bounded / len(queries),
    }


def short_texts(corpus: Sequence[dict[str, str]], rows: int) -> Iterator[str]:
    """Texts of 5 to 35 words; each word is drawn by its frequency in the corpus."""
    counts = Counter(word for document in corpus for word in re.findall(r"\w+", document["text"].lower()))
    vocabulary = np.array(list(counts))
    share = np.array(list(counts.values()), dtype=np.float64)
    random = np.random.default_rng(1)
    for start in range(0, rows, 10_000):
        lengths = random.integers(5, 36, min(10_000, rows - start))
        drawn = vocabulary[random.choice(len(vocabulary), lengths.sum(), p=share / share.sum())]
        for text in np.split(drawn, np.cumsum(lengths)[:-1]):
            yield " ".join(text)


def fill(store: EmbeddedStore, name: str, documents: Iterator[tuple[str, str]]) -> EmbeddedCollection:
    config = CollectionConfig(
        embedder="none",
        embedder_revision="",
        dimension=1,
        reranker="none",
        chunking=Chunking(max_tokens=128, overlap_tokens=0),
    )
    collection = store.create(name, config)
    waiting = []
    group: list[Upsert] = []
    for number, (title, text) in enumerate(documents):
        document = Document(id=str(number), title=title, text=text)
        passage = NewPassage(start=0, end=len(text), vector=ONE, tokens=1)
        group.append(Upsert(document=document, passages={1: [passage]}, content_hash=b""))
        if len(group) == GROUP:
            waiting.append(collection.commit(group))
            group = []
    waiting.append(collection.commit(group))
    for future in waiting:
        future.result()
    return collection


def relevant(path: Path) -> dict[str, dict[str, int]]:
    judged: dict[str, dict[str, int]] = {}
    for line in path.read_text().splitlines()[1:]:
        query, document, grade = line.split("\t")
        if int(grade) > 0:
            judged.setdefault(query, {})[document] = int(grade)
    return judged


def ndcg(
    store: EmbeddedStore,
    name: str,
    corpus: Sequence[dict[str, str]],
    queries: dict[str, str],
    judged: dict[str, dict[str, int]],
    budget: int,
) -> float:
    collection = fill(store, name, ((document["title"], document["text"]) for document in corpus))
    total = 0.0
    with collection.lease():
        opened = collection._lifecycle.opened
        assert opened is not None
        index = LexicalIndex(opened.pool, lambda: len(corpus), budget)
        for query, grades in judged.items():
            found = index.search(queries[query], 10, None).keys.tolist()
            gain = sum(grades.get(corpus[key - 1]["_id"], 0) / math.log2(rank + 2) for rank, key in enumerate(found))
            ideal = sorted(grades.values(), reverse=True)[:10]
            total += gain / sum(grade / math.log2(rank + 2) for rank, grade in enumerate(ideal))
    return total / len(judged)


if __name__ == "__main__":
    main()
