"""The first stage: the filter, the lexical and the dense index, and their fusion.

Blocking; each call runs in one thread.
"""

from __future__ import annotations

import numpy as np

from shortlist_server.domain import Degradation, DegradationKind, FusionMethod, LexicalCandidates, RetrievalMode
from shortlist_server.pipeline.candidates import Candidates
from shortlist_server.pipeline.run import SearchRun
from shortlist_server.ranking.fusion import Floats, reciprocal_ranks, weighted_sum
from shortlist_server.storage.base import Selection


def match(run: SearchRun) -> tuple[Selection | None, LexicalCandidates | None]:
    """Resolves the filter and asks the lexical index: everything that needs no query vector."""
    selection = lexical = None
    if run.request.filter is not None:
        with run.stage("filter"):
            selection = run.collection.select(run.request.filter)
    if run.plan.mode is not RetrievalMode.DENSE:
        with run.stage("lexical"):
            lexical = run.collection.lexical(run.request.text, run.plan.lexical_candidates, selection)
    return selection, lexical


def retrieve(run: SearchRun, selection: Selection | None, lexical: LexicalCandidates | None) -> Candidates:
    """Asks the dense index, and fuses the two rankings."""
    found = known = None
    if run.plan.mode is not RetrievalMode.LEXICAL:
        assert run.vector is not None
        with run.stage("dense"):
            found = run.generation.dense(
                run.vector, run.plan.dense_candidates, selection, ef=run.plan.ef, exact=run.plan.exact
            )
            if lexical is not None:
                # Fusion then knows every cosine, and guesses none.
                known = run.generation.dense_scores(run.vector, np.setdiff1d(lexical.keys, found.keys).tolist())
    with run.stage("fuse"):
        table = Candidates.of(found, known, lexical)
        table.sort(_fused(run, table))
        if lexical is not None and lexical.bounded:
            message = "the lexical stage left out the most frequent words of the query"
            run.degradations.append(Degradation(kind=DegradationKind.LEXICAL_BOUNDED, message=message))
    return table


def _fused(run: SearchRun, table: Candidates) -> Floats:
    stages, plan = table.stages(), run.plan
    if plan.fusion is FusionMethod.RRF:
        return reciprocal_ranks([stage.ranks for stage in stages], plan.rrf_k)
    weights = (plan.dense_weight, 1 - plan.dense_weight) if len(stages) == 2 else (1.0,)
    return weighted_sum([stage.normalized for stage in stages], weights)
