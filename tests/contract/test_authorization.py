"""Every method of the server has a row in the table of rights, and nothing else has."""

from __future__ import annotations

import pytest

from shortlist.v1 import (
    admin_service_pb2,
    collection_service_pb2,
    document_service_pb2,
    operation_service_pb2,
    search_service_pb2,
)
from shortlist.worker.v1 import worker_service_pb2
from shortlist_server.app import SERVICES
from shortlist_server.keys import Scope
from shortlist_server.rpc.authorization import RULES, WORKER_RULES
from shortlist_server.rpc.convert import fields

MODULES = (
    admin_service_pb2,
    collection_service_pb2,
    document_service_pb2,
    operation_service_pb2,
    search_service_pb2,
)
REFLECTION = {f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo" for version in ("v1", "v1alpha")}
METHODS = {
    f"/{service.full_name}/{method.name}": method
    for module in MODULES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def test_every_method_has_a_rule_and_every_rule_a_method() -> None:
    assert set(RULES) == {*METHODS, *REFLECTION}


def test_every_method_of_a_worker_has_a_rule_and_every_rule_a_method() -> None:
    service = worker_service_pb2.DESCRIPTOR.services_by_name["WorkerService"]
    assert set(WORKER_RULES) == {f"/{service.full_name}/{method.name}" for method in service.methods}


def test_the_services_above_are_all_that_the_server_serves() -> None:
    assert {method.rpartition("/")[0].lstrip("/") for method in METHODS} == set(SERVICES)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_rule_finds_the_collection_that_a_request_names(method: str) -> None:
    kind = METHODS[method].input_type
    request = getattr(_module(kind.file.name), kind.name)()
    named = "probe"
    if kind.name == "BatchSearchRequest":
        request.requests.add(collection=named)
    elif kind.name == "IngestRequest":
        request.start.collection = named
    elif "collection" in kind.fields_by_name:
        request.collection = named
    elif "collections" in kind.fields_by_name:
        request.collections.append(named)
    else:
        assert set(RULES[method].collections(request)) <= {"*"}
        return
    assert set(RULES[method].collections(request)) == {named}


def _module(file: str) -> object:
    return next(module for module in MODULES if module.DESCRIPTOR.name == file)


def test_models_are_for_operators_of_the_whole_server() -> None:
    methods = [method for method in METHODS if method.rpartition("/")[2].removesuffix("s").endswith("Model")]
    assert len(methods) >= 4
    for method in [
        *methods,
        *(f"/shortlist.v1.AdminService/{name}" for name in ("UploadModelChunk", "UpdateModelCard")),
    ]:
        assert RULES[method].scope is Scope.ADMIN
        assert set(RULES[method].collections(None)) == {"*"}


@pytest.mark.parametrize("name", ["..", ".", "../a", "a/b", "/etc", "a\\b", "a\0", "A", "", "a" * 65, "-a", "a.b", "ä"])
def test_no_name_of_a_collection_is_a_path(name: str) -> None:
    assert fields.NAME.fullmatch(name) is None
