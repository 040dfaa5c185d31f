"""CollectionService: making, showing, listing, changing and removing collections."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from shortlist.v1 import collection_pb2 as collection_pb
from shortlist.v1 import collection_service_pb2 as pb
from shortlist.v1 import collection_service_pb2_grpc as pb_grpc
from shortlist_server.config import Config
from shortlist_server.errors import CollectionNotFound, DataCorrupted, EtagMismatch, NewerDataFormat, Unavailable
from shortlist_server.inference.base import ModelCatalog
from shortlist_server.pipeline.collections import check_search_defaults, create_collection
from shortlist_server.rpc.authorization import calling_key
from shortlist_server.rpc.convert import fields, pages
from shortlist_server.rpc.convert.collections import collection_out, etag_of, new_collection_in, updated_defaults_in
from shortlist_server.rpc.pieces import Pieces
from shortlist_server.storage.base import Store

if TYPE_CHECKING:
    from shortlist_server.rpc.handlers import Context
T = TypeVar("T")


class CollectionServicer(pb_grpc.CollectionServiceServicer):
    """Manages the collections of a store."""

    def __init__(self, store: Store, models: ModelCatalog, threads: Executor, config: Config) -> None:
        self._store = store
        self._models = models
        self._threads = threads
        self._config = config

    async def CreateCollection(
        self, request: pb.CreateCollectionRequest, context: Context
    ) -> pb.CreateCollectionResponse:
        """See the proto."""
        new = new_collection_in(request.collection, request.config, self._config)

        def create() -> pb.CreateCollectionResponse:
            collection = create_collection(self._store, self._models, new)
            return pb.CreateCollectionResponse(collection=collection_out(collection.info(), self._models))

        return await self._in_thread(create)

    async def GetCollection(self, request: pb.GetCollectionRequest, context: Context) -> pb.GetCollectionResponse:
        """See the proto."""
        name = fields.collection_name(request.collection)
        return await self._in_thread(
            lambda: pb.GetCollectionResponse(collection=collection_out(self._store.find(name).info(), self._models))
        )

    async def ListCollections(self, request: pb.ListCollectionsRequest, context: Context) -> pb.ListCollectionsResponse:
        """See the proto. The token of a page is the last name on it. Lists what the caller's key may use."""
        size = pages.page_size(request)
        after = pages.after_name(request)
        key = calling_key()

        def read() -> pb.ListCollectionsResponse:
            names = [name for name in self._store.names() if key.may_use(name)]
            start = bisect_right(names, after)
            page = names[start : start + size]
            token = pages.next_token(request, page[-1]) if start + size < len(names) else ""
            answer = Pieces(pb.ListCollectionsResponse(next_page_token=token))
            for name in page:
                # It may be dropped meanwhile.
                with suppress(CollectionNotFound):
                    answer.add(pb.ListCollectionsResponse.COLLECTIONS_FIELD_NUMBER, self._listed(name))
            return answer.answer()

        return await self._in_thread(read)

    def _listed(self, name: str) -> collection_pb.Collection:
        try:
            return collection_out(self._store.find(name).info(), self._models)
        except (DataCorrupted, NewerDataFormat, Unavailable) as error:
            if name not in self._store.names():
                raise CollectionNotFound(f"there is no collection {name!r}") from error
            return collection_pb.Collection(name=name, problem=error.message)

    async def UpdateCollection(
        self, request: pb.UpdateCollectionRequest, context: Context
    ) -> pb.UpdateCollectionResponse:
        """See the proto."""
        name = fields.collection_name(request.collection)

        def update() -> pb.UpdateCollectionResponse:
            with self._store.lease(name) as collection:
                updated = False
                while not updated:
                    config = collection.config
                    if request.etag and request.etag != etag_of(config):
                        raise EtagMismatch(
                            f"the settings of collection '{name}' changed since the etag was read; read them again, "
                            "then repeat",
                            field="etag",
                        )
                    defaults = updated_defaults_in(request, config.search_defaults, self._config)
                    check_search_defaults(self._models, config, defaults)
                    # False where another update came between; then this one begins anew.
                    updated = collection.update_search_defaults(defaults, expected=config.search_defaults)
                return pb.UpdateCollectionResponse(collection=collection_out(collection.info(), self._models))

        return await self._in_thread(update)

    async def DeleteCollection(
        self, request: pb.DeleteCollectionRequest, context: Context
    ) -> pb.DeleteCollectionResponse:
        """See the proto."""
        name = fields.collection_name(request.collection)
        await self._in_thread(lambda: self._store.drop(name))
        return pb.DeleteCollectionResponse()

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)
