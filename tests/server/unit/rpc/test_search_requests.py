"""Search requests: what they mean where they leave something out."""

from __future__ import annotations

from pathlib import Path

import pytest

from shortlist.v1 import search_pb2, search_service_pb2
from shortlist_server.config import Config
from shortlist_server.errors import InvalidArgument
from shortlist_server.rpc.convert.search import request_in

CONFIG = Config(data_dir=Path("data"))


def request(limit: int) -> search_service_pb2.SearchRequest:
    return search_service_pb2.SearchRequest(collection="books", query=search_pb2.Query(text="owl"), limit=limit)


@pytest.mark.parametrize(("asked", "meant"), [(0, 10), (1, 1), (1000, 1000)])
def test_a_limit_of_zero_is_the_default(asked: int, meant: int) -> None:
    assert request_in(request(asked), CONFIG).limit == meant


@pytest.mark.parametrize("asked", [-1, 1001])
def test_a_limit_out_of_its_range_is_refused(asked: int) -> None:
    with pytest.raises(InvalidArgument) as caught:
        request_in(request(asked), CONFIG)
    assert caught.value.field == "limit"
