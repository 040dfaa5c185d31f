"""The unary calls, without a connection: each function makes one request and says how its answer is read.

Both clients send these, so neither knows a proto. Pure functions.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf import field_mask_pb2, wrappers_pb2

from shortlist import _collection_types as collections
from shortlist import _convert as convert
from shortlist import _document_types as documents
from shortlist import _search_types as searches
from shortlist._errors import InvalidArgument, ShortlistError
from shortlist._filters import Filter
from shortlist._metadata import checked_integer, checked_text
from shortlist._search_convert import search_result
from shortlist._status import from_item_error
from shortlist.v1 import collection_service_pb2 as collection_service
from shortlist.v1 import document_service_pb2 as document_service
from shortlist.v1 import filter_pb2, search_pb2
from shortlist.v1 import search_service_pb2 as search_service

T = TypeVar("T")

COLLECTIONS = "shortlist.v1.CollectionService"
DOCUMENTS = "shortlist.v1.DocumentService"
SEARCH = "shortlist.v1.SearchService"


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One unary call: its method as "service/method", its request, and what reads the response.

    ``response_type`` is the message to parse, or None for the bytes as they are. Without ``deadline`` the call takes as
    long as it needs, unless its caller says otherwise.
    """

    method: str
    request: Any
    response_type: Any
    read: Callable[[Any], T]
    deadline: bool = True

    def parse(self, data: bytes) -> Any:
        """The response from the wire."""
        return data if self.response_type is None else self.response_type.FromString(data)


def identified(request: Any) -> Any:
    """The request, with an id if it takes one: the server then does the call once, however often it comes."""
    if "request_id" in request.DESCRIPTOR.fields_by_name and not request.request_id:
        request.request_id = str(uuid.uuid4())
    return request


def to_bytes(request: Any) -> bytes:
    """The request as the wire has it."""
    data = request if isinstance(request, bytes) else request.SerializeToString()
    return bytes(data)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchQuery:
    """One search of a ``batch_search``; the fields mean what the parameters of ``search`` mean."""

    collection: str
    text: str | None = None
    vector: documents.Vector | None = None
    limit: int = 10
    offset: int = 0
    filter: Filter | None = None
    mode: collections.RetrievalMode | None = None
    instruction: str | None = None
    rerank: bool | collections.Rerank | None = None
    candidates: collections.Candidates | None = None
    fusion: collections.Fusion | None = None
    include: documents.Include | None = None
    min_score: float | None = None
    min_sequence: int | None = None
    explain: bool = False
    explain_texts: bool = False


# ---------------------------------------------------------------------------------------------------------- collections


def create_collection(collection: str, config: collections.CollectionConfig | None) -> Call[collections.Collection]:
    """Makes a collection."""
    request = collection_service.CreateCollectionRequest(
        collection=checked_text(collection, "collection"),
        config=convert.config_to_proto(config or collections.CollectionConfig()),
    )
    return Call(
        f"{COLLECTIONS}/CreateCollection",
        request,
        collection_service.CreateCollectionResponse,
        lambda response: convert.collection(response.collection),
    )


def get_collection(collection: str) -> Call[collections.Collection]:
    """Returns a collection."""
    return Call(
        f"{COLLECTIONS}/GetCollection",
        collection_service.GetCollectionRequest(collection=checked_text(collection, "collection")),
        collection_service.GetCollectionResponse,
        lambda response: convert.collection(response.collection),
    )


def list_collections(page_size: int, page_token: str) -> Call[tuple[list[collections.Collection], str]]:
    """One page of collections, and the next page's token."""
    return Call(
        f"{COLLECTIONS}/ListCollections",
        collection_service.ListCollectionsRequest(
            page_size=checked_integer(page_size, "page_size"), page_token=page_token
        ),
        collection_service.ListCollectionsResponse,
        lambda response: (list(map(convert.collection, response.collections)), response.next_page_token),
    )


def update_collection(
    collection: str, search_defaults: collections.SearchDefaults, update_mask: Iterable[str], etag: str
) -> Call[collections.Collection]:
    """Changes a collection's search settings."""
    request = collection_service.UpdateCollectionRequest(
        collection=checked_text(collection, "collection"),
        search_defaults=convert.search_defaults_to_proto(search_defaults),
        update_mask=field_mask_pb2.FieldMask(paths=names_of(update_mask, "update_mask")),
        etag=checked_text(etag, "etag"),
    )
    return Call(
        f"{COLLECTIONS}/UpdateCollection",
        request,
        collection_service.UpdateCollectionResponse,
        lambda response: convert.collection(response.collection),
    )


def delete_collection(collection: str) -> Call[None]:
    """Removes a collection."""
    return Call(
        f"{COLLECTIONS}/DeleteCollection",
        collection_service.DeleteCollectionRequest(collection=checked_text(collection, "collection")),
        collection_service.DeleteCollectionResponse,
        lambda response: None,
    )


# --------------------------------------------------------------------------------------------------------------- search


def search(query: SearchQuery) -> Call[searches.SearchResult]:
    """Runs one search."""
    return Call(
        f"{SEARCH}/Search",
        _search_request(query),
        search_service.SearchResponse,
        search_result,
    )


def batch_search(queries: Iterable[SearchQuery]) -> Call[list[searches.SearchResult | ShortlistError]]:
    """Runs several searches; each succeeds or fails alone."""
    request = search_service.BatchSearchRequest(requests=map(_search_request, queries))
    return Call(f"{SEARCH}/BatchSearch", request, search_service.BatchSearchResponse, _batch_results)


def _batch_results(
    response: search_service.BatchSearchResponse,
) -> list[searches.SearchResult | ShortlistError]:
    return [
        from_item_error(result.error) if result.WhichOneof("result") == "error" else search_result(result.response)
        for result in response.results
    ]


def _search_request(query: SearchQuery) -> search_service.SearchRequest:
    rerank = collections.Rerank(enabled=query.rerank) if isinstance(query.rerank, bool) else query.rerank
    proto = search_pb2.Query()
    if query.text is not None:
        proto.text = checked_text(query.text, "query.text")
    if query.vector is not None:
        proto.vector.extend(convert.checked_vector(query.vector, "query.vector"))
    return search_service.SearchRequest(
        collection=checked_text(query.collection, "collection"),
        query=proto,
        limit=checked_integer(query.limit, "limit"),
        offset=checked_integer(query.offset, "offset"),
        instruction=checked_text(query.instruction or "", "instruction"),
        mode=convert.mode_to_proto(query.mode),
        candidates=None if query.candidates is None else convert.candidates_to_proto(query.candidates),
        fusion=None if query.fusion is None else convert.fusion_to_proto(query.fusion),
        filter=_filter(query.filter),
        rerank=None if rerank is None else convert.rerank_to_proto(rerank),
        include=convert.include_to_proto(query.include),
        min_score=query.min_score,
        min_sequence=checked_integer(query.min_sequence, "min_sequence", 64),
        explain=query.explain,
        explain_texts=query.explain_texts,
    )


# ------------------------------------------------------------------------------------------------------------ documents


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
    request = document_service.DeleteRequest(collection=checked_text(collection, "collection"), filter=_filter(filter))
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
        filter=_filter(filter),
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
    request = document_service.CountRequest(collection=checked_text(collection, "collection"), filter=_filter(filter))
    return Call(f"{DOCUMENTS}/Count", request, document_service.CountResponse, lambda response: int(response.count))


def names_of(names: Iterable[str], field: str) -> list[str]:
    """Several ids or names, as a list; a single one may be given as it is."""
    # A string is an iterable of strings too; nobody means to delete its letters.
    return [checked_text(name, field) for name in ([names] if isinstance(names, str) else names)]


def _filter(filter: Filter | None) -> filter_pb2.Filter | None:
    if filter is None:
        return None
    if not isinstance(filter, Filter):
        raise InvalidArgument(f'filter must be made with Field("name"), not {type(filter).__name__}', field="filter")
    return filter.to_proto()


# --------------------------------------------------------------------------------------------------------------- health

HEALTH_METHOD = "grpc.health.v1.Health/Check"

_SERVING = b"\x08\x01"


def health(service: str = "") -> Call[bool]:
    """Whether the server, or one of its services, is serving.

    The messages of the health protocol have one field each, a string in and an enum out; their package is a dependency
    of the server only, so another message of one string is sent, and the answer read by hand.
    """
    request = wrappers_pb2.StringValue(value=checked_text(service, "service"))
    return Call(HEALTH_METHOD, request, None, lambda response: response == _SERVING)
