"""Documents, as values.

Frozen and without behaviour; safe to share between threads. ``_convert`` translates them to and from the proto, whose
names they have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


class Array(Protocol):
    """What arrays of numpy and torch have in common; neither is a ``Sequence``."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...

    def tolist(self) -> Any:
        """The values as a list."""


Vector = Sequence[float] | Array
"""An embedding, shape (dimension,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A document: what is put in and what a search returns.

    Attributes:
        id: identifier, unique in the collection: 1 to 512 bytes of UTF-8 without control characters. Putting a document
            whose id exists replaces it.
        title: part of every passage and of its own, heavier lexical column.
        text: may be empty only when the title or the vector is given; at most 1 MiB of UTF-8 by default.
        metadata: a JSON object. Numbers are doubles in the server; whole ones come back as ``int``. Keys are not
            empty and have no control characters, so that filters can name them.
        vector: the caller's own embedding, of the collection's dimension; any length, it is normalised. When given, the
            document is one passage and the server's embedder is not used for it. An array of numpy's is cheapest. Comes
            back in ``Passage``, not here.
    """

    id: str
    title: str = ""
    text: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    vector: Vector | None = None


@dataclass(frozen=True, slots=True)
class Deletion:
    """In an ingest: delete the document with this id; deleting what does not exist succeeds."""

    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A part of a document that fits the embedder's window.

    Attributes:
        ordinal: position in the document, from 0.
        start, end: the passage in the document's text, in code points, end exclusive.
        text: the passage, without the title.
        tokens: tokens the embedder saw, title and special tokens included.
        vector: shape (dimension,), norm 1; None when it was not asked for.
    """

    ordinal: int
    start: int
    end: int
    text: str
    tokens: int
    vector: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDocument:
    """A document as the server has it; parts that were not asked for are empty.

    Attributes:
        sequence: number of the commit that made this version.
        passage_count: passages the document was cut into.
        passages: the passages in order, when they were asked for.
    """

    id: str
    title: str = ""
    text: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    sequence: int = 0
    passage_count: int = 0
    passages: tuple[Passage, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Include:
    """Which parts of documents to return; ids always come. ``vectors`` turns ``passages`` on."""

    text: bool = True
    metadata: bool = True
    passages: bool = False
    vectors: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteResult:
    """What a deletion did: documents deleted (missing ids are not counted) and the sequence of the commit."""

    deleted_count: int
    sequence: int
