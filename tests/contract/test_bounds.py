"""Every repeated field that a request may hold has a bound, and every bound such a field."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from shortlist.v1 import (
    admin_service_pb2,
    collection_service_pb2,
    document_service_pb2,
    operation_service_pb2,
    search_service_pb2,
)
from shortlist.worker.v1 import worker_service_pb2
from shortlist_server.config import Config
from shortlist_server.rpc.bounds import limits
from shortlist_server.rpc.wire import MAX_MESSAGES, Walker

MODULES = (
    admin_service_pb2,
    collection_service_pb2,
    document_service_pb2,
    operation_service_pb2,
    search_service_pb2,
    worker_service_pb2,
)
REQUESTS = [
    method.input_type
    for module in MODULES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


def repeated_fields(descriptor: Descriptor, seen: set[str]) -> Iterator[FieldDescriptor]:
    """The repeated fields of a message and of all that it may hold."""
    if descriptor.full_name in seen:
        return
    seen.add(descriptor.full_name)
    for field in descriptor.fields:
        if field.is_repeated:
            yield field
        if field.message_type is not None:
            yield from repeated_fields(field.message_type, seen)


def test_every_repeated_field_of_a_request_is_bounded_and_nothing_else_is() -> None:
    seen: set[str] = set()
    fields = {field.full_name for request in REQUESTS for field in repeated_fields(request, seen)}
    assert fields == set(limits(Config()))
    assert len(fields) > 20


def test_no_bound_is_higher_than_what_a_message_may_hold() -> None:
    assert all(0 < limit.most <= MAX_MESSAGES for limit in limits(Config()).values())


@pytest.mark.parametrize("request_type", REQUESTS, ids=lambda descriptor: descriptor.full_name)
def test_a_request_with_a_field_that_has_no_bound_is_not_served(request_type: Descriptor) -> None:
    known = limits(Config())
    Walker(request_type, known)
    for field in repeated_fields(request_type, set()):
        with pytest.raises(LookupError):
            Walker(request_type, {name: limit for name, limit in known.items() if name != field.full_name})


def test_bounds_follow_the_settings() -> None:
    own = limits(Config(max_filter_nodes=3, max_filter_values=5))
    assert own["shortlist.v1.AllOf.filters"].most == 3
    assert own["shortlist.v1.OneOf.values"].most == 5
