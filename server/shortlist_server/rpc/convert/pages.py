"""Pages of lists: their sizes, and the tokens by which clients ask for the next one.

A token is opaque to clients: the URL-safe base64 of a version byte, a checksum and the position behind which the page
begins. The checksum covers the request without its page size, so a token of another list, collection or filter is
refused (AIP-158). It is no signature: positions are checked like any other input. Pure functions.
"""

from __future__ import annotations

import base64
from hashlib import blake2b

from google.protobuf.message import Message

from shortlist.v1 import admin_service_pb2 as admin_pb
from shortlist.v1 import collection_service_pb2 as collection_pb
from shortlist.v1 import document_service_pb2 as document_pb
from shortlist.v1 import operation_service_pb2 as operation_pb
from shortlist_server.errors import InvalidArgument
from shortlist_server.rpc.convert.fields import collection_name, within

Request = (
    admin_pb.ListBackupsRequest
    | admin_pb.ListModelsRequest
    | collection_pb.ListCollectionsRequest
    | document_pb.ListRequest
    | document_pb.ListDeadLettersRequest
    | operation_pb.ListOperationsRequest
)

DEFAULT_SIZE = 100
MAX_SIZE = 1000

_VERSION = b"\x01"
_CHECKSUM_BYTES = 8
_MAX_DIGITS = 18
"""Digits of the largest position; it stays under 2^63, which is what SQLite takes."""


def page_size(request: Request) -> int:
    """How many items the page has at most; the default for 0, and the maximum for more than that."""
    return min(within(request.page_size, 0, 2**31 - 1, "page_size") or DEFAULT_SIZE, MAX_SIZE)


def next_token(request: Request, position: int | str) -> str:
    """The token of the page that begins behind ``position``."""
    text = str(position).encode()
    return base64.urlsafe_b64encode(_VERSION + _checksum(request, text) + text).rstrip(b"=").decode()


def after_number(request: Request) -> int:
    """The number behind which the page begins; 0 for the first.

    Raises:
        InvalidArgument: the token is not one of this list.
    """
    position = _position(request)
    if position and not (position.isascii() and position.isdecimal() and len(position) <= _MAX_DIGITS):
        raise _not_of_this_list()
    return int(position or 0)


def after_name(request: Request) -> str:
    """The collection's name behind which the page begins; "" for the first.

    Raises:
        InvalidArgument: the token is not one of this list.
    """
    position = _position(request)
    return collection_name(position, "page_token") if position else ""


def _position(request: Request) -> str:
    token = request.page_token
    if not token:
        return ""
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        version, checksum, text = raw[:1], raw[1 : 1 + _CHECKSUM_BYTES], raw[1 + _CHECKSUM_BYTES :]
        position = text.decode()
    except ValueError:
        raise _not_of_this_list() from None
    if version != _VERSION or checksum != _checksum(request, text) or not position:
        raise _not_of_this_list()
    return position


def _checksum(request: Request, position: bytes) -> bytes:
    asked: Message = type(request)()
    asked.CopyFrom(request)
    for paging in ("page_size", "page_token"):
        asked.ClearField(paging)
    name = request.DESCRIPTOR.full_name.encode()
    parts = (name, position, asked.SerializeToString(deterministic=True))
    return blake2b(b"\0".join(parts), digest_size=_CHECKSUM_BYTES).digest()


def _not_of_this_list() -> InvalidArgument:
    return InvalidArgument(
        "not a token of this list; send the next_page_token of the page before, and change nothing but the page size",
        field="page_token",
    )
