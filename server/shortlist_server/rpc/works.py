"""The works of AdminService: each method checks a request and returns the work that it asks for.

A fault of the request fails the call; a later fault fails the operation. The checks block, so call the
methods in a thread; the works run on the server's event loop and use threads of their own.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import Message

from shortlist.v1 import admin_service_pb2 as pb
from shortlist.v1 import operation_pb2
from shortlist_server.config import Config
from shortlist_server.domain import Deadline
from shortlist_server.errors import (
    CollectionExists,
    CollectionNotFound,
    InvalidArgument,
    OperationCancelled,
    ShortlistError,
    Unavailable,
)
from shortlist_server.inference.base import ModelCatalog
from shortlist_server.operations.operation import Control, Kind, Work
from shortlist_server.pipeline.evaluate import Evaluation, Evaluator
from shortlist_server.rpc.authorization import EVERY_COLLECTION
from shortlist_server.rpc.convert import evaluation, fields
from shortlist_server.rpc.convert.collections import collection_out
from shortlist_server.rpc.convert.operations import Result, backup_out, copy_progress_out, verify_report_out
from shortlist_server.rpc.pieces import Pieces
from shortlist_server.storage.backups.manifest import read_backup
from shortlist_server.storage.base import Store
from shortlist_server.storage.disk.files import FOLDER_MODE
from shortlist_server.storage.reports import Check, CollectionReport, Progress

MAX_SAMPLE = 10_000
DEFAULT_SAMPLE = 200

OPERATION_BYTES = 64 * 1024
"""Room in a message for an operation beside its result."""

M = TypeVar("M", bound=Message)


class Works:
    """Makes the works of one server."""

    def __init__(
        self,
        store: Store,
        models: ModelCatalog,
        threads: Executor,
        at_once: int,
        backup_dir: Path,
        evaluator: Evaluator,
        turns_to_measure: asyncio.Semaphore,
        go_on_with: Callable[[str], Awaitable[None]],
        config: Config,
    ) -> None:
        """Belongs to the event loop that runs.

        Args:
            threads: run verifications, backups and restores, each for minutes.
            at_once: how many of these run at the same time.
            turns_to_measure: held by work that measures searches, because two at a time would slow each other down.
            go_on_with: resumes the reindex, if there is one, of a collection that was restored or repaired.
        """
        self._store = store
        self._models = models
        self._threads = threads
        self._backup_dir = backup_dir
        self._evaluator = evaluator
        self._config = config
        self._turns = asyncio.Semaphore(at_once)
        self._turns_to_measure = turns_to_measure
        self._go_on_with = go_on_with

    def verify(self, request: pb.VerifyRequest) -> Work:
        """Checks collections.

        Raises:
            CollectionNotFound: there is none of that name.
            InvalidArgument: a field is out of its range.
        """
        sample = (
            fields.within(request.sample, 0, MAX_SAMPLE, "sample") if request.HasField("sample") else DEFAULT_SAMPLE
        )
        if request.accept_loss and not request.repair:
            raise InvalidArgument("is part of a repair; set repair as well", field="accept_loss")
        if request.collection:
            self._check_exist([fields.collection_name(request.collection)])

        def verify(control: Control) -> Result:
            found = self._pieces(operation_pb2.VerifyResult())
            for name in [request.collection] if request.collection else self._store.names():
                control.cancellation.check()

                def tell(step: str, name: str = name) -> None:
                    control.report_progress(operation_pb2.VerifyProgress(collection=name, step=step))

                try:
                    report = self._store.verify(
                        name,
                        sample=sample,
                        repair=request.repair,
                        accept_loss=request.accept_loss,
                        progress=tell,
                        cancellation=control.cancellation,
                    )
                except OperationCancelled:
                    raise
                except ShortlistError as error:
                    if request.collection:
                        raise
                    # When all collections are verified, one that is dropped meanwhile is left out.
                    if isinstance(error, CollectionNotFound | Unavailable) and name not in self._store.names():
                        continue
                    # The reports of the others must not be lost.
                    check = Check(name="verification", ok=False, detail=error.message)
                    report = CollectionReport(name=name, checks=[check])
                found.add(operation_pb2.VerifyResult.REPORTS_FIELD_NUMBER, verify_report_out(report))
            return Result(field=operation_pb2.Operation.VERIFY_RESULT_FIELD_NUMBER, data=found.joined())

        async def run(control: Control) -> Result:
            result = await control.in_thread(self._threads, lambda: verify(control))
            if request.repair:
                unfinished = await control.in_thread(self._threads, self._store.reindexing)
                for name in unfinished:
                    if request.collection in ("", name):
                        await self._go_on_with(name)
            return result

        return Work(
            kind=Kind.VERIFY,
            collection=request.collection,
            collections=(request.collection,) if request.collection else EVERY_COLLECTION,
            run=run,
            turns=self._turns,
        )

    def backup(self, request: pb.BackupRequest) -> Work:
        """Backs up collections.

        Raises:
            CollectionNotFound: there is none of one of the names.
            InvalidArgument: the name is wrong, or there is a backup of that name.
        """
        folder = self._backup_folder(request.name, "name")
        names = [fields.collection_name(name, f"collections[{i}]") for i, name in enumerate(request.collections)]
        self._check_exist(names)
        if folder.exists():
            raise InvalidArgument(f"there is a backup named '{request.name}'", field="name")

        def back_up(control: Control) -> Result:
            self._backup_dir.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            made = self._store.backup(
                folder,
                names or None,
                progress=lambda at: control.report_progress(copy_progress_out(at)),
                cancellation=control.cancellation,
            )
            data = backup_out(made).SerializeToString()
            return Result(field=operation_pb2.Operation.BACKUP_FIELD_NUMBER, data=data)

        return Work(
            kind=Kind.BACKUP,
            collection=names[0] if len(names) == 1 else "",
            collections=tuple(names) or EVERY_COLLECTION,
            run=lambda control: control.in_thread(self._threads, lambda: back_up(control)),
            turns=self._turns,
        )

    def restore(self, request: pb.RestoreRequest) -> Work:
        """Makes a collection from a backup.

        Raises:
            InvalidArgument: a name is wrong, or there is no backup of that name.
            CollectionNotFound: the backup has no such collection.
            CollectionExists: there is a collection of the new name.
        """
        folder = self._backup_folder(request.backup, "backup")
        name = fields.collection_name(request.collection)
        new_name = fields.collection_name(request.new_name, "new_name") if request.new_name else name
        if not folder.is_dir():
            raise InvalidArgument(f"there is no backup named '{request.backup}'", field="backup")
        read_backup(folder).entry(name)
        if new_name in self._store.names():
            raise CollectionExists(f"collection '{new_name}' exists", metadata={"collection": new_name})

        def restore(control: Control) -> Result:
            note = ""

            def tell(at: Progress) -> None:
                # The store sends a note once. It is repeated here, because not every progress is read.
                nonlocal note
                note = at.note or note
                control.report_progress(copy_progress_out(replace(at, note=note)))

            collection = self._store.restore(folder, name, new_name, progress=tell, cancellation=control.cancellation)
            data = collection_out(collection.info(), self._models).SerializeToString()
            return Result(field=operation_pb2.Operation.RESTORED_COLLECTION_FIELD_NUMBER, data=data)

        async def run(control: Control) -> Result:
            result = await control.in_thread(self._threads, lambda: restore(control))
            await self._go_on_with(new_name)
            return result

        return Work(
            kind=Kind.RESTORE,
            collection=new_name,
            collections=tuple(dict.fromkeys((new_name, name))),
            run=run,
            turns=self._turns,
        )

    def evaluate(self, request: pb.EvaluateRequest) -> Work:
        """Measures how well a collection ranks.

        Raises:
            CollectionNotFound: there is none of that name.
            InvalidArgument: a query or a setting is wrong, or the reports would be too large.
        """
        name = fields.collection_name(request.collection)
        queries = evaluation.queries_in(request, self._config)
        settings = evaluation.all_settings_in(request, self._config)
        self._check_exist([name])
        # Not the request itself, which would be kept until the operation ends.
        include_queries = request.include_queries
        if include_queries:
            size = evaluation.reports_bytes(queries, settings)
            if size > self._config.max_message_bytes // 2:
                raise InvalidArgument(
                    f"the measures of each query would take {size} bytes; ask for fewer settings or queries at a time,"
                    " or leave out include_queries",
                    field="include_queries",
                )

        def serialized(one: Evaluation) -> bytes:
            return evaluation.report_out(one, include_queries=include_queries).SerializeToString()

        async def reports(control: Control) -> Result:
            found = self._pieces(operation_pb2.EvaluateResult())
            async with aclosing(self._evaluator.evaluate(name, queries, settings, Deadline(math.inf))) as evaluations:
                async for one in evaluations:
                    if isinstance(one, Evaluation):
                        report = await asyncio.to_thread(serialized, one)
                        found.add(operation_pb2.EvaluateResult.REPORTS_FIELD_NUMBER, report)
                    else:
                        control.report_progress(evaluation.progress_out(one))
            return Result(field=operation_pb2.Operation.EVALUATE_RESULT_FIELD_NUMBER, data=found.joined())

        return Work(
            kind=Kind.EVALUATE,
            collection=name,
            collections=(name,),
            run=lambda control: control.interruptible(reports(control)),
            turns=self._turns_to_measure,
            held_bytes=request.ByteSize(),
        )

    def _backup_folder(self, name: str, field: str) -> Path:
        if not fields.NAME.fullmatch(name):
            raise InvalidArgument(
                "a backup name is 1 to 64 of a-z, 0-9, '_' and '-', starting with a letter or digit", field=field
            )
        return self._backup_dir / name

    def _pieces(self, message: M) -> Pieces[M]:
        """The pieces of a result, which fits into a message with the rest of its operation."""
        return Pieces(message, max(1, self._config.max_message_bytes - OPERATION_BYTES))

    def _check_exist(self, names: Sequence[str]) -> None:
        # Not ``find``, which waits while a collection of the name is being restored.
        present = set(self._store.names()) if names else set()
        for name in names:
            if name not in present:
                raise CollectionNotFound(f"there is no collection {name!r}", metadata={"collection": name})
