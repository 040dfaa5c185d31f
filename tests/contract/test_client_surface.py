"""The client's public surface: complete, frozen, and the same for both clients.

A name that is added is added to ``PUBLIC`` too; one that is removed or renamed needs a major release.
"""

import inspect
import re
import subprocess
import sys
import types
from typing import Any, TypeVar

import pytest

import shortlist
from shortlist import AsyncClient, Client
from shortlist import _errors as client_errors
from shortlist._channel import REPEATED_METHODS
from shortlist._status import BY_REASON
from shortlist.v1 import (
    admin_service_pb2,
    collection_service_pb2,
    document_service_pb2,
    error_pb2,
    operation_service_pb2,
    search_service_pb2,
)

PUBLIC = {
    "DEFAULT_TARGET",
    "DEFAULT_TIMEOUT_SECONDS",
    "Ack",
    "AckStatus",
    "AsyncClient",
    "AsyncIngest",
    "AsyncPages",
    "Backup",
    "BackupCollection",
    "Cancelled",
    "Candidates",
    "ChangedQuery",
    "Chunking",
    "Client",
    "ClientClosed",
    "Collection",
    "CollectionConfig",
    "CollectionExists",
    "CollectionNotFound",
    "CollectionRecall",
    "CommitsLost",
    "CopyProgress",
    "DataCorrupted",
    "DeadLetter",
    "DeadlineExceeded",
    "Degradation",
    "DeleteResult",
    "Deletion",
    "DenseSource",
    "Document",
    "DocumentTooLarge",
    "EmbedderModel",
    "EtagMismatch",
    "EvaluateProgress",
    "EvaluateReport",
    "ExplainedCandidate",
    "ExplainedTexts",
    "Explanation",
    "FailedPrecondition",
    "FailurePolicy",
    "Field",
    "Filter",
    "Fusion",
    "FusionMethod",
    "Generation",
    "GenerationComparison",
    "GenerationNotFound",
    "GenerationNotReady",
    "GenerationState",
    "GenerationSwitch",
    "Hit",
    "HitMoves",
    "Include",
    "InferenceFailed",
    "Ingest",
    "IngestError",
    "IngestFailed",
    "IngestInterrupted",
    "IngestSummary",
    "InternalError",
    "InvalidArgument",
    "InvalidFilter",
    "InvalidOperation",
    "InvalidVector",
    "ModelExists",
    "ModelFile",
    "ModelInUse",
    "ModelKind",
    "ModelMismatch",
    "ModelNotFound",
    "ModelNotReady",
    "ModelRefused",
    "ModelState",
    "ModelVersion",
    "ModelsElsewhere",
    "NewerDataFormat",
    "NotFound",
    "Operation",
    "OperationCancelled",
    "OperationKind",
    "OperationNotFound",
    "OperationNotPausable",
    "OperationProgress",
    "OperationResult",
    "OperationState",
    "OutOfSpace",
    "OverflowPolicy",
    "Overloaded",
    "Pages",
    "Passage",
    "PassageHit",
    "PermissionDenied",
    "PublishProgress",
    "PublishedModel",
    "RankingComparison",
    "RankingQuality",
    "RecallEstimate",
    "ReindexEstimate",
    "ReindexProgress",
    "RequestIdReused",
    "Rerank",
    "RerankScore",
    "RerankStage",
    "RerankStageReport",
    "RerankedPassage",
    "RerankerModel",
    "ResourceExhausted",
    "ResumeMismatch",
    "RetrievalMode",
    "Scalar",
    "SearchDefaults",
    "SearchQuery",
    "SearchReport",
    "SearchResult",
    "SequenceNotReached",
    "ServerInfo",
    "ServerUnavailable",
    "ServiceNotFound",
    "ShortlistError",
    "StageScore",
    "StoredDocument",
    "StreamConflict",
    "StreamLost",
    "Tls",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "UnsupportedByCollection",
    "UploadProgress",
    "UsedAfterFork",
    "VerifyCheck",
    "VerifyProgress",
    "VerifyReport",
}

METHOD_OF_RPC = {
    "Search": "search",
    "BatchSearch": "batch_search",
    "Ingest": "ingest",
    "Get": "get",
    "Delete": "delete",
    "List": "list",
    "Count": "count",
    "CreateCollection": "create_collection",
    "GetCollection": "get_collection",
    "ListCollections": "list_collections",
    "UpdateCollection": "update_collection",
    "DeleteCollection": "delete_collection",
    "GetServerInfo": "server_info",
    "GetRecall": "recall",
    "Verify": "verify",
    "Backup": "backup",
    "ListBackups": "list_backups",
    "Restore": "restore",
    "Evaluate": "evaluate",
    "ListDeadLetters": "list_dead_letters",
    "RetryDeadLetters": "retry_dead_letters",
    "DeleteDeadLetters": "delete_dead_letters",
    "GetOperation": "get_operation",
    "ListOperations": "list_operations",
    "CancelOperation": "cancel_operation",
    "PauseOperation": "pause_operation",
    "ResumeOperation": "resume_operation",
    "WaitOperation": "wait_operation",
    "StartReindex": "reindex",
    "ListGenerations": "generations",
    "CompareGenerations": "compare_generations",
    "SwitchGeneration": "switch_generation",
    "RollBackGeneration": "roll_back_generation",
    "DropGeneration": "drop_generation",
    "StartModelUpload": "upload_model",
    "UploadModelChunk": "upload_model",
    "PublishModel": "publish_model",
    "ListModels": "list_models",
    "GetModel": "get_model",
    "UpdateModelCard": "update_model_card",
    "DeleteModel": "delete_model",
}

SERVICES = [
    service
    for module in (
        search_service_pb2,
        document_service_pb2,
        collection_service_pb2,
        admin_service_pb2,
        operation_service_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
]
RPCS = [method.name for service in SERVICES for method in service.methods]


def public_methods(kind: type) -> dict[str, Any]:
    return {name: value for name, value in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


def shape(function: Any) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


def test_all_is_complete_and_as_frozen() -> None:
    imported = {
        name
        for name, value in vars(shortlist).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert imported == set(shortlist.__all__)
    assert set(shortlist.__all__) == PUBLIC


def test_importing_the_client_imports_nothing_of_the_command_line_or_the_server() -> None:
    program = "import shortlist, sys; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"click", "rich", "torch", "numpy", "shortlist_cli", "shortlist_server"} & set(modules)


@pytest.mark.parametrize("rpc", RPCS)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_every_rpc_has_a_method_in_both_clients(kind: type, rpc: str) -> None:
    assert METHOD_OF_RPC[rpc] in public_methods(kind)


def test_both_clients_have_the_same_methods_and_parameters() -> None:
    blocking, asynchronous = public_methods(Client), public_methods(AsyncClient)
    assert blocking.keys() == asynchronous.keys()
    for name in blocking:
        assert shape(blocking[name]) == shape(asynchronous[name]), name
    assert shape(Client.__init__) == shape(AsyncClient.__init__)


def test_both_ingests_have_the_same_methods_and_parameters() -> None:
    blocking, asynchronous = public_methods(shortlist.Ingest), public_methods(shortlist.AsyncIngest)
    assert {name: shape(value) for name, value in blocking.items()} == {
        name: shape(value) for name, value in asynchronous.items()
    }


def test_both_clients_are_documented_alike() -> None:
    for name, method in public_methods(Client).items():
        first, second = (inspect.getdoc(function) for function in (method, getattr(AsyncClient, name)))
        assert first and second, name
        assert first.splitlines()[0] == second.splitlines()[0], name


IDEMPOTENT = re.compile(
    "Search|BatchSearch|Get.*|List.*|Count|(Cancel|Pause|Resume|Wait)Operation|StartModelUpload|UploadModelChunk"
)


def test_every_repeated_method_reads_or_is_idempotent_or_has_a_request_id() -> None:
    methods = {service.full_name: {method.name: method for method in service.methods} for service in SERVICES}
    for service, names in REPEATED_METHODS.items():
        for name in names:
            takes_id = "request_id" in methods[service][name].input_type.fields_by_name
            assert takes_id != bool(IDEMPOTENT.fullmatch(name)), name


def test_every_method_but_the_ingest_is_repeated() -> None:
    repeated = {name for names in REPEATED_METHODS.values() for name in names}
    assert set(RPCS) - repeated == {"Ingest"}


def test_every_reason_of_the_contract_has_its_error() -> None:
    reasons = {name.removeprefix("ERROR_REASON_") for name in error_pb2.ErrorReason.keys()} - {"UNSPECIFIED"}  # noqa: SIM118
    assert set(BY_REASON) == reasons
    assert {kind.reason for kind in BY_REASON.values()} == reasons


T = TypeVar("T")


def subclasses(kind: type[T]) -> set[type[T]]:
    return {kind}.union(*(subclasses(one) for one in kind.__subclasses__()))


def test_the_error_tree_mirrors_the_servers() -> None:
    server_errors = pytest.importorskip("shortlist_server.errors")
    for kind in subclasses(server_errors.ShortlistError):
        mirror = getattr(client_errors, kind.__name__)
        assert mirror.__mro__[1].__name__ == kind.__mro__[1].__name__, kind.__name__
        assert mirror.retryable == kind.retryable, kind.__name__


def test_every_error_is_public_and_drawn_in_the_tree() -> None:
    drawn = set(re.findall(r"[├└]── (\w+)", client_errors.__doc__ or "")) | {"ShortlistError"}
    ours = {kind.__name__ for kind in subclasses(shortlist.ShortlistError) if kind.__module__ == client_errors.__name__}
    assert drawn == ours
    assert ours <= set(shortlist.__all__)
