"""SearchService: one search, and several at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from shortlist.v1 import search_service_pb2 as pb
from shortlist.v1 import search_service_pb2_grpc as pb_grpc
from shortlist_server.config import Config
from shortlist_server.domain import Deadline, SearchRequest
from shortlist_server.errors import ShortlistError
from shortlist_server.pipeline.search import Searcher
from shortlist_server.rpc.answers import AnswerRoom
from shortlist_server.rpc.bounds import MAX_BATCH
from shortlist_server.rpc.convert import fields
from shortlist_server.rpc.convert.errors import error_out
from shortlist_server.rpc.convert.search import request_in, response_out, weight
from shortlist_server.rpc.interceptors import deadline_of
from shortlist_server.rpc.limits import LARGE_AT_ONCE, AdmissionQueue, Shared
from shortlist_server.rpc.offload import offload, offload_conversion
from shortlist_server.rpc.pieces import Pieces
from shortlist_server.rpc.slots import Slots, caller_of

if TYPE_CHECKING:
    from shortlist_server.rpc.handlers import Context

T = TypeVar("T")
Taking = Callable[[], AbstractAsyncContextManager[None]]

BATCH_CONCURRENCY = 4
"""Searches of a batch worked on at the same time; the batch has one turn among the other calls."""


LARGE_BYTES = 1024 * 1024
"""Answers to one search that are larger are made a few at a time, because each takes twice its size meanwhile."""


class SearchServicer(pb_grpc.SearchServiceServicer):
    """Answers searches through the pipeline, each in its turn."""

    def __init__(self, searcher: Searcher, config: Config, queue: AdmissionQueue, waits: Slots) -> None:
        """``queue``: for searches that are worked on. ``waits``: for those that wait for a sequence meanwhile."""
        self._searcher = searcher
        self._config = config
        self._queue = queue
        self._waits = waits
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)

    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:
        """See the proto."""
        search = await offload_conversion(lambda: request_in(request, self._config))
        deadline = deadline_of(context, self._config.max_deadline_seconds)
        waiting = self._waiting(caller_of(context))
        return await self._search(search, deadline, waiting, self._queue.taking, Pieces.answer)

    async def BatchSearch(self, request: pb.BatchSearchRequest, context: Context) -> pb.BatchSearchResponse:
        """See the proto. A batch has one place in the queue, and one turn while any of its searches runs."""
        fields.within(len(request.requests), 1, MAX_BATCH, "requests")
        searches = await offload_conversion(lambda: [self._read(search) for search in request.requests])
        deadline = deadline_of(context, self._config.max_deadline_seconds)
        waiting, turn = Shared(self._waiting(caller_of(context))), Shared(self._queue.taking)
        working = asyncio.Semaphore(BATCH_CONCURRENCY)
        room = AnswerRoom(self._config.max_message_bytes)

        @asynccontextmanager
        async def taking() -> AsyncIterator[None]:
            async with working, turn.taking():
                yield

        async def one(search: SearchRequest | ShortlistError) -> Pieces[pb.BatchSearchResult]:
            try:
                if isinstance(search, ShortlistError):
                    raise search
                result = await self._search(search, deadline, waiting.taking, taking, _result_out)
            except ShortlistError as error:
                result = Pieces(pb.BatchSearchResult(error=error_out(error)))
            room.take(result.size)
            return result

        results: list[asyncio.Task[Pieces[pb.BatchSearchResult]]] = []
        too_large: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                results += [group.create_task(one(search)) for search in searches]
        except* ShortlistError as errors:
            # The whole answer has no room: the remaining searches are cancelled.
            too_large = errors.exceptions[0].with_traceback(None)
        if too_large is not None:
            results.clear()  # An error's traceback holds what its frames hold.
            raise too_large
        made = [result.result() for result in results]
        return await offload(room.taken, partial(_results_out, made))

    def _read(self, message: pb.SearchRequest) -> SearchRequest | ShortlistError:
        try:
            return request_in(message, self._config)
        except ShortlistError as error:
            return error.with_traceback(None)

    async def _search(
        self,
        request: SearchRequest,
        deadline: Deadline,
        waiting: Taking,
        turn: Taking,
        convert: Callable[[Pieces[pb.SearchResponse]], T],
    ) -> T:
        if not self._searcher.reached(request):
            async with waiting():
                await self._searcher.wait(request, deadline)
        async with turn():
            result = await self._searcher.search(request, deadline)

            def answer() -> T:
                return convert(response_out(result, request.include, self._config.max_message_bytes))

            size = weight(result, request.include)
            async with self._large if size > LARGE_BYTES else nullcontext():
                return await offload(size, answer)

    def _waiting(self, caller: str) -> Taking:
        @asynccontextmanager
        async def taking() -> AsyncIterator[None]:
            with self._waits.taking(caller):
                yield

        return taking


def _result_out(response: Pieces[pb.SearchResponse]) -> Pieces[pb.BatchSearchResult]:
    result = Pieces(pb.BatchSearchResult())
    result.add(pb.BatchSearchResult.RESPONSE_FIELD_NUMBER, response)
    return result


def _results_out(results: Sequence[Pieces[pb.BatchSearchResult]]) -> pb.BatchSearchResponse:
    response = Pieces(pb.BatchSearchResponse())
    for result in results:
        response.add(pb.BatchSearchResponse.RESULTS_FIELD_NUMBER, result)
    return response.answer()
