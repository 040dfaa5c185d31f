"""Failed calls become errors of the tree, and nothing of the status is lost."""

from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

import shortlist
from shortlist._errors import ShortlistError
from shortlist._status import from_item_error, from_rpc_error, is_broken_connection
from shortlist.v1 import error_pb2


class Failed(grpc.RpcError):
    """A failed call as gRPC raises it."""

    def __init__(self, code: grpc.StatusCode, details: str = "", *parts: Any) -> None:
        self._code, self._details, self._parts = code, details, parts

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> tuple[Any, ...]:
        if not self._parts:
            return ()
        packed = []
        for part in self._parts:
            packed.append(any_pb2.Any())
            packed[-1].Pack(part)
        status = status_pb2.Status(message=self._details, details=packed)
        return (("grpc-status-details-bin", status.SerializeToString()),)


def info(reason: str, **metadata: str) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain="shortlist", metadata=metadata)


def test_reason_field_and_metadata_are_taken_from_the_details() -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="query.text", description="too long")
    error = from_rpc_error(
        Failed(
            grpc.StatusCode.INVALID_ARGUMENT,
            "too long",
            info("INVALID_ARGUMENT", limit="10"),
            error_details_pb2.BadRequest(field_violations=[violation]),
        )
    )
    assert type(error) is shortlist.InvalidArgument
    assert (error.field, error.metadata, error.code) == (
        "query.text",
        {"limit": "10"},
        grpc.StatusCode.INVALID_ARGUMENT,
    )
    assert str(error) == "too long (field: query.text)"


def test_an_overloaded_server_says_when_to_come_back() -> None:
    retry = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=500_000_000))
    error = from_rpc_error(Failed(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", info("OVERLOADED"), retry))
    assert type(error) is shortlist.Overloaded
    assert error.retry_after_seconds == 0.5
    assert error.retryable


def test_a_reason_from_a_newer_server_falls_back_to_the_code_and_is_kept() -> None:
    error = from_rpc_error(Failed(grpc.StatusCode.FAILED_PRECONDITION, "new", info("FROZEN")))
    assert type(error) is shortlist.FailedPrecondition
    assert error.reason == "FROZEN"


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_every_code_without_details_has_an_error(code: grpc.StatusCode) -> None:
    error = from_rpc_error(Failed(code, "as gRPC says"))
    assert isinstance(error, ShortlistError)
    assert (error.message, error.code) == ("as gRPC says", code)


def test_no_server_is_told_from_a_server_that_is_stopping() -> None:
    assert type(from_rpc_error(Failed(grpc.StatusCode.UNAVAILABLE))) is shortlist.ServerUnavailable
    stopping = Failed(grpc.StatusCode.UNAVAILABLE, "stopping", info("UNAVAILABLE"))
    assert type(from_rpc_error(stopping)) is shortlist.Unavailable


def test_only_what_grpc_itself_says_is_a_broken_connection() -> None:
    assert is_broken_connection(Failed(grpc.StatusCode.INTERNAL, "RST_STREAM"))
    assert not is_broken_connection(Failed(grpc.StatusCode.INTERNAL, "bug", info("INTERNAL")))
    assert not is_broken_connection(Failed(grpc.StatusCode.INVALID_ARGUMENT))


def test_an_items_error_keeps_whether_it_may_be_repeated() -> None:
    proto = error_pb2.Error(
        reason=error_pb2.ERROR_REASON_INFERENCE_FAILED, message="the model failed", field="document", retryable=True
    )
    error = from_item_error(proto)
    assert type(error) is shortlist.InferenceFailed
    assert (error.retryable, error.field) == (True, "document")
    assert not shortlist.InferenceFailed("").retryable
