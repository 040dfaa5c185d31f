"""A unary call without a connection: one request, and the function that reads its answer.

Both clients send calls, so neither knows a proto. The modules ``_..._calls`` make them, one module for each subject.
Pure functions.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf import wrappers_pb2

from shortlist._errors import InvalidArgument
from shortlist._filters import Filter
from shortlist._metadata import checked_text
from shortlist.v1 import filter_pb2

T = TypeVar("T")

COLLECTIONS = "shortlist.v1.CollectionService"
DOCUMENTS = "shortlist.v1.DocumentService"

HEALTH_METHOD = "grpc.health.v1.Health/Check"

_SERVING = b"\x08\x01"


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One unary call: its method as "service/method", its request, and what reads the response.

    ``response_type`` is the message to parse, or None for the bytes as they are. Without ``deadline`` the call takes as
    long as it needs, unless its caller says otherwise.
    """

    method: str
    request: Any
    response_type: Any
    read: Callable[[Any], T]
    deadline: bool = True

    def parse(self, data: bytes) -> Any:
        """The response from the wire."""
        return data if self.response_type is None else self.response_type.FromString(data)


def identified(request: Any) -> Any:
    """The request, with an id if it takes one: the server then does the call once, however often it comes."""
    if "request_id" in request.DESCRIPTOR.fields_by_name and not request.request_id:
        request.request_id = str(uuid.uuid4())
    return request


def to_bytes(request: Any) -> bytes:
    """The request as the wire has it."""
    data = request if isinstance(request, bytes) else request.SerializeToString()
    return bytes(data)


def health(service: str = "") -> Call[bool]:
    """Whether the server, or one of its services, is serving.

    The messages of the health protocol have one field each, a string in and an enum out; their package is a dependency
    of the server only, so another message of one string is sent, and the answer read by hand.
    """
    request = wrappers_pb2.StringValue(value=checked_text(service, "service"))
    return Call(HEALTH_METHOD, request, None, lambda response: response == _SERVING)


def names_of(names: Iterable[str], field: str) -> list[str]:
    """Several ids or names, as a list; a single one may be given as it is."""
    # A string is an iterable of strings too; nobody means to delete its letters.
    return [checked_text(name, field) for name in ([names] if isinstance(names, str) else names)]


def filter_to_proto(filter: Filter | None) -> filter_pb2.Filter | None:
    """A filter for the wire."""
    if filter is None:
        return None
    if not isinstance(filter, Filter):
        raise InvalidArgument(f'filter must be made with Field("name"), not {type(filter).__name__}', field="filter")
    return filter.to_proto()
