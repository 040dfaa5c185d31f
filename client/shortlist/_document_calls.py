"""The calls about documents, without a connection; see ``_calls``. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable

from shortlist import _convert as convert
from shortlist import _document_types as documents
from shortlist._calls import DOCUMENTS, Call, filter_to_proto, names_of
from shortlist._errors import InvalidArgument
from shortlist._filters import Filter
from shortlist._metadata import checked_integer, checked_text
from shortlist.v1 import document_service_pb2 as document_service


def get(
    collection: str, ids: Iterable[str], include: documents.Include | None
) -> Call[list[documents.StoredDocument | None]]:
    """Documents by id, None where there is none, in the order of the ids."""
    wanted = names_of(ids, "ids")
    request = document_service.GetRequest(
        collection=checked_text(collection, "collection"), ids=wanted, include=convert.include_to_proto(include)
    )

    def read(response: document_service.GetResponse) -> list[documents.StoredDocument | None]:
        found = {proto.document.id: convert.stored_document(proto) for proto in response.documents}
        return [found.get(id) for id in wanted]

    return Call(f"{DOCUMENTS}/Get", request, document_service.GetResponse, read)


def delete(collection: str, ids: Iterable[str] | None, filter: Filter | None) -> Call[documents.DeleteResult]:
    """Deletes by ids or by filter."""
    if (ids is None) == (filter is None):
        raise InvalidArgument("delete takes either ids or a filter", field="ids")
    request = document_service.DeleteRequest(
        collection=checked_text(collection, "collection"), filter=filter_to_proto(filter)
    )
    if ids is not None:
        request.ids.ids.extend(names_of(ids, "ids"))
        request.ids.SetInParent()
    return Call(
        f"{DOCUMENTS}/Delete",
        request,
        document_service.DeleteResponse,
        lambda response: documents.DeleteResult(deleted_count=response.deleted_count, sequence=response.sequence),
    )


def list_documents(
    collection: str, filter: Filter | None, include: documents.Include | None, page_size: int, page_token: str
) -> Call[tuple[list[documents.StoredDocument], str]]:
    """One page of documents, and the next page's token."""
    request = document_service.ListRequest(
        collection=checked_text(collection, "collection"),
        filter=filter_to_proto(filter),
        page_size=checked_integer(page_size, "page_size"),
        page_token=page_token,
        include=convert.include_to_proto(include),
    )
    return Call(
        f"{DOCUMENTS}/List",
        request,
        document_service.ListResponse,
        lambda response: (list(map(convert.stored_document, response.documents)), response.next_page_token),
    )


def count(collection: str, filter: Filter | None) -> Call[int]:
    """Counts documents."""
    request = document_service.CountRequest(
        collection=checked_text(collection, "collection"), filter=filter_to_proto(filter)
    )
    return Call(f"{DOCUMENTS}/Count", request, document_service.CountResponse, lambda response: int(response.count))
