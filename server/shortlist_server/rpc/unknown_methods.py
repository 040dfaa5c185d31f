"""Answers calls of methods that nobody serves. gRPC's own answer has no ErrorInfo.

Coroutines on the server's event loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from shortlist_server.errors import Unimplemented
from shortlist_server.rpc.interceptors import REQUEST_ID, request_id_of
from shortlist_server.rpc.status import abort, grpc_status

if TYPE_CHECKING:
    from shortlist_server.rpc.handlers import Context, Continuation, Handler


class UnknownMethodInterceptor(grpc.aio.ServerInterceptor):
    """Answers calls that no service and no later interceptor handles. Comes before the others."""

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        """The method's handler, or one that refuses the call."""
        return await continuation(handler_call_details) or _REFUSAL


async def _refuse(_: AsyncIterator[bytes], context: Context) -> None:
    await abort(
        context,
        grpc_status(Unimplemented("this server serves no such method")),
        (REQUEST_ID, request_id_of(context)[0]),
    )


_REFUSAL: Handler = grpc.stream_stream_rpc_method_handler(_refuse)
"""One for all names: names that callers make up take no memory."""
