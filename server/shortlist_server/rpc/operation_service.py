"""OperationService: following, listing, pausing and cancelling operations.

An operation that the caller's key may not see is treated like one that does not exist.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from typing import TYPE_CHECKING

from shortlist.v1 import operation_service_pb2 as pb
from shortlist.v1 import operation_service_pb2_grpc as pb_grpc
from shortlist_server.keys import ApiKey
from shortlist_server.operations.operation import Operation
from shortlist_server.operations.registry import OperationRegistry, not_found
from shortlist_server.rpc.authorization import EVERY_COLLECTION, calling_key, hold_right_to
from shortlist_server.rpc.convert import pages
from shortlist_server.rpc.convert.operations import (
    answer_out,
    filter_in,
    operation_id_in,
    operation_out,
    without_result,
)
from shortlist_server.rpc.offload import offload
from shortlist_server.rpc.pieces import Pieces
from shortlist_server.rpc.slots import caller_of

if TYPE_CHECKING:
    from shortlist_server.rpc.handlers import Context

OPERATION_WEIGHT = 1024
"""The cost of an operation without its result and error in an answer, in bytes: twenty microseconds."""

ERROR_WEIGHT = 4096
"""The cost of its error, whose message and metadata are cut at about this size."""


class OperationServicer(pb_grpc.OperationServiceServicer):
    """Shows the operations of a registry."""

    def __init__(
        self, operations: OperationRegistry, large_answer: Callable[[str], AbstractAsyncContextManager[None]]
    ) -> None:
        """``large_answer``: takes a turn, for a caller, to make an answer that may be megabytes large."""
        self._operations = operations
        self._large_answer = large_answer

    async def GetOperation(self, request: pb.GetOperationRequest, context: Context) -> pb.GetOperationResponse:
        """See the proto."""
        return await answer_out(pb.GetOperationResponse(), self._visible(request.name))

    async def ListOperations(self, request: pb.ListOperationsRequest, context: Context) -> pb.ListOperationsResponse:
        """See the proto. The token of a page is the number of the last operation on it."""
        size = pages.page_size(request)
        after = pages.after_number(request)
        collection, kind, state = filter_in(request)
        key = calling_key()
        found = [
            one
            for one in self._operations.all()
            if (not after or one.number < after)
            and kind in (None, one.kind)
            and state in (None, one.state)
            and (not collection or collection in one.collections or one.collections == EVERY_COLLECTION)
            and _may_see(key, one)
        ]
        page = found[:size]

        def answer() -> pb.ListOperationsResponse:
            token = pages.next_token(request, page[-1].number) if len(found) > size else ""
            made = Pieces(pb.ListOperationsResponse(next_page_token=token))
            for one in page:
                made.add(pb.ListOperationsResponse.OPERATIONS_FIELD_NUMBER, operation_out(one))
            return made.answer()

        weight = OPERATION_WEIGHT * len(page) + ERROR_WEIGHT * sum(one.error is not None for one in page)
        return await offload(weight, answer)

    async def CancelOperation(self, request: pb.CancelOperationRequest, context: Context) -> pb.CancelOperationResponse:
        """See the proto."""
        id = self._visible(request.name).id
        return await answer_out(pb.CancelOperationResponse(), without_result(self._operations.cancel(id)))

    async def PauseOperation(self, request: pb.PauseOperationRequest, context: Context) -> pb.PauseOperationResponse:
        """See the proto."""
        id = self._visible(request.name).id
        return await answer_out(pb.PauseOperationResponse(), without_result(await self._operations.pause(id)))

    async def ResumeOperation(self, request: pb.ResumeOperationRequest, context: Context) -> pb.ResumeOperationResponse:
        """See the proto."""
        id = self._visible(request.name).id
        return await answer_out(pb.ResumeOperationResponse(), without_result(await self._operations.resume(id)))

    async def WaitOperation(
        self, request: pb.WaitOperationRequest, context: Context
    ) -> AsyncIterator[pb.WaitOperationResponse]:
        """See the proto."""
        found = self._visible(request.name)
        # The key may lose its right to one of them during the hours that this may take.
        hold_right_to(found.collections)
        async with aclosing(self._operations.watch(found.id)) as views:
            async for operation in views:
                large = operation.result is not None
                async with self._large_answer(caller_of(context)) if large else nullcontext():
                    answer = await answer_out(pb.WaitOperationResponse(), operation)
                yield answer

    def _visible(self, name: str) -> Operation:
        operation = self._operations.get(operation_id_in(name))
        if not _may_see(calling_key(), operation):
            raise not_found(operation.id)
        return operation


def _may_see(key: ApiKey, operation: Operation) -> bool:
    return all(key.may_use(name) for name in operation.collections)
