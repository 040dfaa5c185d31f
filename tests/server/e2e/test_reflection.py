"""Reflection answers both versions of its service, as grpcurl and other tools ask them."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from shortlist_server.app import SERVICES
from shortlist_server.rpc.reflection import V1, V1ALPHA
from shortlist_server.testing import server


@pytest.fixture(scope="module")
def channel() -> Iterator[grpc.Channel]:
    with server() as running, grpc.insecure_channel(running.target) as channel:
        yield channel


def ask(channel: grpc.Channel, service: str, **question: str) -> ServerReflectionResponse:
    call = channel.stream_stream(
        f"/{service}/ServerReflectionInfo",
        request_serializer=ServerReflectionRequest.SerializeToString,
        response_deserializer=ServerReflectionResponse.FromString,
    )
    return next(call(iter([ServerReflectionRequest(**question)]), timeout=10))


@pytest.mark.parametrize("version", [V1, V1ALPHA])
def test_every_service_is_listed(channel: grpc.Channel, version: str) -> None:
    listed = ask(channel, version, list_services="").list_services_response.service
    assert {service.name for service in listed} == {*SERVICES, "grpc.health.v1.Health", V1, V1ALPHA}


@pytest.mark.parametrize("version", [V1, V1ALPHA])
@pytest.mark.parametrize("described", [*SERVICES, "grpc.health.v1.Health", V1, V1ALPHA])
def test_every_service_is_described(channel: grpc.Channel, version: str, described: str) -> None:
    answer = ask(channel, version, file_containing_symbol=described).file_descriptor_response
    files = map(descriptor_pb2.FileDescriptorProto.FromString, answer.file_descriptor_proto)
    assert described in {f"{file.package}.{service.name}" for file in files for service in file.service}
