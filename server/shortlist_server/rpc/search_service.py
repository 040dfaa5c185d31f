"""SearchService: one search, and several at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from shortlist.v1 import search_service_pb2 as pb
from shortlist.v1 import search_service_pb2_grpc as pb_grpc
from shortlist_server.config import Config
from shortlist_server.domain import Deadline, Include, SearchResult
from shortlist_server.errors import ShortlistError
from shortlist_server.pipeline.portions import least_bytes
from shortlist_server.pipeline.search import Searcher
from shortlist_server.rpc.answers import AnswerRoom
from shortlist_server.rpc.bounds import MAX_BATCH
from shortlist_server.rpc.convert import fields
from shortlist_server.rpc.convert.errors import error_out
from shortlist_server.rpc.convert.search import request_in, response_out
from shortlist_server.rpc.interceptors import deadline_of
from shortlist_server.rpc.limits import AdmissionQueue, Shared
from shortlist_server.rpc.requests import INLINE_BYTES
from shortlist_server.rpc.slots import Slots, caller_of

if TYPE_CHECKING:
    from shortlist_server.rpc.handlers import Context

T = TypeVar("T")
Taking = Callable[[], AbstractAsyncContextManager[None]]

BATCH_CONCURRENCY = 4
"""Searches of a batch worked on at the same time; the batch has one turn among the other calls."""


class SearchServicer(pb_grpc.SearchServiceServicer):
    """Answers searches through the pipeline, each in its turn."""

    def __init__(self, searcher: Searcher, config: Config, queue: AdmissionQueue, waits: Slots) -> None:
        """``queue``: for searches that are worked on. ``waits``: for those that wait for a sequence meanwhile."""
        self._searcher = searcher
        self._config = config
        self._queue = queue
        self._waits = waits

    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:
        """See the proto."""
        deadline = deadline_of(context, self._config.max_deadline_seconds)
        return await self._search(
            request, deadline, self._waiting(caller_of(context)), self._queue.taking, response_out
        )

    async def BatchSearch(self, request: pb.BatchSearchRequest, context: Context) -> pb.BatchSearchResponse:
        """See the proto. A batch has one place in the queue, and one turn while any of its searches runs."""
        fields.within(len(request.requests), 1, MAX_BATCH, "requests")
        deadline = deadline_of(context, self._config.max_deadline_seconds)
        waiting, turn = Shared(self._waiting(caller_of(context))), Shared(self._queue.taking)
        working = asyncio.Semaphore(BATCH_CONCURRENCY)
        room = AnswerRoom(self._config.max_message_bytes)

        @asynccontextmanager
        async def taking() -> AsyncIterator[None]:
            async with working, turn.taking():
                yield

        async def one(search: pb.SearchRequest) -> pb.BatchSearchResult:
            try:
                result = await self._search(search, deadline, waiting.taking, taking, _result_out)
            except ShortlistError as error:
                result = pb.BatchSearchResult(error=error_out(error))
            room.take(result.ByteSize())
            return result

        results: list[asyncio.Task[pb.BatchSearchResult]] = []
        too_large: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                results += [group.create_task(one(search)) for search in request.requests]
        except* ShortlistError as errors:
            # The whole answer has no room: the remaining searches are cancelled.
            too_large = errors.exceptions[0].with_traceback(None)
        if too_large is not None:
            results.clear()  # An error's traceback holds what its frames hold.
            raise too_large
        made = [result.result() for result in results]
        return await _aside(room.taken, lambda: pb.BatchSearchResponse(results=made))

    async def _search(
        self,
        message: pb.SearchRequest,
        deadline: Deadline,
        waiting: Taking,
        turn: Taking,
        convert: Callable[[SearchResult, Include], T],
    ) -> T:
        request = request_in(message, self._config)
        if not self._searcher.reached(request):
            async with waiting():
                await self._searcher.wait(request, deadline)
        async with turn():
            result = await self._searcher.search(request, deadline)
            size = sum(least_bytes(hit.document, request.include) for hit in result.hits)
            return await _aside(size, lambda: convert(result, request.include))

    def _waiting(self, caller: str) -> Taking:
        @asynccontextmanager
        async def taking() -> AsyncIterator[None]:
            with self._waits.taking(caller):
                yield

        return taking


def _result_out(result: SearchResult, include: Include) -> pb.BatchSearchResult:
    return pb.BatchSearchResult(response=response_out(result, include))


async def _aside(size: int, function: Callable[[], T]) -> T:
    """Makes an answer of so many bytes, in a thread if it would hold up the event loop."""
    return function() if size <= INLINE_BYTES else await asyncio.to_thread(function)
