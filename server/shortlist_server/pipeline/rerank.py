"""The second stage: what the reranker reads, and what its scores make of the shortlist.

Blocking; each call runs in one thread.
"""

from __future__ import annotations

import numpy as np

from shortlist_server.domain import (
    Degradation,
    DegradationKind,
    Parts,
    RerankFailurePolicy,
    RerankScore,
    StoredDocument,
    StoredPassage,
)
from shortlist_server.errors import DeadlineExceeded
from shortlist_server.inference.base import RerankCandidate, RerankScores
from shortlist_server.pipeline.fusion import Floats, Fused, blend
from shortlist_server.pipeline.retrieve import by_document
from shortlist_server.pipeline.run import Ranked, Retrieved, SearchRun, Shortlist

PASSAGES_PER_DOCUMENT = 3
"""Passages of one document that late interaction scores; a reranker that costs a forward pass scores the best one."""


def fetch(run: SearchRun, retrieved: Retrieved) -> Shortlist:
    """Reads the first documents of the fused ranking as the reranker sees them; empty where none is to run."""
    if run.reranker is None or not retrieved.fused.keys:
        return Shortlist(keys=(), pairs=(), candidates=())
    info = run.reranker.info
    keys = retrieved.fused.keys[: run.settings.rerank_depth or info.default_depth]
    with run.stage("fetch"):
        each = PASSAGES_PER_DOCUMENT if info.uses_token_vectors else 1
        unknown = [key for key in keys if key not in retrieved.passages]
        if unknown and run.vector is not None:
            by_document(run.collection.dense_scores(run.vector, unknown), retrieved.passages)
        elif unknown:
            for key, document in run.collection.documents(unknown, Parts(text=False, passages=True)).items():
                retrieved.passages[key] = [(passage.label, 0.0) for passage in document.passages]
        pairs = [(key, label) for key in keys for label, _ in retrieved.passages.get(key, ())[:each]]
        stored = run.collection.passages([label for _, label in pairs], token_vectors=info.uses_token_vectors)
        if info.uses_token_vectors:
            found = [
                (pair, RerankCandidate(token_vectors=stored[pair[1]].token_vectors))
                for pair in pairs
                if pair[1] in stored and stored[pair[1]].token_vectors is not None
            ]
        else:
            documents = run.collection.documents(keys, Parts(metadata=False))
            found = [
                ((key, label), RerankCandidate(text=passage_content(documents[key], stored[label])))
                for key, label in pairs
                if label in stored and key in documents
            ]
    return Shortlist(keys=keys, pairs=[pair for pair, _ in found], candidates=[candidate for _, candidate in found])


def passage_content(document: StoredDocument, passage: StoredPassage) -> str:
    """A passage as models read it: the title in front, on a line of its own."""
    text = document.text[passage.start : passage.end]
    return f"{document.title}\n{text}" if document.title and text else document.title or text


def note_partial(run: SearchRun, scored: int, asked: int) -> None:
    """Records that time allowed only some passages to be scored; fails under the policy FAIL."""
    message = f"time allowed {scored} of {asked} passages to be reranked"
    if run.settings.rerank_on_failure is RerankFailurePolicy.FAIL:
        raise DeadlineExceeded(message, metadata={"stage": "rerank"})
    run.degradations.append(Degradation(kind=DegradationKind.RERANK_PARTIAL, message=message))


def blended(run: SearchRun, fused: Fused, shortlist: Shortlist, scores: RerankScores | None) -> Ranked:
    """The final ranking: the shortlist by its blended scores, then the rest of the fused ranking.

    A document counts with its best passage; one whose passages were not scored keeps its fused score. Without scores it
    is the fused ranking.
    """
    if scores is None or run.reranker is None:
        return Ranked(keys=fused.keys, scores=fused.scores.tolist(), reranked={}, passages={})
    depth, keys, values = len(shortlist.keys), shortlist.keys, scores.scores.tolist()
    best: dict[int, int] = {}
    for index, ((key, _), value) in enumerate(zip(shortlist.pairs, values, strict=False)):
        if key not in best or value > values[best[key]]:
            best[key] = index
    raw: Floats = np.array([values[best[key]] if key in best else np.nan for key in keys], dtype=np.float64)
    weight = run.reranker.info.default_weight if run.settings.rerank_weight is None else run.settings.rerank_weight
    final, normalized = blend(fused.scores[:depth], raw, weight)
    # Where the fused scores tie, the second stage decides; where it does not know either, the first's order stays.
    order = np.lexsort((-np.nan_to_num(normalized, nan=-1.0), -final)).tolist()
    ranks = {key: rank for rank, key in enumerate(sorted(best, key=lambda key: -values[best[key]]), 1)}
    parts = normalized.tolist()
    reranked = {
        key: RerankScore(
            score=values[best[key]],
            rank=ranks[key],
            normalized=parts[i],
            probability=None if scores.probabilities is None else float(scores.probabilities[best[key]]),
            truncated_tokens=int(scores.truncated_tokens[best[key]]),
        )
        for i, key in enumerate(keys)
        if key in best
    }
    mixed = final.tolist()
    return Ranked(
        keys=[keys[i] for i in order] + fused.keys[depth:],
        scores=[mixed[i] for i in order] + fused.scores[depth:].tolist(),
        reranked=reranked,
        passages={label: value for (_, label), value in zip(shortlist.pairs, values, strict=False)},
    )
