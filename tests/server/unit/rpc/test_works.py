"""What becomes of a verification of all collections when one of them fails."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shortlist.v1 import admin_service_pb2 as pb
from shortlist.v1 import evaluation_pb2, operation_pb2
from shortlist_server.config import Config
from shortlist_server.errors import OperationCancelled, Overloaded
from shortlist_server.inference.catalog import load_models
from shortlist_server.operations.operation import Control
from shortlist_server.pipeline.collections import NewCollection, create_collection
from shortlist_server.rpc.convert.operations import Result
from shortlist_server.rpc.works import Works
from shortlist_server.storage.compaction.compactor import BuildFailed
from shortlist_server.storage.reports import Check
from shortlist_server.storage.store import EmbeddedStore

UNUSED: Any = None


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EmbeddedStore]:
    """Three collections."""
    config = Config(data_dir=tmp_path, embedders=("hashing",))
    models, store = load_models(config), EmbeddedStore(config)
    for name in ("a", "b", "c"):
        create_collection(store, models, NewCollection(name=name))
    yield store
    store.close()
    models.close()


@pytest.fixture
async def works(store: EmbeddedStore, tmp_path: Path) -> AsyncIterator[Works]:
    with ThreadPoolExecutor(1) as threads:
        yield Works(store, UNUSED, threads, 1, tmp_path, UNUSED, UNUSED, UNUSED, Config(data_dir=tmp_path))


async def reports(works: Works, request: pb.VerifyRequest) -> list[operation_pb2.VerifyReport]:
    result = await works.verify(request).run(Control(lambda: None))
    assert isinstance(result, Result)
    return list(operation_pb2.VerifyResult.FromString(result.data).reports)


async def test_one_that_cannot_be_verified_costs_no_report_of_the_others(
    store: EmbeddedStore, works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify = store.verify

    def fail_for_b(name: str, **settings: Any) -> Any:
        if name == "b":
            raise Overloaded("too many files are open")
        return verify(name, **settings)

    monkeypatch.setattr(store, "verify", fail_for_b)
    found = {report.collection: report for report in await reports(works, pb.VerifyRequest())}
    assert {name: report.ok for name, report in found.items()} == {"a": True, "b": False, "c": True}
    assert found["b"].checks[0].detail == "too many files are open"
    with pytest.raises(Overloaded):
        await reports(works, pb.VerifyRequest(collection="b"))


async def test_a_cancelled_verification_is_no_failed_check(
    store: EmbeddedStore, works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cancelled(name: str, **settings: Any) -> Any:
        raise OperationCancelled("enough")

    monkeypatch.setattr(store, "verify", cancelled)
    with pytest.raises(OperationCancelled):
        await reports(works, pb.VerifyRequest())


def test_a_repair_whose_build_fails_is_a_failed_check(store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **settings: Any) -> Any:
        raise BuildFailed("the process died")

    collection = store.open("a")
    monkeypatch.setattr(collection, "repair", fail)
    damaged = Check(name="rows", ok=False, detail="damaged")
    monkeypatch.setattr("shortlist_server.storage.verify.database_checks", lambda _: [damaged])
    report = store.verify("a", repair=True)
    assert [check.detail for check in report.checks if check.name == "repair"] == [
        "a segment could not be built: the process died"
    ]


async def test_a_waiting_evaluation_keeps_no_request(works: Works) -> None:
    query = evaluation_pb2.JudgedQuery(id="q", text="fox", qrels=[evaluation_pb2.Qrel(document_id="a", grade=1)])
    request = pb.EvaluateRequest(collection="a", queries=[query], include_queries=True)
    holders = sys.getrefcount(request)
    work = works.evaluate(request)
    assert sys.getrefcount(request) == holders
    assert work.held_bytes == request.ByteSize() > 0
