"""The error tree, the status table and the proto's reasons are one list."""

from collections.abc import Iterator
from operator import attrgetter

import pytest
from google.rpc import error_details_pb2, status_pb2

from shortlist.v1 import error_pb2
from shortlist_server import errors
from shortlist_server.rpc.convert.errors import error_out
from shortlist_server.rpc.status import STATUS, grpc_status


def tree(cls: type[errors.ShortlistError] = errors.ShortlistError) -> Iterator[type[errors.ShortlistError]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from tree(sub)


def test_every_error_class_has_a_status_and_nothing_else_has() -> None:
    assert set(tree()) == set(STATUS)


def test_every_reason_is_in_the_proto_and_every_reason_of_the_proto_has_a_class() -> None:
    reasons = {f"ERROR_REASON_{cls.reason}" for cls in tree()} | {"ERROR_REASON_INTERNAL"}
    assert reasons == set(error_pb2.ErrorReason.keys()) - {"ERROR_REASON_UNSPECIFIED"}


def test_the_module_docstring_draws_every_class() -> None:
    assert errors.__doc__ is not None
    for cls in tree():
        assert f" {cls.__name__}" in errors.__doc__


@pytest.mark.parametrize("cls", sorted(tree(), key=attrgetter("__name__")))
def test_an_error_leaves_with_its_reason_its_field_and_its_retry_delay(cls: type[errors.ShortlistError]) -> None:
    error = cls("what is wrong", field="a.b", metadata={"limit": "3"}, retry_after_seconds=1.5)
    status = grpc_status(error)
    assert status.code is STATUS[cls]
    raw = dict(status.trailing_metadata)["grpc-status-details-bin"]
    details = status_pb2.Status.FromString(raw).details
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    assert [details[0].Unpack(info), details[1].Unpack(bad), details[2].Unpack(retry)] == [True] * 3
    assert (info.domain, info.reason, dict(info.metadata)) == ("shortlist", cls.reason, {"limit": "3"})
    assert bad.field_violations[0].field == "a.b"
    assert retry.retry_delay.ToMilliseconds() == 1500


def test_an_item_that_failed_carries_the_same() -> None:
    message = error_out(errors.Overloaded("full", retry_after_seconds=0.25, field="x"))
    assert error_pb2.ErrorReason.Name(message.reason) == "ERROR_REASON_OVERLOADED"
    assert message.retryable
    assert message.retry_after.ToMilliseconds() == 250
    assert error_out(errors.InvalidArgument("no")).retryable is False
