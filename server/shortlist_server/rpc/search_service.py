"""SearchService: one search, and several at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from shortlist.v1 import search_service_pb2 as pb
from shortlist.v1 import search_service_pb2_grpc as pb_grpc
from shortlist_server.config import Config
from shortlist_server.domain import Deadline
from shortlist_server.errors import ShortlistError
from shortlist_server.pipeline.search import Searcher
from shortlist_server.rpc.convert import fields
from shortlist_server.rpc.convert.errors import error_out
from shortlist_server.rpc.convert.search import request_in, response_out
from shortlist_server.rpc.interceptors import deadline_of

if TYPE_CHECKING:
    from shortlist_server.rpc.handlers import Context

MAX_BATCH = 100
BATCH_CONCURRENCY = 8


class SearchServicer(pb_grpc.SearchServiceServicer):
    """Answers searches through the pipeline."""

    def __init__(self, searcher: Searcher, config: Config) -> None:
        self._searcher = searcher
        self._config = config

    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:
        """See the proto."""
        return await self._search(request, deadline_of(context, self._config.max_deadline_seconds))

    async def BatchSearch(self, request: pb.BatchSearchRequest, context: Context) -> pb.BatchSearchResponse:
        """See the proto."""
        fields.within(len(request.requests), 1, MAX_BATCH, "requests")
        deadline = deadline_of(context, self._config.max_deadline_seconds)
        slots = asyncio.Semaphore(BATCH_CONCURRENCY)

        async def one(search: pb.SearchRequest) -> pb.BatchSearchResult:
            async with slots:
                try:
                    return pb.BatchSearchResult(response=await self._search(search, deadline))
                except ShortlistError as error:
                    return pb.BatchSearchResult(error=error_out(error))

        return pb.BatchSearchResponse(results=await asyncio.gather(*map(one, request.requests)))

    async def _search(self, message: pb.SearchRequest, deadline: Deadline) -> pb.SearchResponse:
        request = request_in(message, self._config)
        return response_out(await self._searcher.search(request, deadline), request.parts)
