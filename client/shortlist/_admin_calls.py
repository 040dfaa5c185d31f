"""The calls of ``AdminService``, without a connection; see ``_calls``.

What takes long answers in a stream: progress, then results. A ``StreamCall`` says how its messages are read, so that
both clients only carry them. Pure functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from shortlist import _admin_convert as convert
from shortlist import _admin_types as admin
from shortlist._calls import Call, names_of
from shortlist._collection_types import Collection, SearchDefaults
from shortlist._convert import collection as convert_collection
from shortlist._convert import search_defaults_to_proto
from shortlist._errors import InternalError, InvalidArgument
from shortlist._metadata import checked_integer, checked_text
from shortlist.v1 import admin_service_pb2 as pb
from shortlist.v1 import evaluation_pb2

ADMIN = "shortlist.v1.AdminService"

P = TypeVar("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCall(Generic[P, T]):
    """One call with an answer of many messages: each has progress or a result.

    Attributes:
        method: "service/method".
        read_progress, read_result: what read the two.
        result_field: the field of a message that has a result.
    """

    method: str
    request: Any
    response_type: Any
    read_progress: Callable[[Any], P]
    result_field: str
    read_result: Callable[[Any], T]

    def parse(self, data: bytes) -> Any:
        """A message from the wire."""
        return self.response_type.FromString(data)

    def take(self, message: Any, results: list[T], progress: Callable[[P], None] | None) -> None:
        """Tells progress, or keeps a result. What neither is comes from a newer server, and is passed by."""
        kind = message.WhichOneof("message")
        if kind == self.result_field:
            results.append(self.read_result(getattr(message, kind)))
        elif kind == "progress" and progress is not None:
            progress(self.read_progress(message.progress))


def only(results: list[T]) -> T:
    """The one result of a call.

    Raises:
        InternalError: the server ended the call without one.
    """
    if not results:
        raise InternalError("the server ended the call without a result")
    return results[-1]


def server_info() -> Call[admin.ServerInfo]:
    """Says what the server is."""
    return Call(f"{ADMIN}/GetServerInfo", pb.GetServerInfoRequest(), pb.GetServerInfoResponse, convert.server_info)


def recall(collection: str) -> Call[admin.CollectionRecall]:
    """Says how much of what is nearest a collection's searches find."""
    return Call(
        f"{ADMIN}/GetRecall",
        pb.GetRecallRequest(collection=checked_text(collection, "collection")),
        pb.GetRecallResponse,
        convert.recall,
    )


def verify(
    collection: str | None, *, sample: int, repair: bool, accept_loss: bool
) -> StreamCall[admin.VerifyProgress, admin.VerifyReport]:
    """Checks a collection, or all."""
    if collection == "":
        raise InvalidArgument("is empty; leave it out to verify all", field="collection")
    return StreamCall(
        method=f"{ADMIN}/Verify",
        request=pb.VerifyRequest(
            collection=checked_text(collection or "", "collection"),
            sample=checked_integer(sample, "sample"),
            repair=repair,
            accept_loss=accept_loss,
        ),
        response_type=pb.VerifyResponse,
        read_progress=convert.verify_progress,
        result_field="report",
        read_result=convert.verify_report,
    )


def backup(name: str, collections: Iterable[str]) -> StreamCall[admin.CopyProgress, admin.Backup]:
    """Makes a backup."""
    return StreamCall(
        method=f"{ADMIN}/Backup",
        request=pb.BackupRequest(name=checked_text(name, "name"), collections=names_of(collections, "collections")),
        response_type=pb.BackupResponse,
        read_progress=convert.copy_progress,
        result_field="backup",
        read_result=convert.backup,
    )


def list_backups(page_size: int, page_token: str) -> Call[tuple[list[admin.Backup], str]]:
    """One page of backups, and the next page's token."""
    return Call(
        f"{ADMIN}/ListBackups",
        pb.ListBackupsRequest(page_size=checked_integer(page_size, "page_size"), page_token=page_token),
        pb.ListBackupsResponse,
        lambda response: (list(map(convert.backup, response.backups)), response.next_page_token),
    )


def restore(backup: str, collection: str, new_name: str | None) -> StreamCall[admin.CopyProgress, Collection]:
    """Makes a collection from a backup."""
    return StreamCall(
        method=f"{ADMIN}/Restore",
        request=pb.RestoreRequest(
            backup=checked_text(backup, "backup"),
            collection=checked_text(collection, "collection"),
            new_name=checked_text(new_name or "", "new_name"),
        ),
        response_type=pb.RestoreResponse,
        read_progress=convert.copy_progress,
        result_field="collection",
        read_result=convert_collection,
    )


def evaluate(
    collection: str,
    queries: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, int]],
    settings: Iterable[SearchDefaults],
    *,
    include_queries: bool,
) -> StreamCall[admin.EvaluateProgress, admin.EvaluateReport]:
    """Measures how well a collection ranks."""
    unjudged = [id for id in queries if id not in qrels]
    if unjudged:
        raise InvalidArgument(f"query {unjudged[0]!r} has no qrels", field="qrels")
    return StreamCall(
        method=f"{ADMIN}/Evaluate",
        request=pb.EvaluateRequest(
            collection=checked_text(collection, "collection"),
            queries=[
                evaluation_pb2.JudgedQuery(
                    id=checked_text(id, "queries"),
                    text=checked_text(text, "queries"),
                    qrels=[
                        evaluation_pb2.Qrel(
                            document_id=checked_text(document, "qrels"),
                            grade=checked_integer(grade, "qrels"),
                        )
                        for document, grade in qrels[id].items()
                    ],
                )
                for id, text in queries.items()
            ],
            settings=map(search_defaults_to_proto, settings),
            include_queries=include_queries,
        ),
        response_type=pb.EvaluateResponse,
        read_progress=convert.evaluate_progress,
        result_field="report",
        read_result=convert.evaluate_report,
    )
