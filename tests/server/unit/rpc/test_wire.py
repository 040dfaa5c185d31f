"""Counting the elements of a serialised message: exactly, in bounded time, and of whatever bytes there are."""

from __future__ import annotations

import time
from typing import cast

import pytest
from google.protobuf import struct_pb2
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st

from shortlist.v1 import document_pb2 as document
from shortlist.v1 import document_service_pb2, filter_pb2, search_service_pb2
from shortlist_server.config import Config
from shortlist_server.errors import InvalidArgument, InvalidFilter
from shortlist_server.rpc import wire
from shortlist_server.rpc.bounds import limits
from shortlist_server.rpc.wire import Limit, Walker

LIMITS = limits(Config())


def walker(message: type[Message], **changed: int) -> Walker:
    """A walker with some limits changed, by the last part of the field's name."""
    return Walker(
        cast(Descriptor, message.DESCRIPTOR),
        {name: Limit(changed.get(name.rpartition(".")[2], limit.most), limit.error) for name, limit in LIMITS.items()},
    )


def field_of(check: Walker, message: Message | bytes) -> str:
    """The field that is over its limit; empty when none is."""
    try:
        check.check(message if isinstance(message, bytes) else message.SerializeToString())
    except InvalidArgument as error:
        return error.field
    return ""


def test_elements_are_allowed_up_to_the_limit_and_the_field_over_it_is_named() -> None:
    check = walker(search_service_pb2.BatchSearchRequest, requests=3, filters=2, values=2, vector=4)
    request = search_service_pb2.BatchSearchRequest()
    for _ in range(3):
        request.requests.add().query.vector.extend([1.0] * 4)
    assert field_of(check, request) == ""
    request.requests[1].filter.negation.any_of.filters.add().one_of.values.add(string_value="a")
    request.requests[1].filter.negation.any_of.filters[0].one_of.values.add(number_value=1)
    assert field_of(check, request) == ""
    request.requests[1].filter.negation.any_of.filters[0].one_of.values.add(bool_value=True)
    assert field_of(check, request) == "requests[1].filter.negation.any_of.filters[0].one_of.values"
    request.requests[0].query.vector.append(0.0)
    assert field_of(check, request) == "requests[0].query.vector"
    del request.requests[:]
    request.requests.extend([search_service_pb2.SearchRequest()] * 4)
    assert field_of(check, request) == "requests"


def test_the_error_is_the_one_of_the_field() -> None:
    request = search_service_pb2.SearchRequest()
    request.filter.all_of.filters.extend([filter_pb2.Filter()] * 257)
    with pytest.raises(InvalidFilter) as caught:
        walker(search_service_pb2.SearchRequest).check(request.SerializeToString())
    assert caught.value.metadata == {"maximum": "256"}


@pytest.mark.parametrize("numbers", [[1], [1, 300, 2**40, -1], [0] * 5])
def test_packed_and_unpacked_numbers_are_counted_alike(numbers: list[int]) -> None:
    packed = document_service_pb2.RetryDeadLettersRequest(numbers=numbers).SerializeToString()
    unpacked = b"".join(
        b"\x10" + document_service_pb2.RetryDeadLettersRequest(numbers=[n]).SerializeToString()[2:] for n in numbers
    )
    for data in (packed, unpacked):
        assert list(document_service_pb2.RetryDeadLettersRequest.FromString(data).numbers) == numbers
        assert field_of(walker(document_service_pb2.RetryDeadLettersRequest, numbers=len(numbers)), data) == ""
        over = walker(document_service_pb2.RetryDeadLettersRequest, numbers=len(numbers) - 1)
        assert field_of(over, data) == "numbers"


def test_floats_one_by_one_are_counted_too() -> None:
    data = b"\x15\0\0\0\0" * 5
    inner = b"\x12" + bytes([len(data)]) + data
    assert len(search_service_pb2.SearchRequest.FromString(inner).query.vector) == 5
    assert field_of(walker(search_service_pb2.SearchRequest, vector=4), inner) == "query.vector"
    assert field_of(walker(search_service_pb2.SearchRequest, vector=5), inner) == ""


def test_maps_and_lists_within_lists_are_counted() -> None:
    metadata = struct_pb2.Struct()
    metadata.update({"a": [1, [2, 3, 4]], "b": 1})
    message = document.Document(id="a", metadata=metadata)
    assert field_of(walker(document.Document, values=3, fields=2), message) == ""
    assert field_of(walker(document.Document, values=2, fields=2), message).endswith("list_value.values")
    assert field_of(walker(document.Document, values=3, fields=1), message) == "metadata.fields"


@pytest.mark.parametrize(
    "data",
    [
        # One field again and again: a parser makes a new message each time that a oneof changes its mind.
        b"\x4a\x04\x22\x00\x2a\x00" * 200_000,
        b"\x12\x00" * 700_000,
        b"\x20\x01" * 700_000,
    ],
    ids=["a oneof that changes its mind", "a message of one value", "a number"],
)
def test_what_is_sent_again_and_again_is_counted_and_refused_in_time(data: bytes) -> None:
    begin = time.perf_counter()
    with pytest.raises(InvalidArgument, match="at most"):
        walker(search_service_pb2.SearchRequest).check(data)
    assert time.perf_counter() - begin < 5


def test_filters_within_filters_go_as_deep_as_a_parser() -> None:
    data = b""
    for _ in range(wire.MAX_LEVELS + 50):
        data = b"\x1a" + _varint(len(data)) + data
    with pytest.raises(InvalidArgument, match="cannot be read"):
        walker(filter_pb2.Filter).check(data)
    with pytest.raises(DecodeError):
        filter_pb2.Filter.FromString(data)


@pytest.mark.parametrize(
    "data",
    [b"\n", b"\n\x05ab", b"\x12\x02\n\x05ab", b"\x0b", b"\x0f", b"\x80", b"\x20\xff", b"\n" + b"\xff" * 11],
)
def test_bytes_that_are_no_message_are_an_invalid_argument(data: bytes) -> None:
    with pytest.raises(InvalidArgument, match="cannot be read"):
        walker(search_service_pb2.SearchRequest).check(data)


@given(st.binary(max_size=60))
def test_no_bytes_make_a_walk_fail_otherwise_than_by_an_invalid_argument(data: bytes) -> None:
    for kind in (search_service_pb2.BatchSearchRequest, document_service_pb2.IngestRequest):
        try:
            walker(kind).check(data)
        except InvalidArgument:
            continue


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 3))
def test_what_is_allowed_is_what_a_parser_finds(operations: int, keys: int, vectors: int) -> None:
    message = document_service_pb2.IngestRequest()
    for position in range(operations):
        upsert = message.batch.operations.add(position=position).upsert
        upsert.metadata.update({str(key): {"x": [key] * vectors} for key in range(keys)})
        upsert.vector.extend([1.0] * vectors)
    data = message.SerializeToString()
    made = walker(document_service_pb2.IngestRequest, operations=operations, fields=max(keys, 1), values=vectors)
    assert made.check(data) >= operations
    if operations:
        fewer = walker(document_service_pb2.IngestRequest, operations=operations - 1)
        assert field_of(fewer, data) == "batch.operations"


def _varint(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])
