"""The calls about dead letters, without a connection; see ``_calls``. Pure functions.

A document that fails again becomes a new dead letter with a new number. To retry or delete all, list the numbers first:
a retry between two pages would add to the later ones, perhaps for ever.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Sequence

from shortlist._calls import DOCUMENTS, Call
from shortlist._convert import document
from shortlist._errors import InvalidArgument
from shortlist._ingest_operations import ack_from_proto
from shortlist._ingest_types import Ack, DeadLetter
from shortlist._metadata import checked_integer, checked_text
from shortlist._status import from_item_error
from shortlist.v1 import document_service_pb2 as pb

PAGE_SIZE = 1000
"""Dead letters in a page, when all are meant."""

RETRY_AT_ONCE = 100
"""Documents in one call of a retry: an answer comes while there is something to lose."""

DELETE_AT_ONCE = 10_000


def list_dead_letters(
    collection: str, *, include_document: bool, page_size: int, page_token: str
) -> Call[tuple[list[DeadLetter], str]]:
    """One page of dead letters, and the next page's token."""
    request = pb.ListDeadLettersRequest(
        collection=checked_text(collection, "collection"),
        page_size=checked_integer(page_size, "page_size"),
        page_token=page_token,
        include_document=include_document,
    )
    return Call(
        f"{DOCUMENTS}/ListDeadLetters",
        request,
        pb.ListDeadLettersResponse,
        lambda response: (list(map(_dead_letter, response.dead_letters)), response.next_page_token),
    )


def retry_dead_letters(collection: str, numbers: Sequence[int]) -> Call[list[Ack]]:
    """Ingests dead letters again."""
    return Call(
        f"{DOCUMENTS}/RetryDeadLetters",
        pb.RetryDeadLettersRequest(collection=checked_text(collection, "collection"), numbers=numbers),
        pb.RetryDeadLettersResponse,
        lambda response: [ack_from_proto(ack, ack.position) for ack in response.acks],
        deadline=False,
    )


def delete_dead_letters(collection: str, numbers: Sequence[int]) -> Call[int]:
    """Forgets dead letters."""
    return Call(
        f"{DOCUMENTS}/DeleteDeadLetters",
        pb.DeleteDeadLettersRequest(collection=checked_text(collection, "collection"), numbers=numbers),
        pb.DeleteDeadLettersResponse,
        lambda response: int(response.deleted_count),
    )


def batches(numbers: Iterable[int], size: int) -> Iterator[Sequence[int]]:
    """The numbers, so many at once.

    Raises:
        InvalidArgument: one cannot be the number of a dead letter.
    """
    try:
        wanted = list(numbers)
    except TypeError as error:
        raise InvalidArgument("must be several integers", field="numbers") from error
    for number in wanted:
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << 63:
            raise InvalidArgument(f"{number!r} is not the number of a dead letter", field="numbers")
    return (wanted[start : start + size] for start in range(0, len(wanted), size))


def _dead_letter(proto: pb.DeadLetter) -> DeadLetter:
    return DeadLetter(
        number=proto.number,
        id=proto.id,
        stream=proto.stream,
        position=proto.position,
        time=proto.time.ToDatetime(datetime.UTC),
        error=from_item_error(proto.error),
        retriable=proto.retriable,
        document=document(proto.document) if proto.HasField("document") else None,
    )
