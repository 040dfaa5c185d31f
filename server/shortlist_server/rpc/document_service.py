"""DocumentService: the ingest stream, and reading, deleting and counting documents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import Message

from shortlist.v1 import document_service_pb2 as pb
from shortlist.v1 import document_service_pb2_grpc as pb_grpc
from shortlist_server.config import Config
from shortlist_server.domain import Deletion, Filter, Include
from shortlist_server.errors import InvalidArgument, OutOfSpace, Unavailable
from shortlist_server.interpreter import LARGE_BYTES, give_way, turn
from shortlist_server.observe.observer import Observer
from shortlist_server.pipeline.ingest import IngestSession
from shortlist_server.pipeline.ingester import Ingester
from shortlist_server.pipeline.leases import leased
from shortlist_server.pipeline.operations import Operation
from shortlist_server.pipeline.portions import next_portion, portions_within
from shortlist_server.rpc.bounds import MAX_DELETE, MAX_GET, MAX_OPERATIONS
from shortlist_server.rpc.convert import fields, pages
from shortlist_server.rpc.convert.documents import (
    acks_out,
    dead_letter_out,
    include_in,
    operation_in,
    retried_in,
    stored_out,
)
from shortlist_server.rpc.convert.filters import filter_in
from shortlist_server.rpc.idle_timeout import IdleTimeout
from shortlist_server.rpc.offload import offload, offload_conversion
from shortlist_server.rpc.pieces import Pieces
from shortlist_server.storage.base import CollectionStore, Store

if TYPE_CHECKING:
    from shortlist_server.rpc.handlers import Context
T = TypeVar("T")
M = TypeVar("M", bound=Message)

MAX_PAGE_BYTES = 4 * 1024 * 1024
"""A page ends where its documents have so many bytes, so that several pages fit into what may wait to be sent."""

ACK_WEIGHT = 1024
"""What the conversion of an acknowledgement weighs, in bytes: ten microseconds."""


class DocumentServicer(pb_grpc.DocumentServiceServicer):
    """Feeds documents to the pipeline and reads them from the store."""

    def __init__(self, store: Store, ingester: Ingester, threads: Executor, config: Config, observer: Observer) -> None:
        self._store = store
        self._ingester = ingester
        self._threads = threads
        self._config = config
        self._observer = observer

    async def Ingest(
        self, requests: AsyncIterator[pb.IngestRequest], context: Context
    ) -> AsyncIterator[pb.IngestResponse]:
        """See the proto."""
        idle = IdleTimeout(
            first_seconds=self._config.stream_start_seconds, idle_seconds=self._config.stream_idle_seconds
        )
        requests = idle.messages(requests)
        first = await anext(requests, None)
        if first is None or first.WhichOneof("message") != "start":
            raise InvalidArgument("the first message of an ingest stream is its start", field="start")
        start = first.start
        session = await self._ingester.open(
            fields.collection_name(start.collection, "start.collection"),
            stream=fields.stream_name(start.stream),
            dry_run=start.dry_run,
            run_id=fields.run_id(start.run_id),
        )
        try:
            async for response in self._acknowledge(session, requests):
                yield response
                idle.moved()
        finally:
            self._ingester.close(session)

    async def _acknowledge(
        self, session: IngestSession, requests: AsyncIterator[pb.IngestRequest]
    ) -> AsyncIterator[pb.IngestResponse]:
        yield pb.IngestResponse(
            started=pb.IngestStarted(
                last_durable_position=session.durable_position,
                credit_tokens=self._config.ingest_window_tokens,
                max_document_bytes=self._config.max_document_bytes,
                max_message_bytes=self._config.max_message_bytes,
            )
        )
        async for acks in session.run(self._operations(requests)):
            for first in range(0, len(acks), MAX_OPERATIONS):
                part = acks[first : first + MAX_OPERATIONS]
                acks_of_part = partial(acks_out, part, session.collection.sequence)
                yield await offload(ACK_WEIGHT * len(part), acks_of_part)
            self._observer.acknowledged([ack.status.value for ack in acks], sum(ack.tokens for ack in acks))
            yield pb.IngestResponse(credit=pb.IngestCredit(tokens=sum(ack.cost for ack in acks)))
        if session.draining:
            yield pb.IngestResponse(draining=pb.IngestDraining(last_durable_position=session.durable_position))

    async def _operations(self, requests: AsyncIterator[pb.IngestRequest]) -> AsyncIterator[Sequence[Operation]]:
        async for request in requests:
            if request.WhichOneof("message") != "batch":
                raise InvalidArgument("after the start an ingest stream has batches only", field="batch")
            fields.within(len(request.batch.operations), 1, MAX_OPERATIONS, "batch.operations")
            # In a thread whatever its size: a commit takes longer than the way there.
            yield await self._in_thread(partial(self._converted, request.batch))

    def _converted(self, batch: pb.IngestBatch) -> list[Operation]:
        return [operation_in(operation, self._config) for operation in batch.operations]

    async def Get(self, request: pb.GetRequest, context: Context) -> pb.GetResponse:
        """See the proto."""
        fields.within(len(request.ids), 1, MAX_GET, "ids")
        ids = await offload_conversion(
            lambda: dict.fromkeys(fields.document_id(value, f"ids[{i}]") for i, value in enumerate(request.ids))
        )
        include = include_in(request.include)
        most = self._config.max_message_bytes

        def read(collection: CollectionStore) -> pb.GetResponse:
            missing = dict(ids)
            answer = Pieces(pb.GetResponse(), most)
            read_some = partial(collection.documents_by_id, include=_with_text(include))
            for documents in portions_within(list(ids), read_some, include, most):
                with turn:
                    for id, document in documents.items():
                        del missing[id]
                        answer.add(pb.GetResponse.DOCUMENTS_FIELD_NUMBER, stored_out(document, include))
            answer.merge(pb.GetResponse(missing_ids=missing))
            return answer.answer()

        return await self._with_collection(request.collection, read)

    async def Delete(self, request: pb.DeleteRequest, context: Context) -> pb.DeleteResponse:
        """See the proto."""
        kind = request.WhichOneof("selection")
        if kind is None:
            raise InvalidArgument("say what to delete: ids or a filter", field="selection")
        async with self._leased(request.collection) as collection:
            if kind == "filter":
                filter = await offload_conversion(lambda: filter_in(request.filter, self._config))
                deleted = await asyncio.wrap_future(await self._in_thread(partial(collection.delete_matching, filter)))
            else:
                fields.within(len(request.ids.ids), 1, MAX_DELETE, "ids.ids")
                deleted = await delete_by_id(collection, await offload_conversion(lambda: _deletions(request.ids.ids)))
            return pb.DeleteResponse(deleted_count=deleted, sequence=collection.sequence)

    async def List(self, request: pb.ListRequest, context: Context) -> pb.ListResponse:
        """See the proto."""
        size = pages.page_size(request)
        filter = await offload_conversion(lambda: self._filter(request))
        after = await offload_conversion(lambda: pages.after_number(request))
        include = include_in(request.include)

        def read(collection: CollectionStore) -> pb.ListResponse:
            answer = Pieces(pb.ListResponse())
            following = self._fill(
                answer,
                pb.ListResponse.DOCUMENTS_FIELD_NUMBER,
                lambda after, limit: collection.page(filter, after, limit, _with_text(include)),
                lambda document: (stored_out(document, include), document.sequence),
                after,
                size,
            )
            if following is not None:
                answer.merge(pb.ListResponse(next_page_token=pages.next_token(request, following)))
            return answer.answer()

        return await self._with_collection(request.collection, read)

    async def Count(self, request: pb.CountRequest, context: Context) -> pb.CountResponse:
        """See the proto."""
        filter = await offload_conversion(lambda: self._filter(request))
        return await self._with_collection(
            request.collection, lambda collection: pb.CountResponse(count=collection.count(filter))
        )

    async def ListDeadLetters(self, request: pb.ListDeadLettersRequest, context: Context) -> pb.ListDeadLettersResponse:
        """See the proto. The token of a page is the last number on it."""
        size = pages.page_size(request)
        after = pages.after_number(request)

        def read(collection: CollectionStore) -> pb.ListDeadLettersResponse:
            answer = Pieces(pb.ListDeadLettersResponse())
            following = self._fill(
                answer,
                pb.ListDeadLettersResponse.DEAD_LETTERS_FIELD_NUMBER,
                collection.dead_letters,
                lambda failure: (
                    dead_letter_out(failure, with_document=request.include_document),
                    failure.number,
                ),
                after,
                size,
            )
            if following is not None:
                answer.merge(pb.ListDeadLettersResponse(next_page_token=pages.next_token(request, following)))
            return answer.answer()

        return await self._with_collection(request.collection, read)

    async def RetryDeadLetters(
        self, request: pb.RetryDeadLettersRequest, context: Context
    ) -> pb.RetryDeadLettersResponse:
        """See the proto."""
        fields.within(len(request.numbers), 1, MAX_OPERATIONS, "numbers")
        failures = await self._with_collection(
            request.collection, lambda collection: collection.dead_letters_by_number(request.numbers)
        )
        kept = [failure for failure in failures if failure.document is not None]

        async def operations() -> AsyncIterator[Sequence[Operation]]:
            if kept:
                yield [retried_in(failure, self._config) for failure in kept]

        session = await self._ingester.open(request.collection, stream="", dry_run=False)
        try:
            acks = [ack async for group in session.run(operations()) for ack in group]
            # What failed again is recorded anew; what was taken is recorded no more; what was not tried stays.
            await asyncio.wrap_future(session.collection.delete_dead_letters([ack.position for ack in acks]))
        finally:
            self._ingester.close(session)
        if len(acks) < len(kept):
            raise Unavailable(f"the server is stopping, and {len(kept) - len(acks)} were not tried; retry them later")
        return pb.RetryDeadLettersResponse(acks=acks_out(acks, 0).acks.acks)

    async def DeleteDeadLetters(
        self, request: pb.DeleteDeadLettersRequest, context: Context
    ) -> pb.DeleteDeadLettersResponse:
        """See the proto."""
        fields.within(len(request.numbers), 1, MAX_DELETE, "numbers")
        async with self._leased(request.collection) as collection:
            forgotten = await asyncio.wrap_future(collection.delete_dead_letters(request.numbers))
        return pb.DeleteDeadLettersResponse(deleted_count=forgotten)

    def _filter(self, request: pb.ListRequest | pb.CountRequest) -> Filter | None:
        return filter_in(request.filter, self._config) if request.HasField("filter") else None

    def _fill(
        self,
        answer: Pieces[M],
        number: int,
        read: Callable[[int, int], tuple[Sequence[T], int | None]],
        convert: Callable[[T], tuple[Message, int]],
        after: int,
        limit: int,
    ) -> int | None:
        """Fills a page with as many messages as its bytes hold, at least one; returns where the next page begins.

        Args:
            answer: the page, which has nothing yet.
            number: of the field that has the messages.
            read: reads so many of those behind a position; also tells where the next are, or None.
            convert: makes a message of one of them, and tells its position.
            after: the position behind which the page begins.
            limit: the page has at most so many.
        """
        most = min(MAX_PAGE_BYTES, self._config.max_message_bytes // 2)
        count = 0
        following: int | None = after
        while following is not None and count < limit:
            items, following = read(following, next_portion(count, answer.size, most, limit - count))
            with turn:
                for item in items:
                    message, position = convert(item)
                    data = message.SerializeToString()
                    if len(data) >= LARGE_BYTES:
                        give_way()
                    if count and answer.size + len(data) > most:
                        return after
                    answer.add(number, data)
                    count += 1
                    after = position
        return following

    async def _with_collection(self, name: str, function: Callable[[CollectionStore], T]) -> T:
        fields.collection_name(name)

        def call() -> T:
            with self._store.lease(name) as collection:
                return function(collection)

        return await self._in_thread(call)

    def _leased(self, name: str) -> AbstractAsyncContextManager[CollectionStore]:
        return leased(self._store, fields.collection_name(name), self._threads)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)


async def delete_by_id(collection: CollectionStore, deletions: Sequence[Deletion]) -> int:
    """Deletes documents by id in one transaction, or in several smaller ones where the disk has no room for one.

    Returns:
        How many existed.

    Raises:
        OutOfSpace: there is not even room to delete one; those before it are deleted.
    """
    start, at_once, deleted = 0, len(deletions), 0
    while start < len(deletions):
        chunk = deletions[start : start + at_once]
        try:
            commit = await asyncio.wrap_future(collection.commit(chunk))
        except OutOfSpace:
            if len(chunk) == 1:
                raise
            at_once = max(1, len(chunk) // 4)
        else:
            start += len(chunk)
            deleted += sum(commit.existed)
    return deleted


def _deletions(ids: Sequence[str]) -> list[Deletion]:
    checked = [fields.document_id(value, f"ids.ids[{i}]") for i, value in enumerate(ids)]
    return [Deletion(id=id) for id in dict.fromkeys(checked)]


def _with_text(include: Include) -> Include:
    """What to read so that passages can be given with their text."""
    if not include.passages:
        return include
    return Include(text=True, metadata=include.metadata, passages=True, vectors=include.vectors)
