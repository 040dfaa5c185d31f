"""A reindex: its request, its estimate and its progress."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class NewGeneration:
    """The request of a caller; "", 0 and None mean what the proto says of a field that is not set."""

    embedder: str = ""
    dimension: int = 0
    max_tokens: int | None = None
    overlap_tokens: int | None = None
    query_instruction: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReindexProgress:
    """The progress of a reindex.

    Attributes:
        documents_per_second, tokens_per_second: over the last minute.
        remaining_seconds: at this rate; None while no rate is known.
        paused: a sentence that says why it does nothing now; "" while it runs, and when it is done.
    """

    done_documents: int
    total_documents: int
    done_tokens: int
    failed_documents: int
    documents_per_second: float
    tokens_per_second: float
    remaining_seconds: float | None
    disk_bytes: int
    paused: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReindexEstimate:
    """What a reindex will need, estimated from a sample of the collection's documents.

    Attributes:
        duration_seconds: while nothing else runs.
        disk_bytes: of the new generation.
        free_disk_bytes: on the disk now, without what the server keeps back.
        memory_bytes: memory that searches of the new generation will need.
        free_memory_bytes: of the machine now; 0 where the system does not say.
    """

    document_count: int
    passage_count: int
    token_count: int
    duration_seconds: float
    disk_bytes: int
    free_disk_bytes: int
    memory_bytes: int
    free_memory_bytes: int
    sampled_documents: int
