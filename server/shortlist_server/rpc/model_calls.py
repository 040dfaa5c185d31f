"""The calls of AdminService for published models, and the work that publishes one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TYPE_CHECKING, TypeVar

from shortlist.v1 import admin_service_pb2 as pb
from shortlist.v1 import model_pb2, operation_pb2
from shortlist_server.errors import ModelsElsewhere
from shortlist_server.keys import ANYONE
from shortlist_server.operations.operation import Control, Kind, Work
from shortlist_server.operations.registry import OperationRegistry
from shortlist_server.publishing.publisher import ModelStatus, Publisher
from shortlist_server.rpc.authorization import EVERY_COLLECTION, calling_key
from shortlist_server.rpc.convert import pages
from shortlist_server.rpc.convert.models import files_in, kind_in, model_out
from shortlist_server.rpc.convert.operations import Result, operation_out
from shortlist_server.rpc.slots import caller_of

if TYPE_CHECKING:
    from shortlist_server.rpc.handlers import Context

T = TypeVar("T")


class ModelCalls:
    """Serves the calls that upload, publish, list and delete models.

    Args:
        publisher: None where the models run on workers.
        threads: run what takes milliseconds.
        loading_threads: publish models, which takes up to minutes.
        loaded: called with the name of each collection that uses a model which has been loaded.
    """

    def __init__(
        self,
        publisher: Publisher | None,
        operations: OperationRegistry,
        threads: Executor,
        loading_threads: Executor,
        loaded: Callable[[str], None],
    ) -> None:
        self._publisher = publisher
        self._operations = operations
        self._threads = threads
        self._loading_threads = loading_threads
        self._loaded = loaded
        self._turns = asyncio.Semaphore(1)

    async def start_upload(self, request: pb.StartModelUploadRequest) -> pb.StartModelUploadResponse:
        """See the proto."""
        publisher, key = self._of_this_server(), calling_key()
        kind = kind_in(request)

        def start() -> pb.StartModelUploadResponse:
            status = publisher.start_upload(request.model, kind, files_in(request))
            return pb.StartModelUploadResponse(model=model_out(status, key, with_files=True))

        return await self._in_thread(start)

    async def upload_chunk(self, request: pb.UploadModelChunkRequest) -> pb.UploadModelChunkResponse:
        """See the proto."""
        publisher = self._of_this_server()
        received = await self._in_thread(
            lambda: publisher.append(request.model, request.path, request.offset, request.data)
        )
        return pb.UploadModelChunkResponse(received_bytes=received)

    async def publish(self, request: pb.PublishModelRequest, context: Context) -> pb.PublishModelResponse:
        """See the proto."""
        publisher = self._of_this_server()
        await self._in_thread(lambda: publisher.find(request.model))
        work = self._work(publisher, request.model)
        return pb.PublishModelResponse(operation=operation_out(self._operations.start(work, caller=caller_of(context))))

    async def list(self, request: pb.ListModelsRequest) -> pb.ListModelsResponse:
        """See the proto. The token of a page is the number of models before the next."""
        publisher, key = self._of_this_server(), calling_key()
        size, start = pages.page_size(request), pages.after_number(request)

        def read() -> pb.ListModelsResponse:
            found = publisher.manifests()
            return pb.ListModelsResponse(
                models=[
                    model_out(status, key, with_files=False)
                    for status in publisher.statuses(found[start : start + size])
                ],
                next_page_token=pages.next_token(request, start + size) if start + size < len(found) else "",
            )

        return await self._in_thread(read)

    async def get(self, request: pb.GetModelRequest) -> pb.GetModelResponse:
        """See the proto."""
        publisher, key = self._of_this_server(), calling_key()

        def read() -> pb.GetModelResponse:
            status = publisher.status(request.model)
            card = publisher.card(status.manifest)
            return pb.GetModelResponse(model=model_out(status, key, with_files=True, card=card))

        return await self._in_thread(read)

    async def update_card(self, request: pb.UpdateModelCardRequest) -> pb.UpdateModelCardResponse:
        """See the proto."""
        publisher, key = self._of_this_server(), calling_key()

        def update() -> pb.UpdateModelCardResponse:
            status = publisher.update_card(request.model, request.card)
            return pb.UpdateModelCardResponse(model=model_out(status, key, with_files=True, card=request.card))

        return await self._in_thread(update)

    async def delete(self, request: pb.DeleteModelRequest) -> pb.DeleteModelResponse:
        """See the proto."""
        publisher = self._of_this_server()
        # Waits for the batches that the model still runs.
        await asyncio.get_running_loop().run_in_executor(self._threads, lambda: publisher.delete(request.model))
        return pb.DeleteModelResponse()

    def _work(self, publisher: Publisher, model: str) -> Work:
        def publish(control: Control) -> ModelStatus:
            def tell(step: str) -> None:
                control.report_progress(model_pb2.PublishProgress(model=model, step=step))

            return publisher.publish(model, tell, control.cancellation)

        async def run(control: Control) -> Result:
            status = await control.in_thread(self._loading_threads, lambda: publish(control))
            for name in status.collections:
                self._loaded(name)
            data = model_out(status, ANYONE, with_files=True).SerializeToString()
            return Result(field=operation_pb2.Operation.PUBLISHED_MODEL_FIELD_NUMBER, data=data)

        return Work(kind=Kind.PUBLISH_MODEL, collection="", collections=EVERY_COLLECTION, run=run, turns=self._turns)

    def _of_this_server(self) -> Publisher:
        if self._publisher is None:
            raise ModelsElsewhere(
                "this server's models run on workers, so none can be published to it: start the workers with the model"
                " ('shortlist worker --embedder NAME=FOLDER')"
            )
        return self._publisher

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)
