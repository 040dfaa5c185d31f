"""Pages: what a size means, and which tokens a list takes."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortlist.v1.admin_service_pb2 import ListBackupsRequest
from shortlist.v1.collection_service_pb2 import ListCollectionsRequest
from shortlist.v1.document_service_pb2 import ListDeadLettersRequest, ListRequest
from shortlist.v1.filter_pb2 import Exists, Filter
from shortlist_server.errors import InvalidArgument
from shortlist_server.rpc.convert import pages

FILTER = Filter(exists=Exists(field="year"))


def following(request: Any, position: int | str, **changed: Any) -> Any:
    """The request for the page behind a position, with fields changed since."""
    next_request = type(request)()
    next_request.CopyFrom(request)
    next_request.page_token = pages.next_token(request, position)
    for name, value in changed.items():
        next_request.ClearField(name)
        next_request.MergeFrom(type(request)(**{name: value}))
    return next_request


@pytest.mark.parametrize(("asked", "given_"), [(0, 100), (1, 1), (1000, 1000), (1001, 1000), (2**31 - 1, 1000)])
def test_a_size_of_zero_is_the_default_and_one_over_the_maximum_is_the_maximum(asked: int, given_: int) -> None:
    assert pages.page_size(ListRequest(page_size=asked)) == given_


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(InvalidArgument) as caught:
        pages.page_size(ListRequest(page_size=-1))
    assert caught.value.field == "page_size"


@given(position=st.integers(0, 10**18 - 1))
def test_a_number_comes_back(position: int) -> None:
    request = following(ListRequest(collection="books", filter=FILTER), position)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", request.page_token)
    assert pages.after_number(request) == position


def test_a_name_comes_back() -> None:
    assert pages.after_name(following(ListCollectionsRequest(), "team-a")) == "team-a"


def test_the_first_page_has_no_token() -> None:
    assert pages.after_number(ListBackupsRequest()) == 0
    assert pages.after_name(ListCollectionsRequest()) == ""


def test_the_page_size_may_change_between_pages() -> None:
    assert pages.after_number(following(ListRequest(collection="books"), 7, page_size=3)) == 7


@pytest.mark.parametrize(
    "request_",
    [
        following(ListRequest(collection="books"), 7, collection="films"),
        following(ListRequest(collection="books"), 7, filter=FILTER),
        following(ListDeadLettersRequest(collection="books"), 7, include_document=True),
        ListDeadLettersRequest(collection="books", page_token=pages.next_token(ListRequest(collection="books"), 7)),
        following(ListRequest(), 10**18),
        following(ListRequest(), "-1"),
        following(ListRequest(), "٣"),
        following(ListRequest(), "books"),
        following(ListRequest(), ""),
    ],
)
def test_a_token_of_another_list_or_with_a_position_that_is_none_is_refused(request_: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        pages.after_number(request_)
    assert caught.value.field == "page_token"


def test_a_token_whose_name_no_collection_can_have_is_refused() -> None:
    with pytest.raises(InvalidArgument) as caught:
        pages.after_name(following(ListCollectionsRequest(), "../etc"))
    assert caught.value.field == "page_token"


def test_a_token_with_any_bit_changed_is_refused() -> None:
    request = following(ListRequest(collection="books"), 12345)
    raw = base64.urlsafe_b64decode(request.page_token + "=" * (-len(request.page_token) % 4))
    for place in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[place // 8] ^= 1 << place % 8
        request.page_token = base64.urlsafe_b64encode(changed).rstrip(b"=").decode()
        with pytest.raises(InvalidArgument):
            pages.after_number(request)


@given(token=st.text(min_size=1))
def test_whatever_else_is_refused(token: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        pages.after_number(ListRequest(page_token=token))
    assert caught.value.field == "page_token"
