"""AdminService: what the server is, how collections do, and verifying, backing up, restoring and evaluating them."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from google.protobuf import timestamp_pb2

from shortlist.v1 import admin_service_pb2 as pb
from shortlist.v1 import admin_service_pb2_grpc as pb_grpc
from shortlist_server.config import Config
from shortlist_server.domain import Deadline, RecallEstimate
from shortlist_server.errors import CollectionNotFound, DataCorrupted, InvalidArgument, Unavailable
from shortlist_server.inference.base import EmbedderInfo, ModelCatalog, RerankerInfo
from shortlist_server.pipeline.evaluate import Evaluation, Evaluator
from shortlist_server.pipeline.recall import RecallMonitor
from shortlist_server.rpc.aside import aside, converted
from shortlist_server.rpc.authorization import calling_key
from shortlist_server.rpc.convert import evaluation, fields, pages
from shortlist_server.rpc.convert.collections import collection_out
from shortlist_server.rpc.convert.documents import duration_out
from shortlist_server.rpc.pieces import Pieces
from shortlist_server.storage.backups.backup import Progress
from shortlist_server.storage.backups.manifest import Backup as StoredBackup
from shortlist_server.storage.backups.manifest import read_backup
from shortlist_server.storage.disk.files import FOLDER_MODE
from shortlist_server.storage.store import EmbeddedStore
from shortlist_server.storage.verify import CollectionReport

if TYPE_CHECKING:
    from shortlist_server.rpc.handlers import Context

logger = logging.getLogger(__name__)

T = TypeVar("T")
Message = TypeVar("Message")

MAX_SAMPLE = 10_000
DEFAULT_SAMPLE = 200
QUERY_WEIGHT = 256
"""What a judged query weighs in a report, in bytes."""

PROGRESS_SECONDS = 0.1
"""Shortest time between two messages of progress."""


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
        store: EmbeddedStore,
        models: ModelCatalog,
        threads: Executor,
        long_threads: Executor,
        backup_dir: Path,
        info: ServerInfo,
        evaluator: Evaluator,
        recall: RecallMonitor,
        config: Config,
    ) -> None:
        """``long_threads``: for what takes minutes, so that nothing else waits for a thread meanwhile."""
        self._store = store
        self._models = models
        self._threads = threads
        self._long_threads = long_threads
        self._backup_dir = backup_dir
        self._info = info
        self._evaluator = evaluator
        self._recall = recall
        self._config = config

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
            embedders=[_embedder_out(self._models.embedder(name).info) for name in self._models.embedder_names],
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

    async def Verify(self, request: pb.VerifyRequest, context: Context) -> AsyncIterator[pb.VerifyResponse]:
        """See the proto."""
        sample = (
            fields.within(request.sample, 0, MAX_SAMPLE, "sample") if request.HasField("sample") else DEFAULT_SAMPLE
        )
        if request.accept_loss and not request.repair:
            raise InvalidArgument("is part of a repair; set repair as well", field="accept_loss")
        if request.collection:
            names = [fields.collection_name(request.collection)]
        else:
            names = list(await self._in_thread(self._store.names))
        for name in names:

            def verify(tell: Callable[[pb.VerifyResponse], None], name: str = name) -> pb.VerifyResponse:
                report = self._store.verify(
                    name,
                    sample=sample,
                    repair=request.repair,
                    accept_loss=request.accept_loss,
                    progress=lambda step: tell(
                        pb.VerifyResponse(progress=pb.VerifyProgress(collection=name, step=step))
                    ),
                )
                return pb.VerifyResponse(report=_report_out(report))

            try:
                async for message in self._telling(verify):
                    yield message
            except (CollectionNotFound, Unavailable):
                # One of all that is dropped meanwhile need not be verified.
                if request.collection or name in await self._in_thread(self._store.names):
                    raise

    async def Backup(self, request: pb.BackupRequest, context: Context) -> AsyncIterator[pb.BackupResponse]:
        """See the proto."""
        folder = self._backup_folder(request.name, "name")
        names = await converted(
            lambda: [fields.collection_name(name, f"collections[{i}]") for i, name in enumerate(request.collections)]
        )

        def back_up(tell: Callable[[pb.BackupResponse], None]) -> pb.BackupResponse:
            if folder.exists():
                raise InvalidArgument(f"there is a backup named '{request.name}'", field="name")
            self._backup_dir.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            made = self._store.backup(
                folder, names or None, progress=lambda at: tell(pb.BackupResponse(progress=_progress_out(at)))
            )
            return pb.BackupResponse(backup=_backup_out(made))

        async for message in self._telling(back_up):
            yield message

    async def ListBackups(self, request: pb.ListBackupsRequest, context: Context) -> pb.ListBackupsResponse:
        """See the proto. The token of a page is the number of backups before the next."""
        size = pages.page_size(request)
        start = pages.after_number(request)

        def read() -> pb.ListBackupsResponse:
            found = self._backups()
            token = pages.next_token(request, start + size) if start + size < len(found) else ""
            answer = Pieces(pb.ListBackupsResponse(next_page_token=token))
            for backup in found[start : start + size]:
                answer.add(pb.ListBackupsResponse.BACKUPS_FIELD_NUMBER, _backup_out(backup))
            return answer.answer()

        return await self._in_thread(read)

    async def Restore(self, request: pb.RestoreRequest, context: Context) -> AsyncIterator[pb.RestoreResponse]:
        """See the proto."""
        folder = self._backup_folder(request.backup, "backup")
        name = fields.collection_name(request.collection)
        new_name = fields.collection_name(request.new_name, "new_name") if request.new_name else None

        def restore(tell: Callable[[pb.RestoreResponse], None]) -> pb.RestoreResponse:
            if not folder.is_dir():
                raise InvalidArgument(f"there is no backup named '{request.backup}'", field="backup")
            collection = self._store.restore(
                folder, name, new_name, progress=lambda at: tell(pb.RestoreResponse(progress=_progress_out(at)))
            )
            return pb.RestoreResponse(collection=collection_out(collection.info(), self._models))

        async for message in self._telling(restore):
            yield message

    async def Evaluate(self, request: pb.EvaluateRequest, context: Context) -> AsyncIterator[pb.EvaluateResponse]:
        """See the proto."""
        name = fields.collection_name(request.collection)
        queries = await converted(lambda: evaluation.queries_in(request, self._config))
        settings = evaluation.all_settings_in(request, self._config)
        left = context.time_remaining()
        deadline = Deadline(math.inf) if left is None else Deadline.after(left)
        told = 0.0
        # Closed at once when the caller goes: the evaluation after this one waits for it.
        async with aclosing(self._evaluator.evaluate(name, queries, settings, deadline)) as evaluations:
            async for one in evaluations:
                if isinstance(one, Evaluation):
                    report_out = partial(evaluation.report_out, one, include_queries=request.include_queries)
                    report = await aside(QUERY_WEIGHT * len(queries), report_out)
                    yield pb.EvaluateResponse(report=report)
                elif time.monotonic() - told >= PROGRESS_SECONDS:
                    told = time.monotonic()
                    yield pb.EvaluateResponse(progress=evaluation.progress_out(one))

    def _backup_folder(self, name: str, field: str) -> Path:
        if not fields.NAME.fullmatch(name):
            raise InvalidArgument(
                "a backup name is 1 to 64 of a-z, 0-9, '_' and '-', starting with a letter or digit", field=field
            )
        return self._backup_dir / name

    def _backups(self) -> list[StoredBackup]:
        found = []
        for folder in self._backup_dir.iterdir() if self._backup_dir.is_dir() else ():
            if fields.NAME.fullmatch(folder.name):
                try:
                    found.append(read_backup(folder))
                except (InvalidArgument, DataCorrupted) as error:
                    logger.warning("%s is not listed: %s", folder, error.message)
        return sorted(found, key=lambda backup: (-backup.create_time_seconds, backup.folder.name))

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    async def _telling(self, work: Callable[[Callable[[Message], None]], Message]) -> AsyncIterator[Message]:
        """Runs blocking work in a thread; yields what it tells, ten times a second and at the end, then its result."""
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[Message | None] = asyncio.Queue()
        last = 0.0
        untold: list[Message] = []

        def tell(message: Message) -> None:
            nonlocal last
            untold[:] = [message]
            if time.monotonic() - last >= PROGRESS_SECONDS:
                last = time.monotonic()
                untold.clear()
                loop.call_soon_threadsafe(told.put_nowait, message)

        task = loop.run_in_executor(self._long_threads, work, tell)
        task.add_done_callback(lambda _: told.put_nowait(None))
        while (message := await told.get()) is not None:
            yield message
        result = await task
        for message in untold:
            yield message
        yield result


def _estimate_out(estimate: RecallEstimate) -> pb.RecallEstimate:
    return pb.RecallEstimate(
        ef=estimate.ef,
        recall=estimate.recall,
        lower=estimate.lower,
        upper=estimate.upper,
        query_count=estimate.query_count,
        check_count=estimate.check_count,
    )


def _progress_out(progress: Progress) -> pb.CopyProgress:
    return pb.CopyProgress(
        collection=progress.collection,
        done_bytes=progress.done_bytes,
        total_bytes=progress.total_bytes,
        note=progress.note,
    )


def _backup_out(backup: StoredBackup) -> pb.BackupInfo:
    created = timestamp_pb2.Timestamp()
    created.FromMilliseconds(round(backup.create_time_seconds * 1000))
    return pb.BackupInfo(
        name=backup.folder.name,
        create_time=created,
        collections=[
            pb.BackupCollection(
                name=collection.name,
                sequence=collection.sequence,
                document_count=collection.documents,
                passage_count=collection.passages,
                disk_bytes=collection.bytes,
            )
            for collection in backup.collections
        ],
    )


def _report_out(report: CollectionReport) -> pb.VerifyReport:
    return pb.VerifyReport(
        collection=report.name,
        ok=report.ok,
        checks=[pb.VerifyCheck(name=check.name, ok=check.ok, detail=check.detail) for check in report.checks],
        document_count=report.documents,
        passage_count=report.passages,
        segment_passage_count=report.segment_passages,
        growing_passage_count=report.growing_passages,
        sampled_count=report.sampled,
        reached_count=report.reached,
        repairs=report.repairs,
        notes=report.notes,
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
