"""CollectionService: making, showing, listing, changing and removing collections, and their generations."""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from shortlist.v1 import collection_pb2 as collection_pb
from shortlist.v1 import collection_service_pb2 as pb
from shortlist.v1 import collection_service_pb2_grpc as pb_grpc
from shortlist.v1 import generation_pb2 as generation_pb
from shortlist_server.config import Config
from shortlist_server.domain import Generation, GenerationState
from shortlist_server.errors import (
    CollectionNotFound,
    DataCorrupted,
    EtagMismatch,
    FailedPrecondition,
    GenerationNotFound,
    NewerDataFormat,
    Unavailable,
)
from shortlist_server.inference.base import ModelCatalog
from shortlist_server.pipeline.collections import check_search_defaults, create_collection
from shortlist_server.pipeline.compare import pair_of
from shortlist_server.pipeline.comparison import ComparedQuery
from shortlist_server.pipeline.recent_queries import RecentQueries
from shortlist_server.pipeline.reindex.reindexer import Reindexer
from shortlist_server.rpc.authorization import calling_key
from shortlist_server.rpc.convert import fields, pages
from shortlist_server.rpc.convert.collections import collection_out, etag_of, new_collection_in, updated_defaults_in
from shortlist_server.rpc.convert.evaluation import queries_in
from shortlist_server.rpc.convert.generations import (
    estimate_out,
    generation_number,
    generation_out,
    new_generation_in,
    recent_count,
)
from shortlist_server.rpc.convert.operations import operation_out
from shortlist_server.rpc.generation_works import GenerationWorks
from shortlist_server.rpc.pieces import Pieces
from shortlist_server.rpc.slots import caller_of
from shortlist_server.storage.base import Store

if TYPE_CHECKING:
    from shortlist_server.rpc.handlers import Context
logger = logging.getLogger(__name__)

T = TypeVar("T")


class CollectionServicer(pb_grpc.CollectionServiceServicer):
    """Manages the collections of a store."""

    def __init__(
        self,
        store: Store,
        models: ModelCatalog,
        threads: Executor,
        config: Config,
        reindexer: Reindexer,
        works: GenerationWorks,
        recent: RecentQueries,
    ) -> None:
        """``recent``: the queries of callers' searches, if the operator lets the server keep some."""
        self._store = store
        self._models = models
        self._threads = threads
        self._config = config
        self._reindexer = reindexer
        self._works = works
        self._recent = recent

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

    async def StartReindex(self, request: pb.StartReindexRequest, context: Context) -> pb.StartReindexResponse:
        """See the proto."""
        name = fields.collection_name(request.collection)
        new = new_generation_in(request)
        if request.validate_only:
            estimate = await self._reindexer.estimate(name, new, force=request.force)
            return pb.StartReindexResponse(estimate=estimate_out(estimate))
        caller = caller_of(context)
        self._works.check_room(caller)

        async def start() -> pb.StartReindexResponse:
            generation, estimate = await self._reindexer.start(name, new, force=request.force)
            operation = operation_out(self._works.build(name, generation, caller=caller))
            return pb.StartReindexResponse(
                operation=operation,
                generation=generation_out(generation, operation.name),
                estimate=estimate_out(estimate),
            )

        # If the caller goes away meanwhile, no generation may be left that no operation builds.
        return await asyncio.shield(asyncio.create_task(start()))

    async def ListGenerations(self, request: pb.ListGenerationsRequest, context: Context) -> pb.ListGenerationsResponse:
        """See the proto."""
        name = fields.collection_name(request.collection)
        return pb.ListGenerationsResponse(
            generations=[self._generation_out(name, one) for one in await self._generations(name)]
        )

    async def CompareGenerations(
        self, request: pb.CompareGenerationsRequest, context: Context
    ) -> pb.CompareGenerationsResponse:
        """See the proto."""
        name = fields.collection_name(request.collection)
        number, count = generation_number(request.generation), recent_count(request)
        judged = await asyncio.to_thread(queries_in, request, self._config) if request.queries else []
        serving, candidate = pair_of(await self._generations(name), number)
        queries = [ComparedQuery(id=one.id, text=one.text, qrels=one.qrels) for one in judged]
        if not queries:
            queries = await self._recent_queries(name, count)
        operation = self._works.compare(name, serving, candidate, queries, caller=caller_of(context))
        return pb.CompareGenerationsResponse(operation=operation_out(operation))

    async def SwitchGeneration(
        self, request: pb.SwitchGenerationRequest, context: Context
    ) -> pb.SwitchGenerationResponse:
        """See the proto."""
        name = fields.collection_name(request.collection)
        number = generation_number(request.generation)
        if not number:
            number = _number(await self._generations(name), GenerationState.BUILDING)
        if not number:
            raise GenerationNotFound(f"no generation of '{name}' is being built: start a reindex, or name a generation")
        serving, former = await self._switch(name, number)
        return pb.SwitchGenerationResponse(serving=serving, former=former)

    async def RollBackGeneration(
        self, request: pb.RollBackGenerationRequest, context: Context
    ) -> pb.RollBackGenerationResponse:
        """See the proto."""
        name = fields.collection_name(request.collection)
        number = _number(await self._generations(name), GenerationState.FORMER)
        if not number:
            raise GenerationNotFound(f"collection '{name}' has no former generation to roll back to")
        serving, former = await self._switch(name, number)
        return pb.RollBackGenerationResponse(serving=serving, former=former)

    async def DropGeneration(self, request: pb.DropGenerationRequest, context: Context) -> pb.DropGenerationResponse:
        """See the proto."""
        name = fields.collection_name(request.collection)
        number = generation_number(request.generation)

        def drop() -> None:
            with self._store.lease(name) as collection:
                collection.drop_generation(number).result()

        await self._in_thread(drop)
        self._reindexer.look(name)
        return pb.DropGenerationResponse()

    async def _switch(self, name: str, number: int) -> tuple[generation_pb.Generation, generation_pb.Generation]:
        """Lets a generation serve. Returns it and the former one."""

        def switch() -> Sequence[Generation]:
            with self._store.lease(name) as collection:
                collection.switch_generation(number).result()
                return collection.generations()

        generations = await self._in_thread(switch)
        self._reindexer.look(name)
        logger.info("collection '%s': generation %d serves", name, number)
        by_state = {one.state: self._generation_out(name, one) for one in generations}
        return by_state[GenerationState.SERVING], by_state.get(GenerationState.FORMER, generation_pb.Generation())

    async def _recent_queries(self, name: str, count: int) -> list[ComparedQuery]:
        if not self._recent.enabled:
            raise FailedPrecondition(
                "the server keeps no recent queries: send judged ones, or start it with sampled_queries",
                metadata={"setting": "sampled_queries"},
            )
        collection = await self._in_thread(lambda: self._store.find(name))
        queries = [
            ComparedQuery(text=one.text, instruction=one.instruction, filter=one.filter)
            for one in self._recent.some(collection, count)
        ]
        if not queries:
            raise FailedPrecondition(
                f"nobody has searched collection '{name}' by text within the last hour: send judged queries",
                metadata={"setting": "sampled_queries"},
            )
        return queries

    async def _generations(self, name: str) -> Sequence[Generation]:
        return await self._in_thread(lambda: self._store.find(name).generations())

    def _generation_out(self, name: str, generation: Generation) -> generation_pb.Generation:
        return generation_out(generation, self._works.builder(name, generation))

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)


def _number(generations: Sequence[Generation], state: GenerationState) -> int:
    """The number of the generation in a state; 0 where there is none."""
    return next((one.number for one in generations if one.state is state), 0)
