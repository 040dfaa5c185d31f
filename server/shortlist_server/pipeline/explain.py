"""The explanation of a search: its settings, what became of every candidate, and what the models read.

Blocking; runs in one thread after the answer is made, when the request asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping

from shortlist_server.domain import (
    CandidateOutcome,
    ExplainedCandidate,
    ExplainedTexts,
    Explanation,
    Include,
    RerankedPassage,
    RerankOutcome,
    SearchRequest,
)
from shortlist_server.pipeline.candidates import Candidates
from shortlist_server.pipeline.run import SearchRun, Shortlist


def explain(run: SearchRun, table: Candidates) -> Explanation:
    """The explanation; reads the id of every candidate from the store."""
    documents = run.generation.documents(table.keys.tolist(), Include(text=False, metadata=False))
    ids = {key: document.id for key, document in documents.items()}
    of_stages = [_rerank_outcomes(shortlist, len(table)) for shortlist in run.shortlists]
    candidates = []
    passed = 0
    for rank, row in enumerate(table.order.tolist(), start=1):
        score = float(table.final[row])
        outcome = _outcome(run.request, score, passed)
        passed += outcome is not CandidateOutcome.BELOW_MIN_SCORE
        candidates.append(
            ExplainedCandidate(
                id=ids.get(int(table.keys[row]), ""),
                rank=rank,
                score=score,
                dense=None if table.dense is None else table.dense.at(row),
                lexical=None if table.lexical is None else table.lexical.at(row),
                fused=table.fused_at(row),
                reranks=table.reranks_at(row),
                outcome=outcome,
                rerank_outcomes=[outcomes[row] for outcomes in of_stages],
            )
        )
    plan, found = run.plan, table.found
    return Explanation(
        candidates=candidates,
        dense_candidates=plan.dense_candidates,
        lexical_candidates=plan.lexical_candidates,
        fusion=plan.fusion,
        dense_weight=plan.dense_weight,
        rrf_k=plan.rrf_k,
        dense_passages=0 if found is None else found.asked,
        dense_sources=() if found is None else found.sources,
        texts=_texts(run, table, ids) if run.request.explain_texts else None,
    )


def _rerank_outcomes(shortlist: Shortlist, size: int) -> list[RerankOutcome]:
    """What a rerank stage did with each of ``size`` candidates."""
    outcomes = [RerankOutcome.BEYOND_DEPTH] * size
    for row in shortlist.rows.tolist():
        outcomes[row] = RerankOutcome.NOTHING_TO_READ
    for row in shortlist.passage_rows.tolist():
        outcomes[row] = RerankOutcome.FAILED if shortlist.failed else RerankOutcome.OUT_OF_TIME
    for row in shortlist.passage_rows[: shortlist.scored].tolist():
        outcomes[row] = RerankOutcome.SCORED
    return outcomes


def _texts(run: SearchRun, table: Candidates, ids: Mapping[int, str]) -> ExplainedTexts:
    plan, query = run.plan, ""
    if plan.embedder is not None:
        query = plan.embedder.render_query(run.request.text, instruction=plan.instruction, deadline=run.deadline)
    return ExplainedTexts(
        query=query,
        passages=[passage for shortlist in run.shortlists for passage in _read(run, table, shortlist, ids)],
    )


def _read(run: SearchRun, table: Candidates, shortlist: Shortlist, ids: Mapping[int, str]) -> list[RerankedPassage]:
    """What the reranker of a stage read of each passage that it scored."""
    scored, stage = shortlist.scored, shortlist.stage
    if not scored:
        return []
    passage_ids = shortlist.passage_ids[:scored].tolist()
    keys = table.keys[shortlist.passage_rows[:scored]].tolist()
    stored = run.generation.passages(passage_ids)
    rendered = stage.reranker.render(run.rerank_query(stage), shortlist.inputs[:scored])
    return [
        RerankedPassage(
            stage=stage.number,
            id=ids.get(key, ""),
            ordinal=stored[passage_id].ordinal if passage_id in stored else 0,
            text=one.text,
            token_vectors=one.token_vectors,
        )
        for key, passage_id, one in zip(keys, passage_ids, rendered, strict=True)
    ]


def _outcome(request: SearchRequest, score: float, passed: int) -> CandidateOutcome:
    """What becomes of a candidate after ``passed`` others that reached ``min_score``."""
    if request.min_score is not None and score < request.min_score:
        return CandidateOutcome.BELOW_MIN_SCORE
    if passed < request.offset:
        return CandidateOutcome.SKIPPED
    return CandidateOutcome.RETURNED if passed < request.offset + request.limit else CandidateOutcome.BEYOND_LIMIT
