"""An answer in pieces is the same message as one that is serialised whole."""

from __future__ import annotations

import pytest

from shortlist.v1 import document_pb2, search_pb2
from shortlist.v1 import document_service_pb2 as pb
from shortlist.v1 import search_service_pb2 as search_pb
from shortlist_server.errors import InvalidArgument
from shortlist_server.rpc.pieces import Pieces, as_bytes

SIZES = (0, 1, 100, 127, 128, 129, 16_383, 16_384, 300_000)


def document(size: int) -> document_pb2.StoredDocument:
    return document_pb2.StoredDocument(document=document_pb2.Document(id=str(size), text="x" * size), sequence=size)


def test_elements_fields_and_further_elements_are_one_message() -> None:
    answer = Pieces(pb.GetResponse(missing_ids=["a"]))
    for number, size in enumerate(SIZES):
        made = document(size)
        answer.add(pb.GetResponse.DOCUMENTS_FIELD_NUMBER, made if number % 2 else made.SerializeToString())
    answer.merge(pb.GetResponse(missing_ids=["b", "c"]))
    data = as_bytes(None, answer.answer())
    assert len(data) == answer.size
    assert pb.GetResponse.FromString(data) == pb.GetResponse(
        documents=[document(size) for size in SIZES], missing_ids=["a", "b", "c"]
    )


def test_messages_in_pieces_are_nested_in_others() -> None:
    hits = [search_pb2.Hit(id=str(size), document=document(size).document) for size in SIZES]
    batch = Pieces(search_pb.BatchSearchResponse())
    for some in (hits, [], hits[:3]):
        response = Pieces(search_pb.SearchResponse(report=search_pb2.SearchReport(sequence=7)))
        for hit in some:
            response.add(search_pb.SearchResponse.HITS_FIELD_NUMBER, hit)
        result = Pieces(search_pb.BatchSearchResult())
        result.add(search_pb.BatchSearchResult.RESPONSE_FIELD_NUMBER, response)
        batch.add(search_pb.BatchSearchResponse.RESULTS_FIELD_NUMBER, result)
    found = search_pb.BatchSearchResponse.FromString(as_bytes(None, batch.answer()))
    assert [list(result.response.hits) for result in found.results] == [hits, [], hits[:3]]
    assert [result.response.report.sequence for result in found.results] == [7, 7, 7]


def test_an_answer_is_refused_with_the_piece_that_is_too_much() -> None:
    whole = Pieces(pb.GetResponse())
    whole.add(pb.GetResponse.DOCUMENTS_FIELD_NUMBER, document(1000))
    answer = Pieces(pb.GetResponse(), whole.size)
    answer.add(pb.GetResponse.DOCUMENTS_FIELD_NUMBER, document(1000))
    with pytest.raises(InvalidArgument) as caught:
        answer.merge(pb.GetResponse(missing_ids=["a"]))
    assert caught.value.metadata == {"setting": "max_message_bytes", "limit": str(whole.size)}
