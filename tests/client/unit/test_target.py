"""Which addresses are taken, and what is said of the others."""

from __future__ import annotations

import pytest

from shortlist import Client, InvalidArgument


@pytest.mark.parametrize(
    "target",
    [
        "localhost:50051",
        "127.0.0.1:1",
        "[::1]:65535",
        "search.example:443",
        "dns:///search.example:50051",
        "dns:search.example",
        "ipv4:127.0.0.1:50051",
        "unix:/tmp/socket",
        "unix-abstract:name",
    ],
)
def test_a_target_is_a_host_and_a_port_or_has_a_scheme_of_grpcs(target: str) -> None:
    with Client(target) as client:
        assert target in repr(client)


@pytest.mark.parametrize(
    ("target", "advice"),
    [
        ("", "HOST:PORT"),
        (" localhost:50051", "HOST:PORT"),
        ("http://localhost:50051", r'write "localhost:50051" \('),
        ("https://search.example:443/path", r'write "search.example:443", with tls=True .* --tls'),
        ("grpc://localhost:50051", r'write "localhost:50051" \('),
        ("localhost", r'write "localhost:50051"'),
        ("[::1]", r'write "\[::1\]:50051"'),
        ("::1:50051", r'"\[::1\]:50051"'),
        ("localhost:", "port between 1 and 65535"),
        ("localhost:http", "port between 1 and 65535"),
        ("localhost:0", "port between 1 and 65535"),
        ("localhost:99999", "port between 1 and 65535"),
        ("localhost:50051/books", "port between 1 and 65535"),
        (":50051", "no host"),
    ],
)
def test_any_other_is_refused_before_a_call_with_what_to_write(target: str, advice: str) -> None:
    with pytest.raises(InvalidArgument, match=advice) as caught:
        Client(target)
    assert caught.value.field == "target"
