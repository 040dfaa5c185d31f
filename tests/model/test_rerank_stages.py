"""Late interaction, then a cross-encoder over the best of it: a whole search with a real model in each stage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shortlist import Client, CollectionConfig, Include, Rerank, RerankStage, SearchDefaults
from shortlist_server.config import Config
from shortlist_server.inference.base import RerankCandidate, RerankQuery
from shortlist_server.inference.loading import load_reranker
from shortlist_server.testing import server

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

QUERY = "which bird hunts at night"
STAGES = (
    RerankStage(model="late-interaction", depth=12, weight=0.4),
    RerankStage(model="cross", depth=5, weight=0.6),
)


@pytest.fixture(scope="module")
def cross(minilm: Path, bert_parts: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny cross-encoder with one label."""
    import torch
    from transformers import BertForSequenceClassification

    config, copy_tokenizer = bert_parts
    folder = tmp_path_factory.mktemp("cross")
    torch.manual_seed(13)
    BertForSequenceClassification(config(num_labels=1)).save_pretrained(folder)
    copy_tokenizer(minilm, folder)
    return folder


@pytest.fixture(scope="module")
def client(cross: Path) -> Iterator[Client]:
    settings: dict[str, Any] = {
        "rerankers": ("late-interaction", f"cross={cross}"),
        "device": "cpu",
        "dtype": "float32",
    }
    with server(**settings) as running, Client(running.target, timeout_seconds=60) as connected:
        presets = SearchDefaults(rerank=Rerank(stages=STAGES))
        connected.create_collection("animals", CollectionConfig(search_defaults=presets))
        texts = [
            f"The {bird} number {n} hunts by {'night' if n % 3 else 'day'}."
            for n in range(8)
            for bird in ("owl", "bat")
        ]
        connected.ingest("animals", [{"id": f"d{n}", "text": text} for n, text in enumerate(texts)]).finish()
        yield connected


def test_the_cross_encoder_reads_the_best_that_late_interaction_found(
    client: Client, cross: Path, tmp_path: Path
) -> None:
    first = client.search("animals", QUERY, limit=16, rerank=STAGES[:1])
    found = client.search("animals", QUERY, limit=16, include=Include(passages=True), explain_texts=True)
    assert {hit.id for hit in found.hits[:5]} == {hit.id for hit in first.hits[:5]}
    assert [hit.id for hit in found.hits[5:]] == [hit.id for hit in first.hits[5:]]
    alone = load_reranker("cross", cross, Config(device="cpu", dtype="float32", data_dir=tmp_path))
    for hit in found.hits[:5]:
        (candidate,) = [RerankCandidate(text=hit.document.text)]
        expected = alone.score(RerankQuery(text=QUERY), [candidate], lambda _: True)
        late, last = hit.reranks
        assert last.score == pytest.approx(float(expected.scores[0]), abs=1e-4)
        assert hit.passages[0].rerank_scores == {1: late.score, 2: last.score}
        assert last.probability is not None and late.probability is None
    assert found.explanation is not None and found.explanation.texts is not None
    read = [passage for passage in found.explanation.texts.passages if passage.stage == 2]
    assert [passage.id for passage in read] == [hit.id for hit in first.hits[:5]]
    assert all(QUERY in passage.text and "[SEP]" in passage.text for passage in read)
    assert found.report.rerank_stages[1].tokens > 5 * len(QUERY.split())


def test_a_request_for_the_last_stage_alone_reads_the_best_of_the_fused_ranking(client: Client) -> None:
    fused = client.search("animals", QUERY, limit=16, rerank=False)
    found = client.search("animals", QUERY, limit=16, rerank=Rerank(stages=STAGES[1:]))
    assert {hit.id for hit in found.hits[:5]} == {hit.id for hit in fused.hits[:5]}
    assert [stage.model.name for stage in found.report.rerank_stages] == ["cross"]
