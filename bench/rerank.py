"""Rerankers: late interaction over a hundred candidates, a cross-encoder of MiniLM's size over twenty, and the saving
of reusing the head of a Qwen3 prompt.

    python bench/rerank.py [--quick]

The cross-encoder is MiniLM with a random head in ONNX Runtime. It is served as int8 without the check of its order, for
a random head has none. The Qwen3 decoder is small with random weights, and its tokenizer makes one token a word. Speed
depends only on shapes.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bars import at_least, at_most, finish, percentile

from shortlist_server.config import Config
from shortlist_server.inference import agreement
from shortlist_server.inference.base import RerankCandidate, Reranker, RerankQuery
from shortlist_server.inference.catalog import bundled_minilm
from shortlist_server.inference.late_interaction import LateInteraction, pack
from shortlist_server.inference.loading import load_reranker
from shortlist_server.inference.qwen3_reranker import DEFAULT_INSTRUCTION, PREFIX, SUFFIX, Qwen3Reranker

QUERY = "does exercise lower blood pressure in older adults"
DOCUMENTS = [f"a trial of {20 + n} older adults found that regular exercise lower blood pressure" for n in range(32)]
CANDIDATES, ROWS, WIDTH, QUERY_TOKENS = 100, 32, 384, 16
BEST, LONGEST_WORDS = 20, 110
"""Candidates of the cross-encoder, and the words of its longest passage: some 128 tokens with the title."""


def timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def late_interaction_ms(runs: int) -> list[float]:
    """Times of one query over candidates that differ from run to run, as in service."""
    chance = np.random.default_rng(1)

    def unit(count: int) -> Any:
        rows = chance.standard_normal((count, WIDTH), dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    pool = [RerankCandidate(token_vectors=pack(unit(4 * ROWS))) for _ in range(4 * CANDIDATES)]
    query = RerankQuery(text=QUERY, token_vectors=unit(QUERY_TOKENS))
    engine = LateInteraction()
    times = []
    for _ in range(runs):
        candidates = [pool[i] for i in chance.choice(len(pool), CANDIDATES, replace=False)]
        times.append(1e3 * timed(lambda c=candidates: engine.score(query, c, lambda _: True)))  # type: ignore[misc]
    return times


def write_cross_encoder(folder: Path) -> None:
    """Writes a classifier with MiniLM's weights under a random head."""
    import torch
    from transformers import AutoModelForSequenceClassification

    minilm = bundled_minilm()
    torch.manual_seed(1)
    AutoModelForSequenceClassification.from_pretrained(minilm, num_labels=1).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(minilm / name, folder)


def cross_encoder_ms(engine: Reranker, runs: int) -> list[float]:
    """Times of one query over passages of different lengths: most fill their size, the last of a document do not."""
    chance = np.random.default_rng(2)
    words = " ".join(DOCUMENTS).split()

    def passage() -> RerankCandidate:
        count = LONGEST_WORDS if chance.random() < 0.6 else int(chance.integers(10, LONGEST_WORDS))
        return RerankCandidate(text=" ".join(chance.choice(words, count)))

    times = []
    for _ in range(runs):
        candidates = [passage() for _ in range(BEST)]
        times.append(1e3 * timed(lambda c=candidates: engine.score(RerankQuery(text=QUERY), c, lambda _: True)))  # type: ignore[misc]
    return times


def write_decoder(folder: Path, layers: int) -> None:
    """Writes a Qwen3 decoder and a whole-word tokenizer into a model folder."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import Qwen3Config, Qwen3ForCausalLM

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    everything = " ".join([PREFIX, SUFFIX, DEFAULT_INSTRUCTION, QUERY, *DOCUMENTS, "Instruct Query Document yes no"])
    words = dict.fromkeys([*special, "[UNK]", *re.findall(r"\w+|[^\w\s]+", everything)])
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(1)
    config = Qwen3Config(
        vocab_size=4096,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=4096,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 4096}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    late_interaction_ms(3)
    late = late_interaction_ms(30 if quick else 300)
    with tempfile.TemporaryDirectory() as folder:
        write_cross_encoder(Path(folder))
        agreement.MAX_ERROR, agreement.MIN_RANK_CORRELATION = math.inf, -1.0
        cross = load_reranker("cross", Path(folder), Config(device="cpu", data_dir=Path(folder) / "data"))
        cross_encoder_ms(cross, 3)
        crossed = cross_encoder_ms(cross, 10 if quick else 100)
    with tempfile.TemporaryDirectory() as folder:
        write_decoder(Path(folder), layers=4 if quick else 8)
        reusing = load_reranker("decoder", Path(folder), Config(device="cpu", dtype="float32"))
    assert isinstance(reusing, Qwen3Reranker)
    repeating = reusing.without_reuse()
    query = RerankQuery(text=QUERY)
    candidates = [RerankCandidate(text=document) for document in DOCUMENTS]
    first, second = (engine.score(query, candidates, lambda _: True) for engine in (reusing, repeating))
    ratios = []
    for _ in range(2 if quick else 7):
        slow = timed(lambda: repeating.score(query, candidates, lambda _: True))
        ratios.append(slow / timed(lambda: reusing.score(query, candidates, lambda _: True)))
    finish(
        "rerank",
        [
            at_most("late interaction, 100 candidates, p50 ms", percentile(late, 0.5), 5.0),
            at_most("cross-encoder of MiniLM's size, best 20, p50 ms", percentile(crossed, 0.5), 120.0),
            at_least("Qwen3 reranker, without reuse of the head / with", statistics.median(ratios), 1.5),
            at_most(
                "largest difference of scores, reuse against none", float(abs(first.scores - second.scores).max()), 1e-4
            ),
        ],
        cross_encoder_p99_ms=round(percentile(crossed, 0.99), 1),
        cross_encoder_number_format=cross.info.number_format,
        late_interaction_p99_ms=round(percentile(late, 0.99), 2),
        late_interaction_bytes_per_passage=8 + ROWS * (4 + WIDTH),
    )


if __name__ == "__main__":
    main()
