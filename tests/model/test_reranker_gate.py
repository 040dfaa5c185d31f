"""A reranker is served as int8 only where its raw scores and its order stay what they were."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortlist_server.config import Config
from shortlist_server.errors import ModelNotFound
from shortlist_server.inference.agreement import RANKED_TEXTS
from shortlist_server.inference.base import RerankCandidate, Reranker, RerankQuery
from shortlist_server.inference.cross_encoder import PairTokenizer
from shortlist_server.inference.encoder import pad
from shortlist_server.inference.loading import load_reranker
from shortlist_server.testing import client

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

SATURATED = 60.0
"""Added to every raw score: every probability is 1."""


def classifier(folder: Path, minilm: Path, bert_parts: Any, *, tells_texts_apart: bool) -> Path:
    """A BERT classifier of random weights; one that tells texts apart reads the direction in which they differ most."""
    import torch
    from transformers import BertForSequenceClassification

    bert_config, copy_bert_tokenizer = bert_parts
    folder.mkdir()
    copy_bert_tokenizer(minilm, folder)
    torch.manual_seed(13)
    config = bert_config(num_labels=1)
    config.initializer_range = 0.05
    model: Any = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        if tells_texts_apart:
            tokenizer = PairTokenizer(folder / "tokenizer.json", 128)
            differences = []
            for query, texts in RANKED_TEXTS:
                pairs = tokenizer.encode(query, texts)
                ids, mask = pad([pair.ids for pair in pairs])
                inputs = (ids, mask, pad([pair.segments for pair in pairs])[0])
                pooled = model.bert(*map(torch.from_numpy, inputs)).pooler_output
                differences.append(pooled - pooled.mean(dim=0))
            model.classifier.weight[:] = 10 * torch.linalg.svd(torch.cat(differences), full_matrices=False).Vh[:1]
        model.classifier.bias[:] = SATURATED
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def good(minilm: Path, bert_parts: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier(tmp_path_factory.mktemp("good") / "model", minilm, bert_parts, tells_texts_apart=True)


@pytest.fixture(scope="module")
def bad(minilm: Path, bert_parts: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier(tmp_path_factory.mktemp("bad") / "model", minilm, bert_parts, tells_texts_apart=False)


def config(data: Path, dtype: str = "auto") -> Config:
    return Config(device="cpu", backend="onnx", dtype=dtype, data_dir=data)


def scores(reranker: Reranker) -> list[Any]:
    return [
        reranker.score(RerankQuery(text=query), [RerankCandidate(text=text) for text in texts], lambda _: True)
        for query, texts in RANKED_TEXTS
    ]


def test_one_whose_order_int8_keeps_is_served_as_int8(good: Path, tmp_path: Path) -> None:
    reranker = load_reranker("it", good, config(tmp_path))
    assert (reranker.info.number_format, reranker.info.number_format_note) == ("int8", "")
    assert all((one.probabilities == 1).all() for one in scores(reranker))


def test_one_whose_order_int8_changes_is_served_as_float32_and_says_so(
    bad: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_reranker("it", bad, config(tmp_path))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        reranker = load_reranker("it", bad, config(tmp_path), export=False)
    note = reranker.info.number_format_note
    assert reranker.info.number_format == "float32"
    assert "as int8 it does not agree with the original: raw scores differ by 0." in note
    assert [record.getMessage() for record in caplog.records] == [f"the model in {bad} is served as float32: {note}"]
    exact = load_reranker("it", bad, config(tmp_path, "float32"))
    for one, other in zip(scores(reranker), scores(exact), strict=True):
        assert np.array_equal(one.scores, other.scores)
        assert (one.probabilities == 1).all()


def test_one_whose_order_int8_changes_is_refused_where_int8_is_demanded(bad: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="serve it with dtype float32"):
        load_reranker("it", bad, config(tmp_path, "int8"))


def test_the_number_format_is_no_part_of_the_revision(good: Path, tmp_path: Path) -> None:
    found = {load_reranker("it", good, config(tmp_path, dtype)).info.revision for dtype in ("int8", "float32")}
    assert len(found) == 1


def test_the_servers_description_tells_number_format_and_reason(bad: Path) -> None:
    with client(rerankers=(f"it={bad}",), device="cpu") as asked:
        (reranker,) = (one for one in asked.server_info().rerankers if one.name == "it")
    assert reranker.number_format == "float32"
    assert "as int8 it does not agree" in reranker.number_format_note
