"""The answers to operators' calls, as values.

Frozen, safe to share between threads. ``_admin_convert`` makes them from the proto, whose names they have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from shortlist._search_types import ModelVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderModel:
    """An embedder that a server serves.

    Attributes:
        name: as in ``CollectionConfig.embedder``.
        revision: digest over weights, tokenizer, prompts and pooling; its number format is not part of it.
        dimension: of its full vectors.
        min_dimension: smallest dimension its vectors may be cut to; equal to ``dimension`` where they may not.
        max_tokens: its window.
        token_vectors: whether it gives token vectors for late interaction.
        takes_instruction: whether queries may carry an instruction.
        query_prompt: what it puts in front of a query that carries no instruction; "" for nothing.
        passage_prompt: what it puts in front of a passage; "" for nothing.
        number_format: what it computes in: int8, float32 or bfloat16.
        number_format_note: why it is not the preferred format; else "".
    """

    name: str
    revision: str
    dimension: int
    min_dimension: int
    max_tokens: int
    token_vectors: bool
    takes_instruction: bool
    query_prompt: str = ""
    passage_prompt: str = ""
    number_format: str = ""
    number_format_note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankerModel:
    """A reranker that a server serves.

    Attributes:
        name: as in ``CollectionConfig.reranker``.
        revision: digest over its weights and tokenizer; its number format is not part of it.
        takes_instruction: whether queries may carry an instruction.
        default_weight: weight of its score unless a request says otherwise, 0 to 1.
        default_depth: documents it reranks unless a request says otherwise.
        number_format, number_format_note: as in ``EmbedderModel``.
    """

    name: str
    revision: str
    takes_instruction: bool
    default_weight: float
    default_depth: int
    number_format: str = ""
    number_format_note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """What a server is and serves.

    Attributes:
        version: its release, as in "0.1.0".
        start_time: since when it has been ready, in UTC.
        startup_seconds: from the start of its process to being ready.
        embedders, rerankers: the models; the first of each is the default.
        collection_count: collections it has.
    """

    version: str
    start_time: datetime
    startup_seconds: float
    embedders: tuple[EmbedderModel, ...]
    rerankers: tuple[RerankerModel, ...]
    collection_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallEstimate:
    """Estimated share of the ten nearest documents that callers' searches find.

    Covers searches through an HNSW graph that set no ``ef``. Other searches are exact, or use the ``ef`` that they set.

    Attributes:
        ef: width of such searches now.
        recall: the mean over the queries checked with this ``ef``, 0 to 1; None before the first.
        lower, upper: its 95 % confidence interval; 0 and 1 before the first check.
        query_count: queries the estimate rests on, the latest, at most 500.
        check_count: queries checked since the server started, with any ``ef``.
    """

    ef: int
    recall: float | None
    lower: float
    upper: float
    query_count: int
    check_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionRecall:
    """The recall of a collection's searches without and with a filter, and the ``target`` it is to meet."""

    target: float
    unfiltered: RecallEstimate
    filtered: RecallEstimate


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyProgress:
    """The step that a verification has reached, such as "database", and the collection."""

    collection: str
    step: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyCheck:
    """One thing that was checked; ``detail`` says what is wrong when it does not hold."""

    name: str
    ok: bool
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What a verification found in a collection.

    Attributes:
        ok: whether every check holds.
        document_count, passage_count: live ones.
        segment_passage_count, growing_passage_count: where the live passages are.
        sampled_count: vectors that were looked up by themselves.
        reached_count: those that were found.
        repairs: what was repaired, a sentence each.
        notes: what else is to be known, a sentence each.
    """

    collection: str
    ok: bool
    checks: tuple[VerifyCheck, ...]
    document_count: int = 0
    passage_count: int = 0
    segment_passage_count: int = 0
    growing_passage_count: int = 0
    sampled_count: int = 0
    reached_count: int = 0
    repairs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[VerifyCheck, ...]:
        """The checks that do not hold."""
        return tuple(check for check in self.checks if not check.ok)


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyProgress:
    """Progress of a backup or a restore, in bytes of the collection that it copies. The total may grow.

    Attributes:
        note: a remark, such as that the backup has no checksums; usually empty.
    """

    collection: str
    done_bytes: int
    total_bytes: int
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupCollection:
    """A collection in a backup, as of the commit ``sequence``.

    Attributes:
        models: names of the models that it needs where it is restored; a backup has none of them. Empty in backups of
            earlier releases.
    """

    name: str
    sequence: int
    document_count: int
    passage_count: int
    disk_bytes: int
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A complete backup in the server's backup folder; ``create_time`` is in UTC."""

    name: str
    create_time: datetime
    collections: tuple[BackupCollection, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateProgress:
    """How far an evaluation is, in searches."""

    done_searches: int
    total_searches: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingQuality:
    """Measures of a ranking, 0 to 1, as trec_eval defines them.

    Attributes:
        ndcg_at_10: normalised discounted cumulative gain of the first 10.
        recall_at_100: relevant documents among the first 100, of all relevant ones.
        mrr_at_10: one over the rank of the first relevant document, if that is among the first 10.
    """

    ndcg_at_10: float
    recall_at_100: float
    mrr_at_10: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateReport:
    """What was measured with one of the settings.

    Attributes:
        setting: its place among those asked for, from 0.
        rankings: by ranking, "dense", "lexical", "fused" and "final", the mean over all queries. Without an embedder
            there are only "lexical" and "final".
        queries: the same of each query by its id, when asked for.
        sequence: the searches were at least as new as this commit.
        embedder: the model that embedded the queries, with its whole revision; None when none did.
        rerankers: those of the final searches, in the order of the stages.
        degraded_searches: searches of the final ranking that ran degraded.
    """

    setting: int
    rankings: Mapping[str, RankingQuality]
    queries: Mapping[str, Mapping[str, RankingQuality]]
    sequence: int
    embedder: ModelVersion | None
    rerankers: tuple[ModelVersion, ...]
    degraded_searches: int
