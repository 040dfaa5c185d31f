"""The calls about documents that an ingest could not take, without a connection; see ``_calls``. Pure functions.

A retry that fails again is put down anew, under a new number. So whoever means all must take the numbers first and use
them then; going on through the pages meanwhile might never end.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Sequence

from shortlist._calls import DOCUMENTS, Call
from shortlist._convert import document
from shortlist._errors import InvalidArgument
from shortlist._ingest_types import Ack, QuarantinedDocument
from shortlist._metadata import checked_integer, checked_text
from shortlist._operations import ack_from_proto
from shortlist._status import from_item_error
from shortlist.v1 import document_service_pb2 as pb

PAGE_SIZE = 1000
"""Failures in a page, when all are meant."""

RETRY_AT_ONCE = 100
"""Documents in one call of a retry: an answer comes while there is something to lose."""

DELETE_AT_ONCE = 10_000


def list_quarantine(
    collection: str, *, include_document: bool, page_size: int, page_token: str
) -> Call[tuple[list[QuarantinedDocument], str]]:
    """One page of failures, and the next page's token."""
    request = pb.ListQuarantineRequest(
        collection=checked_text(collection, "collection"),
        page_size=checked_integer(page_size, "page_size"),
        page_token=page_token,
        include_document=include_document,
    )
    return Call(
        f"{DOCUMENTS}/ListQuarantine",
        request,
        pb.ListQuarantineResponse,
        lambda response: (list(map(_quarantined, response.documents)), response.next_page_token),
    )


def retry_quarantine(collection: str, numbers: Sequence[int]) -> Call[list[Ack]]:
    """Ingests quarantined documents again."""
    return Call(
        f"{DOCUMENTS}/RetryQuarantine",
        pb.RetryQuarantineRequest(collection=checked_text(collection, "collection"), numbers=numbers),
        pb.RetryQuarantineResponse,
        lambda response: [ack_from_proto(ack, ack.position) for ack in response.acks],
        deadline=False,
    )


def delete_quarantine(collection: str, numbers: Sequence[int]) -> Call[int]:
    """Forgets quarantined documents."""
    return Call(
        f"{DOCUMENTS}/DeleteQuarantine",
        pb.DeleteQuarantineRequest(collection=checked_text(collection, "collection"), numbers=numbers),
        pb.DeleteQuarantineResponse,
        lambda response: int(response.deleted_count),
    )


def batches(numbers: Iterable[int], size: int) -> Iterator[Sequence[int]]:
    """The numbers, so many at once.

    Raises:
        InvalidArgument: one is no number of a failure.
    """
    try:
        wanted = list(numbers)
    except TypeError as error:
        raise InvalidArgument("must be several integers", field="numbers") from error
    for number in wanted:
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << 63:
            raise InvalidArgument(f"{number!r} is no number of a quarantined document", field="numbers")
    return (wanted[start : start + size] for start in range(0, len(wanted), size))


def _quarantined(proto: pb.QuarantinedDocument) -> QuarantinedDocument:
    return QuarantinedDocument(
        number=proto.number,
        id=proto.id,
        stream=proto.stream,
        position=proto.position,
        time=proto.time.ToDatetime(datetime.UTC),
        error=from_item_error(proto.error),
        retriable=proto.retriable,
        document=document(proto.document) if proto.HasField("document") else None,
    )
