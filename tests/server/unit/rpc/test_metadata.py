"""Metadata from the wire: which keys and values are taken."""

from __future__ import annotations

import math
from typing import Any

import pytest
from google.protobuf import struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from shortlist_server.errors import InvalidArgument
from shortlist_server.rpc.convert.filters import key_in_path, path_in
from shortlist_server.rpc.convert.metadata import metadata_in


def struct(values: dict[str, Any]) -> struct_pb2.Struct:
    message = struct_pb2.Struct()
    message.update(values)
    return message


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({"": 1}, "document.metadata"),
        ({"a\nb": 1}, "document.metadata"),
        ({"a": {"": 1}}, "document.metadata.a"),
        ({"a.b": {"c": {"\0": 1}}}, r"document.metadata.a\.b.c"),
        ({"a": [1, {"b": {"": 1}}]}, "document.metadata.a.b"),
        ({"k" * 513: 1}, "document.metadata"),
        ({"a": {"." * 256: 1}}, "document.metadata.a"),
        ({"ä" * 128: {"ä" * 128: 1}}, "document.metadata." + "ä" * 128),
        ({"a": {"b": math.inf}}, "document.metadata.a.b"),
    ],
)
def test_a_key_that_no_filter_could_name_is_refused_with_its_place(metadata: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        metadata_in(struct(metadata), 65536)
    assert caught.value.field == field


def test_a_path_of_as_many_bytes_as_a_filter_may_have_is_taken() -> None:
    metadata = {"k" * 512: 1, "a": {"." * 255: 2}}
    assert metadata_in(struct(metadata), 65536) == metadata


@given(keys=st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=4))
def test_every_key_that_is_taken_can_be_named(keys: list[str]) -> None:
    metadata: Any = 1
    for key in reversed(keys):
        metadata = {key: metadata}
    try:
        metadata_in(struct(metadata), 65536)
    except InvalidArgument:
        return
    assert path_in(".".join(map(key_in_path, keys)), "field") == tuple(keys)
