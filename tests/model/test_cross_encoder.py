"""Classic cross-encoders against sentence-transformers, on tiny checkpoints with one and two labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortlist_server.config import Config
from shortlist_server.inference.base import RerankCandidate, RerankQuery
from shortlist_server.inference.cross_encoder import PairTokenizer
from shortlist_server.inference.loading import load_reranker

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

QUERY = "What is the capital of China?"
DOCUMENTS = ["Beijing is.", "", "🎉 émigré שלום", "a [SEP] b", "gravity pulls", "dog " * 500]


def reference_logits(folder: Path, query: str, documents: list[str]) -> Any:
    import torch
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(folder), device="cpu", max_length=128)
    return np.atleast_2d(
        np.asarray(model.predict([(query, d) for d in documents], activation_fn=torch.nn.Identity()))
    ).reshape(len(documents), -1)


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_scores_are_the_references(tiny_cross_encoder: Path, tmp_path: Path, backend: str) -> None:
    config = Config(device="cpu", backend=backend, dtype="float32", data_dir=tmp_path)
    reranker = load_reranker("tiny", tiny_cross_encoder, config)
    candidates = [RerankCandidate(text=document) for document in DOCUMENTS]
    ours = reranker.score(RerankQuery(text=QUERY), candidates, lambda _: True)
    logits = reference_logits(tiny_cross_encoder, QUERY, DOCUMENTS)
    raw = logits[:, -1] - logits[:, 0] if logits.shape[1] == 2 else logits[:, 0]
    assert np.abs(ours.scores - raw).max() <= 1e-4
    assert ours.probabilities is not None
    assert np.abs(ours.probabilities - 1 / (1 + np.exp(-raw))).max() <= 1e-4
    assert ours.truncated_tokens.tolist()[:-1] == [0] * (len(DOCUMENTS) - 1)
    assert ours.truncated_tokens[-1] > 300


def test_only_the_document_is_cut(minilm: Path) -> None:
    tokenizer = PairTokenizer(minilm / "tokenizer.json", 32)
    (whole,) = tokenizer.encode("one two three", ["dog"])
    (cut,) = tokenizer.encode("one two three", ["dog " * 100])
    assert cut.ids[:5] == whole.ids[:5]
    assert len(cut.ids) == 32
    assert cut.ids[-1] == whole.ids[-1]
    assert cut.truncated_tokens == 100 - (32 - 6)


def test_what_is_rendered_is_what_is_read(minilm: Path) -> None:
    from tokenizers import Tokenizer

    pairs = PairTokenizer(minilm / "tokenizer.json", 32)
    plain = Tokenizer.from_file(str(minilm / "tokenizer.json"))
    plain.no_truncation()
    plain.no_padding()
    for query in ("Which dogs?", "query " * 500):
        for pair, text in zip(pairs.encode(query, DOCUMENTS), pairs.render(query, DOCUMENTS), strict=True):
            assert plain.encode(text, add_special_tokens=False).ids == pair.ids
    (text,) = pairs.render("Which dogs?", ["Spot\nis a dog " + "dog " * 100])
    assert text == f"[CLS]Which dogs?[SEP]Spot\nis a dog {'dog ' * 21}dog[SEP]"


def test_a_long_query_leaves_the_document_half(minilm: Path) -> None:
    (pair,) = PairTokenizer(minilm / "tokenizer.json", 33).encode("query " * 500, ["dog " * 100])
    assert len(pair.ids) == 33
    assert sum(pair.segments) == 16
