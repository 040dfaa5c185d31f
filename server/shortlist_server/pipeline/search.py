"""A search: embed, retrieve, fuse, rerank, answer, in that order.

``Searcher.search`` is the whole path; every stage is one function below it, in the order they run. Coroutines run on
the server's event loop; what blocks runs in the thread pool that the composition root hands in.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from shortlist_server.domain import (
    Deadline,
    Degradation,
    DegradationKind,
    DenseCandidates,
    Hit,
    LexicalCandidates,
    Parts,
    PassageHit,
    RerankFailurePolicy,
    RerankScore,
    RetrievalMode,
    SearchReport,
    SearchRequest,
    SearchResult,
    StageScore,
    StoredDocument,
    Vector,
)
from shortlist_server.errors import (
    DeadlineExceeded,
    InvalidArgument,
    InvalidVector,
    ModelMismatch,
    SequenceNotReached,
    ShortlistError,
    UnsupportedByCollection,
)
from shortlist_server.inference.base import (
    LATE_INTERACTION,
    NO_MODEL,
    EmbedderService,
    ModelCatalog,
    QueryEmbedding,
    RerankCandidate,
    RerankerService,
    RerankQuery,
    RerankScores,
)
from shortlist_server.pipeline.fusion import Floats, Fused, StageScores, blend, fuse
from shortlist_server.pipeline.settings import SearchSettings, resolve
from shortlist_server.storage.base import CollectionStore, Selection, Store

T = TypeVar("T")

PASSAGES_PER_DOCUMENT = 3
"""Passages of one document that late interaction scores; a reranker that costs a forward pass scores the best one."""

ATTEMPTS = 3
"""How often a search is begun anew because a document it found was replaced before it could be read."""


@dataclass(slots=True)
class _Run:
    """One search under way: what it was asked, what it runs with and what it has spent."""

    request: SearchRequest
    deadline: Deadline
    collection: CollectionStore
    settings: SearchSettings
    embedder: EmbedderService | None
    reranker: RerankerService | None
    sequence: int
    started: float
    seconds: dict[str, float] = field(default_factory=dict)
    degradations: list[Degradation] = field(default_factory=list)
    embedding: QueryEmbedding | None = None
    rerank_tokens: int = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a stage, and refuses to begin it when the caller's time is up."""
        if self.deadline.passed():
            raise DeadlineExceeded(f"the deadline passed before the stage '{name}'", metadata={"stage": name})
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin

    @property
    def wanted(self) -> int:
        """Hits the answer needs, the skipped ones included."""
        return self.request.limit + self.request.offset

    @property
    def vector(self) -> Vector | None:
        """The query vector: the caller's own, else the embedding of the text."""
        if self.request.vector is not None:
            return self.request.vector
        return None if self.embedding is None else self.embedding.vector


@dataclass(frozen=True, slots=True, kw_only=True)
class _Retrieved:
    """What the first stage found. ``passages``: for each document its passages as (label, cosine), best first."""

    dense: StageScores | None
    lexical: StageScores | None
    candidates: DenseCandidates | None
    fused: Fused
    passages: dict[int, list[tuple[int, float]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ranked:
    """The final ranking: keys and scores, best first; rerank scores by key, and of passages by label."""

    keys: list[int]
    scores: list[float]
    reranked: dict[int, RerankScore]
    passages: dict[int, float]


class Searcher:
    """Answers searches over the collections of a store with the models of a catalog."""

    def __init__(self, store: Store, models: ModelCatalog, threads: Executor) -> None:
        self._store = store
        self._models = models
        self._threads = threads

    async def search(self, request: SearchRequest, deadline: Deadline) -> SearchResult:
        """The best documents for a query, with the scores and ranks of every stage.

        Raises:
            CollectionNotFound, ModelNotFound, ModelMismatch, InvalidArgument, InvalidVector, UnsupportedByCollection:
                the request does not fit the collection.
            SequenceNotReached: ``min_sequence`` lies beyond what was committed when time ran out.
            DeadlineExceeded: time ran out before an answer.
            Overloaded, InferenceFailed: a model could not embed the query, or rerank under the policy FAIL.
        """
        run = await self._begin(request, deadline)
        selection, lexical = await self._embed_and_match(run)
        for attempt in range(1, ATTEMPTS + 1):
            retrieved = await self._in_thread(_retrieve, run, selection, lexical)
            ranked = await self._rerank(run, retrieved)
            hits = await self._in_thread(_answer, run, retrieved, ranked, attempt == ATTEMPTS)
            if hits is not None:
                break
            run.sequence = run.collection.sequence
            run.degradations.clear()
            selection, lexical = await self._in_thread(_match, run)
        assert hits is not None
        return SearchResult(hits=hits, report=_report(run, retrieved, selection, ranked))

    async def _begin(self, request: SearchRequest, deadline: Deadline) -> _Run:
        started = time.perf_counter()
        collection = await self._in_thread(self._store.open, request.collection)
        await _reach(collection, request.min_sequence, deadline)
        config = collection.config
        if request.vector is not None and request.vector.shape != (config.dimension,):
            raise InvalidVector(
                f"the query vector has {request.vector.size} values, the collection has {config.dimension} dimensions",
                field="query.vector",
                metadata={"dimension": str(config.dimension)},
            )
        settings = resolve(
            request.settings,
            config.search_defaults,
            reranker=config.reranker,
            has_text=bool(request.text),
            has_vector=request.vector is not None or config.embedder != NO_MODEL,
        )
        _check_mode(settings.mode, request, embeds=config.embedder != NO_MODEL)
        reranker = self._choose_reranker(request, settings, collection)
        needs_vector = request.vector is None and (settings.mode is not RetrievalMode.LEXICAL or reranker is not None)
        needs_tokens = reranker is not None and reranker.info.uses_token_vectors
        embedder = None
        if config.embedder != NO_MODEL and request.text and (needs_vector or needs_tokens):
            embedder = self._models.embedder(config.embedder)
            check_revision(collection, embedder)
        return _Run(
            request=request,
            deadline=deadline,
            collection=collection,
            settings=settings,
            embedder=embedder,
            reranker=reranker,
            sequence=collection.sequence,
            started=started,
        )

    def _choose_reranker(
        self, request: SearchRequest, settings: SearchSettings, collection: CollectionStore
    ) -> RerankerService | None:
        if settings.rerank is False:
            return None
        demanded = request.settings.rerank is True or request.settings.reranker is not None
        if settings.reranker == NO_MODEL or not request.text:
            if request.settings.rerank is True:
                raise InvalidArgument(
                    "reranking needs a query text and a reranker; the collection has none, so name one in rerank.model"
                    if request.text
                    else "reranking needs a query text",
                    field="rerank.enabled",
                )
            return None
        reranker = self._models.reranker(settings.reranker)
        embedder = collection.config.embedder
        if reranker.info.uses_token_vectors and (
            embedder == NO_MODEL or not self._models.embedder(embedder).info.token_vectors
        ):
            if demanded:
                raise UnsupportedByCollection(
                    f"'{LATE_INTERACTION}' needs token vectors, which embedder '{embedder}' does not give",
                    field="rerank.model",
                )
            return None
        return reranker

    async def _embed_and_match(self, run: _Run) -> tuple[Selection | None, LexicalCandidates | None]:
        """Embeds the query while a thread resolves the filter and asks the lexical index."""
        if run.embedder is None:
            return await self._in_thread(_match, run)
        matched, _ = await asyncio.gather(self._in_thread(_match, run), _embed(run, run.embedder))
        return matched

    async def _rerank(self, run: _Run, retrieved: _Retrieved) -> _Ranked:
        fused = retrieved.fused
        unranked = _Ranked(keys=fused.keys, scores=fused.scores.tolist(), reranked={}, passages={})
        if run.reranker is None or not fused.keys:
            return unranked
        info = run.reranker.info
        depth = run.settings.rerank_depth or info.default_depth
        labels, candidates = await self._in_thread(_fetch, run, retrieved, fused.keys[:depth])
        if not candidates:
            return unranked
        try:
            with run.stage("rerank"):
                scores = await run.reranker.rerank(
                    RerankQuery(
                        text=run.request.text,
                        instruction=run.settings.rerank_instruction or run.request.instruction,
                        token_vectors=None if run.embedding is None else run.embedding.token_vectors,
                    ),
                    candidates,
                    Deadline.after(max(0.0, run.deadline.left_seconds()) * run.settings.rerank_deadline_share),
                )
        except ShortlistError as error:
            if run.settings.rerank_on_failure is RerankFailurePolicy.FAIL or run.deadline.passed():
                raise
            late = isinstance(error, DeadlineExceeded)
            kind = DegradationKind.RERANK_SKIPPED if late else DegradationKind.RERANK_FAILED
            run.degradations.append(Degradation(kind=kind, message=error.message))
            return unranked
        run.rerank_tokens += scores.tokens
        if len(scores.scores) < len(candidates):
            _note_partial(run, len(scores.scores), len(candidates))
        weight = info.default_weight if run.settings.rerank_weight is None else run.settings.rerank_weight
        return _blended(fused, depth, labels, scores, weight)

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


def check_revision(collection: CollectionStore, embedder: EmbedderService) -> None:
    """Raises ``ModelMismatch`` unless the embedder is the one that made the collection's vectors."""
    stored, loaded = collection.config.embedder_revision, embedder.info.revision
    if stored != loaded:
        raise ModelMismatch(
            f"collection '{collection.name}' was made with revision {stored[:12]} of embedder "
            f"'{embedder.info.name}', the server has {loaded[:12]}; serve the former model under that name, or make a "
            "new collection and ingest the documents again",
            metadata={"stored_revision": stored, "loaded_revision": loaded},
        )


async def _reach(collection: CollectionStore, sequence: int | None, deadline: Deadline) -> None:
    while sequence is not None and collection.sequence < sequence:
        if deadline.passed():
            raise SequenceNotReached(
                f"the collection is at sequence {collection.sequence}, not yet at {sequence}",
                field="min_sequence",
                metadata={"sequence": str(collection.sequence)},
            )
        await asyncio.sleep(min(0.01, max(0.0, deadline.left_seconds())))


def _check_mode(mode: RetrievalMode, request: SearchRequest, *, embeds: bool) -> None:
    if mode is not RetrievalMode.DENSE and not request.text:
        raise InvalidArgument(f"mode {mode.value} needs a query text", field="query.text")
    if mode is not RetrievalMode.LEXICAL and request.vector is None and not embeds:
        raise UnsupportedByCollection(
            "the collection has no embedder: send query.vector, or search with mode lexical", field="query.vector"
        )


async def _embed(run: _Run, embedder: EmbedderService) -> None:
    with run.stage("embed"):
        run.embedding = await embedder.embed_query(
            run.request.text,
            instruction=run.request.instruction or run.collection.config.query_instruction,
            dimension=run.collection.config.dimension,
            deadline=run.deadline,
        )


def _match(run: _Run) -> tuple[Selection | None, LexicalCandidates | None]:
    selection = lexical = None
    if run.request.filter is not None:
        with run.stage("filter"):
            selection = run.collection.select(run.request.filter)
    if run.settings.mode is not RetrievalMode.DENSE:
        with run.stage("lexical"):
            wanted = max(run.settings.lexical_candidates, run.wanted)
            lexical = run.collection.lexical(run.request.text, wanted, selection)
    return selection, lexical


def _retrieve(run: _Run, selection: Selection | None, lexical: LexicalCandidates | None) -> _Retrieved:
    dense = candidates = None
    passages: dict[int, list[tuple[int, float]]] = {}
    if run.settings.mode is not RetrievalMode.LEXICAL:
        assert run.vector is not None
        with run.stage("dense"):
            wanted = max(run.settings.dense_candidates, run.wanted)
            candidates = run.collection.dense(
                run.vector, wanted, selection, ef=run.settings.ef, exact=run.settings.exact
            )
            dense = _by_document(candidates, passages)
            if lexical is not None:
                # With every cosine known, none has to be guessed when the two rankings are fused.
                unscored = [key for key in lexical.keys.tolist() if key not in dense.scores]
                known = _by_document(run.collection.dense_scores(run.vector, unscored), passages)
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
    return _Retrieved(dense=dense, lexical=words, candidates=candidates, fused=fused, passages=passages)


def _by_document(candidates: DenseCandidates, passages: dict[int, list[tuple[int, float]]]) -> StageScores:
    """Each document's best cosine and its rank by it; adds the passages to ``passages``."""
    scores: dict[int, float] = {}
    for label, key, score in zip(
        candidates.labels.tolist(), candidates.keys.tolist(), candidates.scores.tolist(), strict=True
    ):
        scores.setdefault(key, score)
        passages.setdefault(key, []).append((label, score))
    return StageScores(scores=scores, ranks={key: rank for rank, key in enumerate(scores, 1)})


def _fetch(
    run: _Run, retrieved: _Retrieved, keys: Sequence[int]
) -> tuple[list[tuple[int, int]], list[RerankCandidate]]:
    """The passages to rerank as (key, label), document after document in fused order, and what the reranker reads."""
    assert run.reranker is not None
    with run.stage("fetch"):
        uses_tokens = run.reranker.info.uses_token_vectors
        each = PASSAGES_PER_DOCUMENT if uses_tokens else 1
        unknown = [key for key in keys if key not in retrieved.passages]
        if unknown and run.vector is not None:
            _by_document(run.collection.dense_scores(run.vector, unknown), retrieved.passages)
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


def _note_partial(run: _Run, scored: int, asked: int) -> None:
    message = f"time allowed {scored} of {asked} passages to be reranked"
    if run.settings.rerank_on_failure is RerankFailurePolicy.FAIL:
        raise DeadlineExceeded(message, metadata={"stage": "rerank"})
    run.degradations.append(Degradation(kind=DegradationKind.RERANK_PARTIAL, message=message))


def _blended(
    fused: Fused, depth: int, labels: Sequence[tuple[int, int]], scores: RerankScores, weight: float
) -> _Ranked:
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
    return _Ranked(
        keys=[shortlist[i] for i in order] + fused.keys[depth:],
        scores=[float(final[i]) for i in order] + fused.scores[depth:].tolist(),
        reranked=reranked,
        passages={label: float(score) for (_, label), score in zip(labels, scores.scores, strict=False)},
    )


def _answer(run: _Run, retrieved: _Retrieved, ranked: _Ranked, last_attempt: bool) -> list[Hit] | None:
    """The hits asked for; None when one of them was replaced since it was found, and the search should begin anew."""
    request = run.request
    with run.stage("group"):
        chosen = [
            (key, score)
            for key, score in zip(ranked.keys, ranked.scores, strict=True)
            if request.min_score is None or score >= request.min_score
        ][request.offset : run.wanted]
        parts = Parts(text=request.parts.text or request.parts.passages, metadata=request.parts.metadata)
        documents = run.collection.documents([key for key, _ in chosen], parts)
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
                dense=_stage_score(key, retrieved.dense, retrieved.fused.dense),
                lexical=_stage_score(key, retrieved.lexical, retrieved.fused.lexical),
                fused=StageScore(score=fused_scores[key], rank=fused_ranks[key], normalized=fused_scores[key]),
                rerank=ranked.reranked.get(key),
                document=documents[key],
                passages=matched.get(key, ()),
            )
            for rank, (key, score) in enumerate(chosen, request.offset + 1)
        ]


def _matched_passages(
    run: _Run, retrieved: _Retrieved, ranked: _Ranked, keys: Sequence[int]
) -> dict[int, list[PassageHit]]:
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
        passages.sort(key=lambda hit: (hit.rerank_score is None, -(hit.rerank_score or 0), -(hit.dense_score or 0)))
    return hits


def _stage_score(key: int, stage: StageScores | None, normalized: dict[int, float]) -> StageScore | None:
    if stage is None or key not in stage.scores:
        return None
    return StageScore(score=stage.scores[key], rank=stage.ranks.get(key, 0), normalized=normalized[key])


def _report(run: _Run, retrieved: _Retrieved, selection: Selection | None, ranked: _Ranked) -> SearchReport:
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
