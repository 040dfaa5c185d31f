"""The second stage: what the reranker reads, and what its scores make of the shortlist.

Blocking; each call runs in one thread.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shortlist_server.domain import (
    Degradation,
    DegradationKind,
    Parts,
    RerankFailurePolicy,
    RerankScore,
    StoredDocument,
)
from shortlist_server.errors import DeadlineExceeded
from shortlist_server.inference.base import RerankCandidate, RerankScores
from shortlist_server.pipeline.fusion import Floats, Fused, blend
from shortlist_server.pipeline.retrieve import by_document
from shortlist_server.pipeline.run import Ranked, Retrieved, SearchRun

PASSAGES_PER_DOCUMENT = 3
"""Passages of one document that late interaction scores; a reranker that costs a forward pass scores the best one."""


def fetch(
    run: SearchRun, retrieved: Retrieved, keys: Sequence[int]
) -> tuple[list[tuple[int, int]], list[RerankCandidate]]:
    """The passages to rerank as (key, label), document after document in fused order, and what the reranker reads."""
    assert run.reranker is not None
    with run.stage("fetch"):
        uses_tokens = run.reranker.info.uses_token_vectors
        each = PASSAGES_PER_DOCUMENT if uses_tokens else 1
        unknown = [key for key in keys if key not in retrieved.passages]
        if unknown and run.vector is not None:
            by_document(run.collection.dense_scores(run.vector, unknown), retrieved.passages)
        elif unknown:
            for key, document in run.collection.documents(unknown, Parts(text=False, passages=True)).items():
                retrieved.passages[key] = [(passage.label, 0.0) for passage in document.passages]
        pairs = [(key, label) for key in keys for label, _ in retrieved.passages.get(key, ())[:each]]
        stored = run.collection.passages([label for _, label in pairs], token_vectors=uses_tokens)
        if uses_tokens:
            found = [(key, label, stored[label].token_vectors) for key, label in pairs if label in stored]
            return (
                [(key, label) for key, label, packed in found if packed is not None],
                [RerankCandidate(token_vectors=packed) for _, _, packed in found if packed is not None],
            )
        documents = run.collection.documents(list(dict.fromkeys(keys)), Parts(metadata=False))
        pairs = [(key, label) for key, label in pairs if label in stored and key in documents]
        return pairs, [
            RerankCandidate(text=passage_content(documents[key], stored[label].start, stored[label].end))
            for key, label in pairs
        ]


def passage_content(document: StoredDocument, start: int, end: int) -> str:
    """A passage as models read it: the title in front, on a line of its own."""
    text = document.text[start:end]
    return f"{document.title}\n{text}" if document.title and text else document.title or text


def note_partial(run: SearchRun, scored: int, asked: int) -> None:
    """Records that time allowed only some passages to be scored; fails under the policy FAIL."""
    message = f"time allowed {scored} of {asked} passages to be reranked"
    if run.settings.rerank_on_failure is RerankFailurePolicy.FAIL:
        raise DeadlineExceeded(message, metadata={"stage": "rerank"})
    run.degradations.append(Degradation(kind=DegradationKind.RERANK_PARTIAL, message=message))


def blended(fused: Fused, depth: int, labels: Sequence[tuple[int, int]], scores: RerankScores, weight: float) -> Ranked:
    """The final ranking: the shortlist by its blended scores, then the rest of the fused ranking.

    A document counts with its best passage; one whose passages were not scored keeps its fused score.
    """
    best: dict[int, int] = {}
    for index, (key, _) in enumerate(labels[: len(scores.scores)]):
        if key not in best or scores.scores[index] > scores.scores[best[key]]:
            best[key] = index
    shortlist = fused.keys[:depth]
    raw: Floats = np.array([scores.scores[best[key]] if key in best else np.nan for key in shortlist], dtype=np.float64)
    final, normalized = blend(fused.scores[:depth], raw, weight)
    # Where the fused scores tie, the second stage decides; where it does not know either, the first's order stays.
    order = np.lexsort((-np.nan_to_num(normalized, nan=-1.0), -final))
    by_score = sorted(best, key=lambda key: -scores.scores[best[key]])
    ranks = {key: rank for rank, key in enumerate(by_score, 1)}
    reranked = {
        key: RerankScore(
            score=float(raw[i]),
            rank=ranks[key],
            normalized=float(normalized[i]),
            probability=None if scores.probabilities is None else float(scores.probabilities[best[key]]),
            truncated_tokens=int(scores.truncated_tokens[best[key]]),
        )
        for i, key in enumerate(shortlist)
        if key in best
    }
    return Ranked(
        keys=[shortlist[i] for i in order] + fused.keys[depth:],
        scores=[float(final[i]) for i in order] + fused.scores[depth:].tolist(),
        reranked=reranked,
        passages={label: float(score) for (_, label), score in zip(labels, scores.scores, strict=False)},
    )
