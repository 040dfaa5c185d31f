"""Reads documents for an answer, a portion at a time, and stops when they exceed the answer's size.

Documents have any size up to a megabyte, so only reading them tells how many fit into an answer. Pure except for the
``read`` passed in; blocks where that blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from shortlist_server.domain import Include, StoredDocument
from shortlist_server.errors import InvalidArgument

Key = TypeVar("Key")

FIRST_PORTION = 8
"""Documents to read before their size is known; at most so many are read in vain."""


def documents_within(
    keys: Sequence[Key],
    read: Callable[[Sequence[Key]], Mapping[Key, StoredDocument]],
    include: Include,
    max_bytes: int,
) -> dict[Key, StoredDocument]:
    """The documents with these keys that exist, by key; see ``portions_within``."""
    found: dict[Key, StoredDocument] = {}
    for documents in portions_within(keys, read, include, max_bytes):
        found.update(documents)
    return found


def portions_within(
    keys: Sequence[Key],
    read: Callable[[Sequence[Key]], Mapping[Key, StoredDocument]],
    include: Include,
    max_bytes: int,
) -> Iterator[Mapping[Key, StoredDocument]]:
    """The documents with these keys that exist, by key, in the order of the keys, a portion at a time.

    Args:
        read: reads documents by key.
        include: the parts of them in the answer.
        max_bytes: largest answer; 0: no limit.

    Raises:
        InvalidArgument: they are too large for one answer. Some are not read then.
    """
    size = 0
    at = 0
    while at < len(keys):
        portion = keys[at : at + next_portion(at, size, max_bytes, len(keys) - at)]
        documents = read(portion)
        size += sum(least_bytes(document, include) for document in documents.values())
        if max_bytes and size > max_bytes:
            raise answer_too_large(max_bytes)
        yield {key: documents[key] for key in portion if key in documents}
        at += len(portion)


def next_portion(count: int, size: int, max_bytes: int, left: int) -> int:
    """How many documents to read next, at most ``left``.

    Args:
        count: documents read so far.
        size: their bytes.
        max_bytes: largest answer; 0: no limit.
    """
    if not max_bytes:
        return left
    if not count:
        return min(left, FIRST_PORTION)
    fitting = (max_bytes - size) * count // max(1, size)
    return min(left, max(FIRST_PORTION, fitting))


def least_bytes(document: StoredDocument, include: Include) -> int:
    """The least bytes of a document in an answer: its texts and vectors."""
    size = len(document.title) + len(document.text) if include.text else 0
    for passage in document.passages:
        size += passage.end - passage.start
        if passage.vector is not None:
            size += passage.vector.nbytes
    return size


def answer_too_large(max_bytes: int) -> InvalidArgument:
    """The error for an answer larger than the largest message."""
    return InvalidArgument(
        f"the answer would exceed {max_bytes} bytes, the size of the largest message: ask for fewer documents at once,"
        " or include less of each",
        metadata={"setting": "max_message_bytes", "limit": str(max_bytes)},
    )
