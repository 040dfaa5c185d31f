"""Documents on their way into a collection and out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist_server.domain.names import Vector


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A document as a client sends it. ``vector`` is the client's own, not yet normalised, or None."""

    id: str
    title: str = ""
    text: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    vector: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPassage:
    """A passage to store.

    Attributes:
        start, end: position in the document's text, in code points, end exclusive.
        vector: shape (dimension,), float32, norm 1.
        tokens: tokens that the embedder read.
        token_vectors: packed for late interaction in the format of ``inference/late_interaction.py``, or None.
    """

    start: int
    end: int
    vector: Vector
    tokens: int
    token_vectors: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Upsert:
    """Inserts or replaces a document.

    Attributes:
        passages: the document's passages in each generation, by the generation's number. The serving generation must be
            among them. Another one that is not among them lacks the document until its build adds it.
        content_hash: covers the document: equal hash, equal document.
    """

    document: Document
    passages: Mapping[int, Sequence[NewPassage]]
    content_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletion:
    """Deletes the document with this id, if it exists."""

    id: str


Change = Upsert | Deletion


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPosition:
    """Position of a named ingest stream, committed together with its changes."""

    stream: str
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A document that an ingest stream refused.

    Attributes:
        number: identifies the dead letter in the collection, from 1; 0 before it is stored.
        id: as the client sent it, well-formed or not.
        stream: "" for an unnamed stream.
        reason, message, field, retryable: of the error.
        document: as the edge serialised it; None when too large to keep.
    """

    number: int = 0
    id: str
    stream: str
    position: int
    time_seconds: float
    reason: str
    message: str
    field: str
    retryable: bool
    document: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What a commit did.

    Attributes:
        sequences: for each change, its sequence. Of several changes to one id in a commit, the last supersedes the
            others, and all have its sequence.
        superseded: for each change, whether a later one in the commit superseded it.
        existed: for each change, whether the id had a document before the commit.
        last_sequence: the collection's sequence after the commit.
    """

    sequences: Sequence[int]
    superseded: Sequence[bool]
    existed: Sequence[bool]
    last_sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Include:
    """Which parts of documents to read."""

    text: bool = True
    metadata: bool = True
    passages: bool = False
    vectors: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPassage:
    """A passage as stored. ``vector`` and ``token_vectors`` are set only on request."""

    passage_id: int
    key: int
    ordinal: int
    start: int
    end: int
    tokens: int
    vector: Vector | None = None
    token_vectors: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDocument:
    """A document as stored; parts not asked for are empty.

    Attributes:
        metadata_bytes: size of the metadata as JSON, about.
    """

    key: int
    id: str
    sequence: int
    passage_count: int
    title: str = ""
    text: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    metadata_bytes: int = 0
    passages: Sequence[StoredPassage] = ()
