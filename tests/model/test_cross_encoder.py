"""Classic cross-encoders against sentence-transformers, on tiny checkpoints with one and two passage ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortlist_server.config import Config
from shortlist_server.inference.base import RerankCandidate, RerankQuery
from shortlist_server.inference.cross_encoder import PairTokenizer
from shortlist_server.inference.loading import load_reranker
from shortlist_server.inference.tokenization import open_tokenizer

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

QUERY = "What is the capital of China?"
DOCUMENTS = ["Beijing is.", "", "🎉 émigré שלום", "a [SEP] b", "gravity pulls", "dog " * 500]


def reference_logits(folder: Path, query: str, documents: list[str]) -> Any:
    import torch
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(folder), device="cpu", max_length=128)
    model.tokenizer.split_special_tokens = True  # no [SEP] is read out of a text
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


@pytest.mark.parametrize("names", ["[SEP] [CLS] [PAD] [MASK]", "<s> </s> <pad> <unk>"])
def test_no_special_token_is_read_out_of_a_text(minilm: Path, unigram_tokenizer_file: Path, names: str) -> None:
    file = minilm / "tokenizer.json" if "[" in names else unigram_tokenizer_file
    tokenizer = PairTokenizer(file, 512)
    whole = open_tokenizer(file)
    assert tokenizer.vocabulary_size == whole.get_vocab_size()
    special = {whole.token_to_id(name) for name in names.split()} - {whole.token_to_id("<unk>")}
    (plain,) = tokenizer.encode("query", ["dog"])
    assert [one.ids for one in tokenizer.encode("query", ["dog"])] == [whole.encode("query", "dog").ids]
    for name in names.split():
        (pair,) = tokenizer.encode(f"query{name} {name}", [f"{name}dog {name} {name.lower()}{name}"])
        assert [t for t in pair.ids if t in special] == [t for t in plain.ids if t in special], name


def test_only_the_document_is_cut(minilm: Path) -> None:
    tokenizer = PairTokenizer(minilm / "tokenizer.json", 32)
    (whole,) = tokenizer.encode("one two three", ["dog"])
    (cut,) = tokenizer.encode("one two three", ["dog " * 100])
    assert cut.ids[:5] == whole.ids[:5]
    assert len(cut.ids) == 32
    assert cut.ids[-1] == whole.ids[-1]
    assert cut.truncated_tokens == 100 - (32 - 6)


def test_what_is_rendered_is_what_is_read(minilm: Path) -> None:
    pairs = PairTokenizer(minilm / "tokenizer.json", 32)
    plain = open_tokenizer(minilm / "tokenizer.json")
    documents = [document for document in DOCUMENTS if "[SEP]" not in document]
    for query in ("Which dogs?", "query " * 500):
        for pair, text in zip(pairs.encode(query, documents), pairs.render(query, documents), strict=True):
            assert plain.encode(text, add_special_tokens=False).ids == pair.ids
    (text,) = pairs.render("Which dogs?", ["Spot\nis a dog " + "dog " * 100])
    assert text == f"[CLS]Which dogs?[SEP]Spot\nis a dog {'dog ' * 21}dog[SEP]"


def test_a_long_query_leaves_the_document_half(minilm: Path) -> None:
    (pair,) = PairTokenizer(minilm / "tokenizer.json", 33).encode("query " * 500, ["dog " * 100])
    assert len(pair.ids) == 33
    assert sum(pair.segments) == 16
