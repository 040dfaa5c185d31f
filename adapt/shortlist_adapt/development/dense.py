"""The figure of an embedder: nDCG@10 of its dense ranking of a sample of the corpus, on the development queries.

The sample holds the answers of these queries, as many of their hard negatives as fit, and documents drawn at random
where room is left. Passages, prompts and vectors are the server's own. A document that a query was cut from is seen as
training may show it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shortlist_adapt.corpus import Corpus, draw
from shortlist_adapt.development.engines import open_embedder
from shortlist_adapt.development.figures import Figure, kept, mean
from shortlist_adapt.folder import RunFolder, fingerprint
from shortlist_adapt.hiding import visible
from shortlist_adapt.progress import Progress
from shortlist_adapt.records import CorpusDocument, Split, TrainingPair, TrainingQuery, read_lines
from shortlist_server.domain import Chunking, OverflowPolicy
from shortlist_server.inference.base import Embedder, PassageText, QueryText
from shortlist_server.inference.head import normalize
from shortlist_server.ranking.measures import judge_each

Floats = NDArray[np.float32]

SAMPLE = 2000
"""Documents in the sample, unless the queries' answers are more."""

_BATCH_TOKENS = 4096
_BATCH_QUERIES = 32
_MEASURE = "ndcg_at_10"
_RANKED = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseDevelopment:
    """What embedders are measured on.

    Attributes:
        queries: the development queries.
        documents: the sample of the corpus.
        hidden: by query id, the documents that hold the query word for word, without that part.
    """

    queries: tuple[TrainingQuery, ...]
    documents: tuple[CorpusDocument, ...]
    hidden: Mapping[str, tuple[CorpusDocument, ...]]


def read_development(folder: RunFolder, *, seed: int, sample: int = SAMPLE) -> DenseDevelopment:
    """The development queries of a run and the sample of its corpus; the same for the same seed and files.

    Raises:
        InvalidInput: a file is missing or malformed.
    """
    queries = [one for one in read_lines(folder.queries, TrainingQuery) if one.split is Split.DEVELOPMENT]
    negatives = [query.rejected for query in queries]
    if folder.pairs.is_file():
        pairs = (pair for pair in read_lines(folder.pairs, TrainingPair) if pair.split is Split.DEVELOPMENT)
        negatives += [pair.negative_ids for pair in pairs]
    # Round by round, so that each query has some of its hardest ones where not all fit.
    hard = (one for round in itertools.zip_longest(*negatives) for one in round if one is not None)
    with Corpus(folder.corpus) as corpus:
        drawn = sorted(corpus, key=lambda one: (draw(seed, "development", one), one))
        chosen = {one for query in queries for one in query.positives if one in corpus}
        for one in itertools.chain(hard, drawn):
            if len(chosen) >= sample:
                break
            if one in corpus:
                chosen.add(one)
        documents = {one: corpus[one] for one in corpus if one in chosen}
    kept_queries = tuple(query for query in queries if not documents.keys().isdisjoint(query.positives))
    hidden = {}
    for query in kept_queries:
        shown = [_shown(documents[one], query) for one in query.positives if one in documents]
        if cut := tuple(document for document in shown if document != documents[document.id]):
            hidden[query.id] = cut
    return DenseDevelopment(queries=kept_queries, documents=tuple(documents.values()), hidden=hidden)


def dense_figure(
    folder: RunFolder,
    model: Path,
    development: DenseDevelopment,
    progress: Progress,
    *,
    chunking: Chunking | None = None,
    instruction: str = "",
    dimension: int = 0,
    device: str = "auto",
    threads: int = 0,
) -> Figure:
    """The figure of the embedder in the folder ``model``, from the run's cache or measured.

    Args:
        chunking: passages; None for those that suit the model.
        instruction: instruction for the queries of models that take one.
        dimension: size that vectors are cut to; 0 for the whole.

    Raises:
        InvalidInput: the server would refuse the model.
    """
    settings = {"chunking": chunking and asdict(chunking), "instruction": instruction, "dimension": dimension}
    task = fingerprint({"development": asdict(development), **settings})

    def measure() -> Figure:
        embedder = open_embedder(model, device=device, threads=threads)
        return measure_dense(
            embedder, development, progress, chunking=chunking, instruction=instruction, dimension=dimension
        )

    return kept(folder, model, task, measure)


def measure_dense(
    embedder: Embedder,
    development: DenseDevelopment,
    progress: Progress,
    *,
    chunking: Chunking | None = None,
    instruction: str = "",
    dimension: int = 0,
) -> Figure:
    """The figure of an embedder. Arguments: see ``dense_figure``."""
    documents = [*development.documents, *(one for cut in development.hidden.values() for one in cut)]
    chunking = chunking or embedder.info.default_chunking
    cuts = [embedder.cut(one.title, one.text, chunking, OverflowPolicy.CHUNK).passages for one in documents]
    passages = [passage for cut in cuts for passage in cut]
    progress.begin("measuring the embedder", len(passages), "passages")
    passage_vectors = _shortened(_embed_passages(embedder, passages, progress), dimension)
    query_vectors = _shortened(_embed_queries(embedder, development.queries, instruction), dimension)
    scores = query_vectors @ passage_vectors.T
    best = np.full((len(development.queries), len(documents)), -np.inf, dtype=np.float32)
    filled = [place for place, cut in enumerate(cuts) if cut]
    starts = np.cumsum([0, *(len(cuts[place]) for place in filled)])[:-1]
    best[:, filled] = np.maximum.reduceat(scores, starts, axis=1)
    grades = {query.id: dict(query.positives) for query in development.queries}
    judged = judge_each(_rankings(best, development), grades, [_MEASURE])
    return mean({query: values[_MEASURE] for query, values in judged.items()})


def _embed_passages(embedder: Embedder, passages: Sequence[PassageText], progress: Progress) -> Floats:
    """Vectors of the passages, shape (passages, dimension); passages of similar length share a batch."""
    order = sorted(range(len(passages)), key=lambda row: (-passages[row].tokens, row))
    vectors = np.empty((len(passages), embedder.info.dimension), dtype=np.float32)
    start = 0
    while start < len(order):
        rows = order[start : start + max(_BATCH_TOKENS // max(passages[order[start]].tokens, 1), 1)]
        for row, made in zip(
            rows, embedder.embed_passages([passages[row].content for row in rows], token_vectors=False), strict=True
        ):
            if isinstance(made, Exception):
                raise made
            vectors[row] = made.vector
        start += len(rows)
        progress.advance(len(rows))
    return vectors


def _embed_queries(embedder: Embedder, queries: Sequence[TrainingQuery], instruction: str) -> Floats:
    """Vectors of the queries, shape (queries, dimension)."""
    vectors = np.empty((len(queries), embedder.info.dimension), dtype=np.float32)
    for start in range(0, len(queries), _BATCH_QUERIES):
        batch = [QueryText(text=one.text, instruction=instruction) for one in queries[start : start + _BATCH_QUERIES]]
        vectors[start : start + len(batch)] = [made.vector for made in embedder.embed_queries(batch)]
    return vectors


def _shortened(vectors: Floats, dimension: int) -> Floats:
    """The first components of the vectors, with norm 1 again."""
    return normalize(vectors[:, :dimension]) if dimension else vectors


def _rankings(best: Floats, development: DenseDevelopment) -> dict[str, list[str]]:
    """The ten best documents of each query, by query id.

    Args:
        best: shape (queries, documents + hidden): the cosine of each document's best passage.
    """
    places = {document.id: place for place, document in enumerate(development.documents)}
    following = len(places)
    instead: dict[str, list[tuple[int, int]]] = {}
    for query_id, cut in development.hidden.items():
        instead[query_id] = [(places[document.id], following + number) for number, document in enumerate(cut)]
        following += len(cut)
    rankings = {}
    for row, query in enumerate(development.queries):
        scores = best[row, : len(places)].copy()
        for place, column in instead.get(query.id, ()):
            scores[place] = best[row, column]
        order = np.argsort(-scores, kind="stable")[:_RANKED]
        rankings[query.id] = [development.documents[place].id for place in order]
    return rankings


def _shown(document: CorpusDocument, query: TrainingQuery) -> CorpusDocument:
    title, text = visible(document, query)
    return replace(document, title=title, text=text)
