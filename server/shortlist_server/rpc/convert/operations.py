"""Operations, their progress and their results."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TypeVar

from google.protobuf import timestamp_pb2
from google.protobuf.message import Message

from shortlist.v1 import generation_pb2, model_pb2, operation_service_pb2
from shortlist.v1 import operation_pb2 as pb
from shortlist_server.errors import InvalidArgument
from shortlist_server.operations.operation import Kind, Operation, State
from shortlist_server.rpc.convert.fields import collection_name
from shortlist_server.rpc.offload import offload
from shortlist_server.rpc.pieces import Pieces
from shortlist_server.rpc.status import internal_message, is_expected, status_message
from shortlist_server.storage.reports import Backup, CollectionReport, Progress

M = TypeVar("M", bound=Message)

PREFIX = "operations/"

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

_PROGRESS_FIELDS: dict[type, str] = {
    pb.VerifyProgress: "verify_progress",
    pb.CopyProgress: "copy_progress",
    pb.EvaluateProgress: "evaluate_progress",
    generation_pb2.ReindexProgress: "reindex_progress",
    model_pb2.PublishProgress: "publish_progress",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A result, serialised once: it may be large, and never changes.

    Attributes:
        field: its number in the proto's ``Operation``.
    """

    field: int
    data: bytes


def operation_id_in(name: str) -> str:
    """The id in an operation's name."""
    id = name.removeprefix(PREFIX)
    if id == name or not _ID.fullmatch(id):
        raise InvalidArgument(f"the name of an operation is '{PREFIX}' and its id", field="name")
    return id


def filter_in(request: operation_service_pb2.ListOperationsRequest) -> tuple[str, Kind | None, State | None]:
    """What a list is limited to: a collection ("": any), a kind, a state.

    A state that no operation of this release can have is refused like one that does not exist.
    """
    name = collection_name(request.collection) if request.collection else ""
    try:
        kind = Kind(pb.OperationKind.Name(request.kind).removeprefix("OPERATION_KIND_")) if request.kind else None
    except ValueError:
        raise InvalidArgument("there is no such kind of operation", field="kind") from None
    try:
        state = State(pb.OperationState.Name(request.state).removeprefix("OPERATION_STATE_")) if request.state else None
    except ValueError:
        raise InvalidArgument("no operation has such a state", field="state") from None
    return name, kind, state


def result_bytes(result: object) -> int:
    """Bytes of a result that an operation keeps."""
    return len(result.data) if isinstance(result, Result) else 0


def without_result(operation: Operation) -> Operation:
    """An operation as it is shown where nobody waits for its result, which may be large."""
    return replace(operation, result=None)


async def answer_out(response: M, operation: Operation) -> M:
    """A response whose first field is the operation with its result."""

    def answer() -> M:
        whole = Pieces(operation_out(operation))
        if isinstance(operation.result, Result):
            whole.add(operation.result.field, operation.result.data)
        pieces = Pieces(response)
        pieces.add(1, whole)
        return pieces.answer()

    return await offload(result_bytes(operation.result), answer)


def operation_out(operation: Operation) -> pb.Operation:
    """An operation without its result."""
    message = pb.Operation(
        name=f"{PREFIX}{operation.id}",
        kind=pb.OperationKind.Value(f"OPERATION_KIND_{operation.kind.value}"),
        collection=operation.collection,
        state=pb.OperationState.Value(f"OPERATION_STATE_{operation.state.value}"),
        create_time=_time(operation.create_seconds),
        update_time=_time(operation.update_seconds),
        end_time=None if operation.end_seconds is None else _time(operation.end_seconds),
    )
    if operation.progress is not None:
        getattr(message, _PROGRESS_FIELDS[type(operation.progress)]).CopyFrom(operation.progress)
    error = operation.error
    if error is not None:
        message.error.CopyFrom(
            status_message(error) if is_expected(error) else internal_message(error.metadata.get("request_id", ""))
        )
    return message


def copy_progress_out(progress: Progress) -> pb.CopyProgress:
    """The progress of a backup or a restore."""
    return pb.CopyProgress(
        collection=progress.collection,
        done_bytes=progress.done_bytes,
        total_bytes=progress.total_bytes,
        note=progress.note,
    )


def backup_out(backup: Backup) -> pb.BackupInfo:
    """A backup."""
    return pb.BackupInfo(
        name=backup.folder.name,
        create_time=_time(backup.create_time_seconds),
        collections=[
            pb.BackupCollection(
                name=collection.name,
                sequence=collection.sequence,
                document_count=collection.documents,
                passage_count=collection.passages,
                disk_bytes=collection.bytes,
                models=collection.models,
            )
            for collection in backup.collections
        ],
    )


def verify_report_out(report: CollectionReport) -> pb.VerifyReport:
    """What a verification found in a collection."""
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


def _time(seconds: float) -> timestamp_pb2.Timestamp:
    time = timestamp_pb2.Timestamp()
    time.FromMilliseconds(round(seconds * 1000))
    return time
