"""The first stage: the filter, the lexical and the dense index, and their fusion.

Blocking; each call runs in one thread.
"""

from __future__ import annotations

from shortlist_server.domain import Degradation, DegradationKind, DenseCandidates, LexicalCandidates, RetrievalMode
from shortlist_server.pipeline.fusion import StageScores, fuse
from shortlist_server.pipeline.run import Retrieved, SearchRun
from shortlist_server.storage.base import Selection


def match(run: SearchRun) -> tuple[Selection | None, LexicalCandidates | None]:
    """Resolves the filter and asks the lexical index: all that needs no query vector."""
    selection = lexical = None
    if run.request.filter is not None:
        with run.stage("filter"):
            selection = run.collection.select(run.request.filter)
    if run.settings.mode is not RetrievalMode.DENSE:
        with run.stage("lexical"):
            wanted = max(run.settings.lexical_candidates, run.wanted)
            lexical = run.collection.lexical(run.request.text, wanted, selection)
    return selection, lexical


def retrieve(run: SearchRun, selection: Selection | None, lexical: LexicalCandidates | None) -> Retrieved:
    """Asks the dense index and fuses."""
    dense = candidates = None
    passages: dict[int, list[tuple[int, float]]] = {}
    if run.settings.mode is not RetrievalMode.LEXICAL:
        assert run.vector is not None
        with run.stage("dense"):
            candidates = run.collection.dense(
                run.vector, run.dense_candidates, selection, ef=run.settings.ef, exact=run.settings.exact
            )
            dense = by_document(candidates, passages)
            if lexical is not None:
                # With every cosine known, none has to be guessed when the two rankings are fused.
                unscored = [key for key in lexical.keys.tolist() if key not in dense.scores]
                known = by_document(run.collection.dense_scores(run.vector, unscored), passages)
                dense = StageScores(scores=dense.scores | known.scores, ranks=dense.ranks)
    with run.stage("fuse"):
        words = None
        if lexical is not None:
            keys = lexical.keys.tolist()
            words = StageScores(
                scores=dict(zip(keys, lexical.scores.tolist(), strict=True)),
                ranks={key: rank for rank, key in enumerate(keys, 1)},
            )
            if lexical.bounded:
                message = "the most frequent words of the query were left out of the lexical stage"
                run.degradations.append(Degradation(kind=DegradationKind.LEXICAL_BOUNDED, message=message))
        fused = fuse(
            dense, words, run.settings.fusion, dense_weight=run.settings.dense_weight, rrf_k=run.settings.rrf_k
        )
    return Retrieved(dense=dense, lexical=words, candidates=candidates, fused=fused, passages=passages)


def by_document(candidates: DenseCandidates, passages: dict[int, list[tuple[int, float]]]) -> StageScores:
    """Each document's best cosine and its rank by it; adds the passages to ``passages``."""
    scores: dict[int, float] = {}
    for label, key, score in zip(
        candidates.labels.tolist(), candidates.keys.tolist(), candidates.scores.tolist(), strict=True
    ):
        scores.setdefault(key, score)
        passages.setdefault(key, []).append((label, score))
    return StageScores(scores=scores, ranks={key: rank for rank, key in enumerate(scores, 1)})
