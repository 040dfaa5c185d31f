"""Collections and the settings of searches, as values.

Frozen and without behaviour; safe to share between threads. ``None`` and "" mean "not set here": the next level decides
(request, then collection, then server).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

RetrievalMode = Literal["hybrid", "dense", "lexical"]
"""Which indexes a search asks: both, the vectors, or the words."""

FusionMethod = Literal["weighted_sum", "rrf"]
"""How two rankings become one: weighted normalised scores, or reciprocal ranks."""

FailurePolicy = Literal["degrade", "fail"]
"""What happens when a rerank stage fails: go on with the order that it found and say so, or fail the call."""

OverflowPolicy = Literal["chunk", "truncate", "error"]
"""What happens to text that does not fit one passage: more passages, cut it and say so, or refuse the document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """How many documents each index returns, and how thoroughly the dense index searches.

    Attributes:
        dense, lexical: documents from each index, 1 to 1,000; the server's default is 100.
        ef: width of the HNSW search, 1 to 10,000; chosen by the server, to meet the recall target, when not set.
        exact: score every vector instead of using HNSW.
    """

    dense: int | None = None
    lexical: int | None = None
    ef: int | None = None
    exact: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fusion:
    """How two rankings become one.

    Attributes:
        method: "weighted_sum" by default.
        dense_weight: weight of the dense score in "weighted_sum", 0 to 1; 0.6 by default.
        rrf_k: constant of "rrf", 1 to 1,000; 60 by default.
    """

    method: FusionMethod | None = None
    dense_weight: float | None = None
    rrf_k: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankStage:
    """One of several rerank stages.

    Attributes:
        model: name of the reranker; "" for the collection's.
        depth: how many documents, from the top of the ranking before the stage, it reranks, 1 to 1,000; the reranker's
            own by default. Independent of the limit.
        weight: share of the rerank score in the score after the stage, 0 to 1; the reranker's own by default.
        instruction: for rerankers that take one; "" for the request's.
        deadline_share: share of the time left at its start that the stage may use, above 0 to 1; by default 0.8
            divided by the number of stages that have not run yet.
    """

    model: str = ""
    depth: int | None = None
    weight: float | None = None
    instruction: str = ""
    deadline_share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerank:
    """Reranking, in one stage or several.

    Attributes:
        enabled: by default true where the collection has a reranker.
        model, depth, weight, instruction, deadline_share: of one stage, as in ``RerankStage``; of the last stage where
            the collection presets several.
        on_failure: "degrade" by default.
        stages: several stages in their order, at most 4, instead of the settings of one; they replace the collection's.
    """

    enabled: bool | None = None
    model: str = ""
    depth: int | None = None
    weight: float | None = None
    instruction: str = ""
    on_failure: FailurePolicy | None = None
    deadline_share: float | None = None
    stages: tuple[RerankStage, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchDefaults:
    """What a collection presets for its searches; the fields mean what the parameters of ``search`` mean.

    Attributes:
        recall_target: share of the ten nearest documents that searches should find, 0 to 1; 0.98 by default. Where the
            server finds less by checks in the background, it raises the ``ef`` of searches that set none; with 0 never.
    """

    mode: RetrievalMode | None = None
    candidates: Candidates = Candidates()
    fusion: Fusion = Fusion()
    rerank: Rerank = Rerank()
    recall_target: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunking:
    """How a document is cut into passages, in tokens of the embedder.

    Attributes:
        max_tokens: tokens of a passage, title and special tokens included; 0 for the server's default.
        overlap_tokens: tokens a passage shares with the one before; an eighth of ``max_tokens`` by default.
    """

    max_tokens: int = 0
    overlap_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionConfig:
    """What a collection is made with; in a ``Collection`` every default is filled in but those of ``search_defaults``.

    Attributes:
        embedder: one of the embedders the server was started with, "none" for caller-made vectors only, "" for the
            server's default.
        dimension: size of the vectors; 0 for the embedder's own, required with embedder "none".
        reranker: "late-interaction", "none", a model the server was started with, or "" for the server's default.
        chunking: how documents are cut into passages.
        overflow: what happens to text that does not fit one passage; "chunk" by default.
        filterable_fields: metadata paths that are indexed for filters, at most 32; others can be filtered on too, more
            slowly.
        search_defaults: presets of the collection's searches.
        query_instruction: put before queries by embedders that take one; "" for the model's default.
    """

    embedder: str = ""
    dimension: int = 0
    reranker: str = ""
    chunking: Chunking = Chunking()
    overflow: OverflowPolicy | None = None
    filterable_fields: tuple[str, ...] = ()
    search_defaults: SearchDefaults = SearchDefaults()
    query_instruction: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """A collection and its size at one moment.

    Attributes:
        create_time: when it was made, in UTC.
        sequence: number of the last commit; 0 for a new collection.
        document_count, passage_count: live ones.
        segment_passage_count: passages in published segments; the rest are searched exactly.
        disk_bytes: size of its folder.
        embedder_revision: revision of the model the vectors were made with.
        effective_search_defaults: what a search runs with where its call sets nothing: the presets, completed with the
            defaults of the reranker and of the server. ``candidates.ef`` is None unless it is preset; see ``recall``.
        etag: identifies the settings; another one after each change of them. See ``update_collection``.
        problem: why the collection cannot be used, a sentence; "" where it can. A list has a damaged collection with
            its name and this alone, everything else being empty.
        generation: number of the generation that serves. ``config``, ``embedder_revision`` and the counts of passages
            and segments are its own; see ``generations``.
        notice: a sentence that says that the server has a newer revision of its model, or lacks the stored one; else
            "". See ``reindex``.
    """

    name: str
    config: CollectionConfig
    create_time: datetime
    sequence: int
    document_count: int
    passage_count: int
    segment_passage_count: int
    segment_count: int
    disk_bytes: int
    embedder_revision: str
    effective_search_defaults: SearchDefaults
    etag: str
    problem: str = ""
    generation: int = 0
    notice: str = ""
