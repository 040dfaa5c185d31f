"""The answer: the documents of the final ranking, with the account of every stage.

Blocking; each call runs in one thread.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from shortlist_server.domain import Hit, Parts, PassageHit, SearchReport, StageScore
from shortlist_server.pipeline.fusion import StageScores
from shortlist_server.pipeline.portions import documents_within
from shortlist_server.pipeline.run import Ranked, Retrieved, SearchRun
from shortlist_server.storage.base import Selection


def answer(run: SearchRun, retrieved: Retrieved, ranked: Ranked, last_attempt: bool) -> list[Hit] | None:
    """The hits asked for; None when one of them was replaced since it was found, and the search should begin anew."""
    request = run.request
    with run.stage("group"):
        chosen = [
            (key, score)
            for key, score in zip(ranked.keys, ranked.scores, strict=True)
            if request.min_score is None or score >= request.min_score
        ][request.offset : run.wanted]
        parts = Parts(text=request.parts.text or request.parts.passages, metadata=request.parts.metadata)
        documents = documents_within(
            [key for key, _ in chosen],
            lambda keys: run.collection.documents(keys, parts),
            request.parts,
            request.max_answer_bytes,
        )
        if len(documents) < len(chosen):
            if not last_attempt:
                return None
            chosen = [(key, score) for key, score in chosen if key in documents]
        matched = (
            _matched_passages(run, retrieved, ranked, [key for key, _ in chosen]) if request.parts.passages else {}
        )
        fused_ranks = {key: rank for rank, key in enumerate(retrieved.fused.keys, 1)}
        fused_scores = dict(zip(retrieved.fused.keys, retrieved.fused.scores.tolist(), strict=True))
        return [
            Hit(
                rank=rank,
                score=score,
                dense=stage_score(key, retrieved.dense, retrieved.fused.dense),
                lexical=stage_score(key, retrieved.lexical, retrieved.fused.lexical),
                fused=StageScore(score=fused_scores[key], rank=fused_ranks[key], normalized=fused_scores[key]),
                rerank=ranked.reranked.get(key),
                document=documents[key],
                passages=matched.get(key, ()),
            )
            for rank, (key, score) in enumerate(chosen, request.offset + 1)
        ]


def _matched_passages(
    run: SearchRun, retrieved: Retrieved, ranked: Ranked, keys: Sequence[int]
) -> dict[int, list[PassageHit]]:
    # Documents found by words alone, in a search without any vector: none of their passages has been looked at.
    unknown = [key for key in keys if key not in retrieved.passages]
    if unknown:
        for key, document in run.collection.documents(unknown, Parts(text=False, passages=True)).items():
            retrieved.passages[key] = [(passage.label, 0.0) for passage in document.passages]
    labels = [label for key in keys for label, _ in retrieved.passages.get(key, ())]
    stored = run.collection.passages(labels, vectors=run.request.parts.vectors)
    has_vector = run.vector is not None
    hits = {
        key: [
            PassageHit(
                passage=stored[label],
                dense_score=score if has_vector else None,
                rerank_score=ranked.passages.get(label),
            )
            for label, score in retrieved.passages.get(key, ())
            if label in stored
        ]
        for key in keys
    }
    for passages in hits.values():
        # Stable, so that passages without any score stay in the document's order.
        passages.sort(key=lambda hit: (hit.rerank_score is None, -(hit.rerank_score or 0), -(hit.dense_score or 0)))
    return hits


def stage_score(key: int, stage: StageScores | None, normalized: dict[int, float]) -> StageScore | None:
    """A document's score in a stage; None where the stage did not score it."""
    if stage is None or key not in stage.scores:
        return None
    return StageScore(score=stage.scores[key], rank=stage.ranks.get(key, 0), normalized=normalized[key])


def report(run: SearchRun, retrieved: Retrieved, selection: Selection | None, ranked: Ranked) -> SearchReport:
    """How the answer came about."""
    return SearchReport(
        total_seconds=time.perf_counter() - run.started,
        stage_seconds=run.seconds,
        mode=run.settings.mode,
        dense_strategy=None if retrieved.candidates is None else retrieved.candidates.strategy,
        dense_candidates=0 if retrieved.dense is None else len(retrieved.dense.ranks),
        lexical_candidates=0 if retrieved.lexical is None else len(retrieved.lexical.ranks),
        fused_candidates=len(retrieved.fused.keys),
        reranked=len(ranked.reranked),
        filter_matches=None if selection is None else selection.matches,
        query_tokens=0 if run.embedding is None else run.embedding.tokens,
        query_truncated_tokens=0 if run.embedding is None else run.embedding.truncated_tokens,
        rerank_tokens=run.rerank_tokens,
        sequence=run.sequence,
        embedder="" if run.embedder is None else _versioned(run.embedder.info.name, run.embedder.info.revision),
        reranker="" if run.reranker is None else _versioned(run.reranker.info.name, run.reranker.info.revision),
        degradations=tuple(run.degradations),
    )


def _versioned(name: str, revision: str) -> str:
    return f"{name}@{revision[:12]}"
