"""The calls about collections, without a connection; see ``_calls``. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf import field_mask_pb2

from shortlist import _collection_types as collections
from shortlist import _convert as convert
from shortlist._calls import COLLECTIONS, Call, names_of
from shortlist._metadata import checked_integer, checked_text
from shortlist.v1 import collection_service_pb2 as collection_service


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
