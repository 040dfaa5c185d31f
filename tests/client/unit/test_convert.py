"""What goes into a proto comes back, and what cannot go in is named."""

import array
import math
from typing import Any

import numpy as np
import pytest
from google.protobuf import struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from shortlist import CollectionConfig, Document, InvalidArgument, InvalidVector
from shortlist._convert import checked_vector, config_to_proto, document, fill_document
from shortlist._metadata import MAX_LEVELS, struct_from_mapping, struct_to_dict
from shortlist.v1 import document_pb2, document_service_pb2


def document_to_proto(document: Any) -> document_pb2.Document:
    proto = document_pb2.Document()
    fill_document(proto, document)
    return proto


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), JSON, max_size=5))
def test_metadata_comes_back_equal(metadata: dict[str, Any]) -> None:
    struct = struct_pb2.Struct()
    struct_from_mapping(metadata, struct)
    parsed = struct_pb2.Struct.FromString(struct.SerializeToString())
    assert struct_to_dict(parsed) == metadata


def test_whole_numbers_come_back_as_int_and_others_as_float() -> None:
    struct = struct_pb2.Struct()
    struct_from_mapping({"year": 2020, "price": 1.5, "flag": True}, struct)
    read = struct_to_dict(struct)
    assert [type(read[key]) for key in ("year", "price", "flag")] == [int, float, bool]


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({"a": {"b": math.nan}}, "document.metadata.a.b"),
        ({"a": [1, math.inf]}, "document.metadata.a[1]"),
        ({"a": 2**60}, "document.metadata.a"),
        ({"a": {1, 2}}, "document.metadata.a"),
        ({1: "a"}, "document.metadata"),
        ({"a": "\ud800"}, "document.metadata.a"),
        ([1], "document.metadata"),
    ],
)
def test_metadata_that_is_not_json_is_refused_with_its_place(metadata: Any, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        document_to_proto(Document(id="a", text="x", metadata=metadata))
    assert caught.value.field == field


def test_metadata_without_end_is_refused() -> None:
    metadata: dict[str, Any] = {}
    metadata["again"] = metadata
    with pytest.raises(InvalidArgument, match="levels"):
        document_to_proto(Document(id="a", metadata=metadata))


def test_the_deepest_metadata_that_is_translated_can_be_sent() -> None:
    metadata: dict[str, Any] = {}
    for _ in range(MAX_LEVELS - 1):
        metadata = {"a": metadata}
    operation = document_service_pb2.IngestOperation()
    fill_document(operation.upsert, Document(id="a", metadata=metadata))
    request = document_service_pb2.IngestRequest(batch=document_service_pb2.IngestBatch(operations=[operation]))
    assert document_service_pb2.IngestRequest.FromString(request.SerializeToString()) == request
    with pytest.raises(InvalidArgument, match="levels"):
        document_to_proto(Document(id="a", metadata={"a": metadata}))


MATRIX = np.ones((2, 2), dtype=np.float32)


@pytest.mark.parametrize(
    "vector", [[], (), np.array([]), ["a"], "12", b"12", [[1.0]], MATRIX, np.float32(1), np.array(["a"]), [1e300], 3]
)
def test_a_vector_that_is_none_is_refused(vector: Any) -> None:
    with pytest.raises(InvalidVector) as caught:
        document_to_proto(Document(id="a", vector=vector))
    assert caught.value.field == "document.vector"


class Tensor:
    """An array of a library that the client does not know."""

    def tolist(self) -> list[float]:
        return [0.5, 2]


@pytest.mark.parametrize(
    "vector",
    [
        [0.5, 2],
        (0.5, 2.0),
        array.array("d", [0.5, 2]),
        Tensor(),
        np.array([0.5, 2], dtype=np.float64),
        np.array([0.5, 2], dtype=">f4"),
        np.array([0.5, 9, 2], dtype=np.float32)[::2],
    ],
)
def test_vectors_of_any_kind_are_sent_as_little_endian_float32(vector: Any) -> None:
    document = document_to_proto(Document(id="a", vector=vector))
    assert document.vector_f32 == b"\x00\x00\x00\x3f\x00\x00\x00\x40"
    assert not document.vector


def test_the_values_of_a_documents_vector_are_the_servers_to_judge() -> None:
    assert len(document_to_proto(Document(id="a", vector=[math.nan, math.inf, 0])).vector_f32) == 12


@pytest.mark.parametrize("vector", [[], [math.nan], [math.inf], [10**400], ["a"], [[1.0]], 3])
def test_a_query_vector_that_is_none_is_refused(vector: Any) -> None:
    with pytest.raises(InvalidVector) as caught:
        checked_vector(vector, "query.vector")
    assert caught.value.field == "query.vector"


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=8))
def test_a_vector_comes_back_equal_by_either_field(vector: list[float]) -> None:
    proto = document_to_proto(Document(id="a", vector=vector))
    assert document(proto).vector == tuple(vector)
    assert document(document_pb2.Document(id="a", vector=vector)).vector == tuple(vector)
    assert document(document_pb2.Document(id="a")).vector is None


def test_a_mapping_is_a_document_and_unknown_keys_are_refused() -> None:
    assert document_to_proto({"id": "a", "text": "x"}).text == "x"
    with pytest.raises(InvalidArgument, match="year"):
        document_to_proto({"id": "a", "year": 2020})
    with pytest.raises(InvalidArgument, match="needs an id"):
        document_to_proto({"text": "x"})
    with pytest.raises(InvalidArgument, match="string, not int"):
        document_to_proto({"id": 5})


def test_one_string_is_not_several_filterable_fields() -> None:
    fields: Any = "year"
    with pytest.raises(InvalidArgument) as caught:
        config_to_proto(CollectionConfig(filterable_fields=fields))
    assert caught.value.field == "config.filterable_fields"
