"""AdminService: what the server is, how collections do, and starting to verify, back up, restore and evaluate them.

``model_calls`` has what it does with published models.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from google.protobuf import timestamp_pb2

from shortlist.v1 import admin_service_pb2 as pb
from shortlist.v1 import admin_service_pb2_grpc as pb_grpc
from shortlist.v1 import operation_pb2
from shortlist_server.domain import RecallEstimate
from shortlist_server.inference.base import EmbedderInfo, ModelCatalog, RerankerInfo
from shortlist_server.operations.operation import Work
from shortlist_server.operations.registry import OperationRegistry
from shortlist_server.pipeline.recall import RecallMonitor
from shortlist_server.rpc.authorization import calling_key
from shortlist_server.rpc.convert import fields, pages
from shortlist_server.rpc.convert.documents import duration_out
from shortlist_server.rpc.convert.operations import backup_out, operation_out
from shortlist_server.rpc.model_calls import ModelCalls
from shortlist_server.rpc.pieces import Pieces
from shortlist_server.rpc.slots import caller_of
from shortlist_server.rpc.works import Works
from shortlist_server.storage.base import Store

if TYPE_CHECKING:
    from shortlist_server.rpc.handlers import Context

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """What the server says of itself, fixed when it is ready."""

    version: str
    start_time_seconds: float
    startup_seconds: float


class AdminServicer(pb_grpc.AdminServiceServicer):
    """Serves operators. Backups live in one folder and have names, so that no caller names a path of the server."""

    def __init__(
        self,
        store: Store,
        models: ModelCatalog,
        threads: Executor,
        backup_dir: Path,
        info: ServerInfo,
        recall: RecallMonitor,
        works: Works,
        operations: OperationRegistry,
        published: ModelCalls,
    ) -> None:
        self._store = store
        self._models = models
        self._threads = threads
        self._backup_dir = backup_dir
        self._info = info
        self._recall = recall
        self._works = works
        self._operations = operations
        self._published = published

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Context) -> pb.GetServerInfoResponse:
        """See the proto."""
        key = calling_key()
        names = await self._in_thread(self._store.names)
        started = timestamp_pb2.Timestamp()
        started.FromMilliseconds(round(self._info.start_time_seconds * 1000))
        return pb.GetServerInfoResponse(
            version=self._info.version,
            start_time=started,
            startup_time=duration_out(self._info.startup_seconds),
            embedders=[_embedder_out(embedder.info) for embedder in self._models.embedders()],
            rerankers=[_reranker_out(self._models.reranker(name).info) for name in self._models.reranker_names],
            collection_count=sum(key.may_use(name) for name in names),
        )

    async def GetRecall(self, request: pb.GetRecallRequest, context: Context) -> pb.GetRecallResponse:
        """See the proto."""
        name = fields.collection_name(request.collection)
        # In a thread: of a collection that was not open yet, the settings are read from the disk.
        recall = await self._in_thread(lambda: self._recall.of(self._store.find(name)))
        return pb.GetRecallResponse(
            target=recall.target, unfiltered=_estimate_out(recall.unfiltered), filtered=_estimate_out(recall.filtered)
        )

    async def Verify(self, request: pb.VerifyRequest, context: Context) -> pb.VerifyResponse:
        """See the proto."""
        return pb.VerifyResponse(operation=await self._started(lambda: self._works.verify(request), context))

    async def Backup(self, request: pb.BackupRequest, context: Context) -> pb.BackupResponse:
        """See the proto."""
        return pb.BackupResponse(operation=await self._started(lambda: self._works.backup(request), context))

    async def Restore(self, request: pb.RestoreRequest, context: Context) -> pb.RestoreResponse:
        """See the proto."""
        return pb.RestoreResponse(operation=await self._started(lambda: self._works.restore(request), context))

    async def Evaluate(self, request: pb.EvaluateRequest, context: Context) -> pb.EvaluateResponse:
        """See the proto."""
        return pb.EvaluateResponse(operation=await self._started(lambda: self._works.evaluate(request), context))

    async def ListBackups(self, request: pb.ListBackupsRequest, context: Context) -> pb.ListBackupsResponse:
        """See the proto. The token of a page is the number of backups before the next."""
        size = pages.page_size(request)
        start = pages.after_number(request)

        def read() -> pb.ListBackupsResponse:
            found = self._store.backups(self._backup_dir)
            token = pages.next_token(request, start + size) if start + size < len(found) else ""
            answer = Pieces(pb.ListBackupsResponse(next_page_token=token))
            for backup in found[start : start + size]:
                answer.add(pb.ListBackupsResponse.BACKUPS_FIELD_NUMBER, backup_out(backup))
            return answer.answer()

        return await self._in_thread(read)

    async def StartModelUpload(
        self, request: pb.StartModelUploadRequest, context: Context
    ) -> pb.StartModelUploadResponse:
        """See the proto."""
        return await self._published.start_upload(request)

    async def UploadModelChunk(
        self, request: pb.UploadModelChunkRequest, context: Context
    ) -> pb.UploadModelChunkResponse:
        """See the proto."""
        return await self._published.upload_chunk(request)

    async def PublishModel(self, request: pb.PublishModelRequest, context: Context) -> pb.PublishModelResponse:
        """See the proto."""
        return await self._published.publish(request, context)

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """See the proto."""
        return await self._published.list(request)

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """See the proto."""
        return await self._published.get(request)

    async def UpdateModelCard(self, request: pb.UpdateModelCardRequest, context: Context) -> pb.UpdateModelCardResponse:
        """See the proto."""
        return await self._published.update_card(request)

    async def DeleteModel(self, request: pb.DeleteModelRequest, context: Context) -> pb.DeleteModelResponse:
        """See the proto."""
        return await self._published.delete(request)

    async def _started(self, work: Callable[[], Work], context: Context) -> operation_pb2.Operation:
        checked = await self._in_thread(work)
        return operation_out(self._operations.start(checked, caller=caller_of(context)))

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)


def _estimate_out(estimate: RecallEstimate) -> pb.RecallEstimate:
    return pb.RecallEstimate(
        ef=estimate.ef,
        recall=estimate.recall,
        lower=estimate.lower,
        upper=estimate.upper,
        query_count=estimate.query_count,
        check_count=estimate.check_count,
    )


def _embedder_out(info: EmbedderInfo) -> pb.EmbedderModel:
    return pb.EmbedderModel(
        name=info.name,
        revision=info.revision,
        dimension=info.dimension,
        min_dimension=info.min_dimension,
        max_tokens=info.max_tokens,
        token_vectors=info.token_vectors,
        takes_instruction=info.takes_instruction,
        query_prompt=info.query_prompt,
        passage_prompt=info.passage_prompt,
        number_format=info.number_format,
        number_format_note=info.number_format_note,
    )


def _reranker_out(info: RerankerInfo) -> pb.RerankerModel:
    return pb.RerankerModel(
        name=info.name,
        revision=info.revision,
        takes_instruction=info.takes_instruction,
        default_weight=info.default_weight,
        default_depth=info.default_depth,
        number_format=info.number_format,
        number_format_note=info.number_format_note,
    )
