"""The calls of ``AdminService``, without a connection; see ``_calls``. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from shortlist import _admin_convert as convert
from shortlist import _admin_types as admin
from shortlist._calls import Call, names_of
from shortlist._collection_types import SearchDefaults
from shortlist._convert import search_defaults_to_proto
from shortlist._errors import InvalidArgument
from shortlist._metadata import checked_integer, checked_text
from shortlist._operation_calls import started
from shortlist._operation_types import Operation
from shortlist.v1 import admin_service_pb2 as pb
from shortlist.v1 import evaluation_pb2

ADMIN = "shortlist.v1.AdminService"


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


def verify(collection: str | None, *, sample: int, repair: bool, accept_loss: bool) -> Call[Operation]:
    """Starts to check a collection, or all."""
    if collection == "":
        raise InvalidArgument("is empty; leave it out to verify all", field="collection")
    return Call(
        f"{ADMIN}/Verify",
        pb.VerifyRequest(
            collection=checked_text(collection or "", "collection"),
            sample=checked_integer(sample, "sample"),
            repair=repair,
            accept_loss=accept_loss,
        ),
        pb.VerifyResponse,
        started,
    )


def backup(name: str, collections: Iterable[str]) -> Call[Operation]:
    """Starts to make a backup."""
    return Call(
        f"{ADMIN}/Backup",
        pb.BackupRequest(name=checked_text(name, "name"), collections=names_of(collections, "collections")),
        pb.BackupResponse,
        started,
    )


def list_backups(page_size: int, page_token: str) -> Call[tuple[list[admin.Backup], str]]:
    """One page of backups, and the next page's token."""
    return Call(
        f"{ADMIN}/ListBackups",
        pb.ListBackupsRequest(page_size=checked_integer(page_size, "page_size"), page_token=page_token),
        pb.ListBackupsResponse,
        lambda response: (list(map(convert.backup, response.backups)), response.next_page_token),
    )


def restore(backup: str, collection: str, new_name: str | None) -> Call[Operation]:
    """Starts to make a collection from a backup."""
    return Call(
        f"{ADMIN}/Restore",
        pb.RestoreRequest(
            backup=checked_text(backup, "backup"),
            collection=checked_text(collection, "collection"),
            new_name=checked_text(new_name or "", "new_name"),
        ),
        pb.RestoreResponse,
        started,
    )


def evaluate(
    collection: str,
    queries: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, int]],
    settings: Iterable[SearchDefaults],
    *,
    include_queries: bool,
) -> Call[Operation]:
    """Starts to measure how well a collection ranks."""
    return Call(
        f"{ADMIN}/Evaluate",
        pb.EvaluateRequest(
            collection=checked_text(collection, "collection"),
            queries=judged_queries(queries, qrels),
            settings=map(search_defaults_to_proto, settings),
            include_queries=include_queries,
        ),
        pb.EvaluateResponse,
        started,
    )


def judged_queries(
    queries: Mapping[str, str], qrels: Mapping[str, Mapping[str, int]]
) -> list[evaluation_pb2.JudgedQuery]:
    """Queries and their qrels, for the wire.

    Raises:
        InvalidArgument: a query has no qrels, or an id, a text or a grade is none.
    """
    unjudged = [id for id in queries if id not in qrels]
    if unjudged:
        raise InvalidArgument(f"query {unjudged[0]!r} has no qrels", field="qrels")
    return [
        evaluation_pb2.JudgedQuery(
            id=checked_text(id, "queries"),
            text=checked_text(text, "queries"),
            qrels=[
                evaluation_pb2.Qrel(document_id=checked_text(document, "qrels"), grade=checked_integer(grade, "qrels"))
                for document, grade in qrels[id].items()
            ],
        )
        for id, text in queries.items()
    ]
