"""The embedded default: ONNX Runtime int8 against torch float32, and the lanes against a bare loop.

    python bench/embed.py [--quick] [--threads N]

Rounds of the compared sides alternate, so that other load on the machine disturbs both.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from bars import at_least, at_most, finish, percentile

from shortlist_server.config import DEFAULT_EMBEDDER, Config
from shortlist_server.inference.base import Embedder, PassageEmbedding, PassageText, QueryText
from shortlist_server.inference.catalog import bundled_minilm
from shortlist_server.inference.loading import load_embedder
from shortlist_server.inference.processors import threads
from shortlist_server.inference.services import PASSAGE_LIMITS, ScheduledEmbedder

VOCABULARY = (
    "the of a and in to cells protein was expression study patients with gene results that for by effects analysis"
    " treatment disease we response increased activity human mice growth clinical receptor factor data risk"
)


def make_texts(count: int, longest: int, seed: int = 1) -> list[str]:
    """Texts of 10 to ``longest`` words, most of them long, like passages."""
    chance = random.Random(seed)
    lengths = [max(10, min(longest, round(chance.gauss(0.8 * longest, 0.3 * longest)))) for _ in range(count)]
    return [" ".join(chance.choices(VOCABULARY.split(), k=length)) for length in lengths]


def sorted_batches(texts: Sequence[str], tokens: Sequence[int]) -> list[list[str]]:
    """The batches that the lane would make, made in advance."""
    batches: list[list[str]] = [[]]
    for cost, text in sorted(zip(tokens, texts, strict=True)):
        if batches[-1] and cost * (len(batches[-1]) + 1) > PASSAGE_LIMITS.batch_cost:
            batches.append([])
        batches[-1].append(text)
    return batches


def rate(run: Callable[[], object], count: int) -> float:
    started = time.perf_counter()
    run()
    return count / (time.perf_counter() - started)


def query_ms(engine: Embedder, runs: int) -> float:
    """Median time of one short query at a time."""
    times = []
    for number in range(runs):
        started = time.perf_counter()
        engine.embed_queries([QueryText(text=f"does treatment {number} lower the risk of disease in patients")])
        times.append(1e3 * (time.perf_counter() - started))
    return percentile(times, 0.5)


def embedded(engine: Embedder, texts: Sequence[str]) -> list[PassageEmbedding]:
    """Passages of which none may fail."""
    made = []
    for one in engine.embed_passages(texts, token_vectors=False):
        assert isinstance(one, PassageEmbedding), one
        made.append(one)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    count, rounds, queries = (96, 2, 30) if options.quick else (512, 5, 200)
    texts = make_texts(count, 110)
    with tempfile.TemporaryDirectory() as data:
        config = Config(device="cpu", inference_threads=options.threads, data_dir=Path(data))
        onnx, torch = (
            load_embedder(DEFAULT_EMBEDDER, bundled_minilm(), "", config.replace(backend=backend, dtype=dtype))
            for backend, dtype in (("onnx", "int8"), ("torch", "float32"))
        )
    tokens = [one.tokens for one in embedded(onnx, texts)]
    batches = sorted_batches(texts, tokens)
    service = ScheduledEmbedder(onnx)
    passages = [
        PassageText(start=0, end=len(text), content=text, tokens=cost) for text, cost in zip(texts, tokens, strict=True)
    ]

    def bare(engine: Embedder) -> list[np.ndarray]:
        return [one.vector for batch in batches for one in embedded(engine, batch)]

    def scheduled() -> None:
        asyncio.run(service.embed_passages(passages, dimension=onnx.info.dimension, token_vectors=False))

    cosine = float(np.mean([a @ b for a, b in zip(bare(onnx), bare(torch), strict=True)]))
    figures: dict[str, list[float]] = {"int8": [], "torch": [], "scheduled": [], "int8_query": [], "torch_query": []}
    for _ in range(rounds):
        figures["int8"].append(rate(lambda: bare(onnx), count))
        figures["scheduled"].append(rate(scheduled, count))
        figures["torch"].append(rate(lambda: bare(torch), count))
        figures["int8_query"].append(query_ms(onnx, queries))
        figures["torch_query"].append(query_ms(torch, queries))
    service.close()
    middle = {name: statistics.median(values) for name, values in figures.items()}
    finish(
        "embed",
        [
            at_least("int8 / torch float32, passages per second", middle["int8"] / middle["torch"], 1.5),
            at_most("int8 / torch float32, p50 of one query", middle["int8_query"] / middle["torch_query"], 0.4),
            at_least("lane / bare loop, passages per second", middle["scheduled"] / middle["int8"], 0.9),
            at_least("mean cosine of int8 to float32", cosine, 0.99),
        ],
        passages_per_second={name: round(middle[name], 1) for name in ("int8", "scheduled", "torch")},
        query_p50_ms={name: round(middle[f"{name}_query"], 2) for name in ("int8", "torch")},
        mean_tokens=statistics.mean(tokens),
        threads=threads(config),
    )


if __name__ == "__main__":
    main()
