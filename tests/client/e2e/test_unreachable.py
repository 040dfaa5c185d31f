"""What a client says when it finds no server: which of the many ways it is, and what to do."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from click.testing import CliRunner

from shortlist import Document, ServerUnavailable, Tls
from shortlist_cli.group import cli
from shortlist_server.testing import server


@dataclass
class Place:
    """Servers of several kinds, and the files to reach them with."""

    folder: Path
    plain: str
    encrypted: str
    mutual: str
    website: str

    def file(self, name: str) -> str:
        return str(self.folder / name)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, target: str) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(folder / "foreign-ca.pem"))
    for name, issuer in (("server", authority), ("foreign", trustme.CA())):
        issued = issuer.issue_cert("localhost", "127.0.0.1")
        issued.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        issued.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
    tls = {"tls_certificate": str(folder / "server.pem"), "tls_key": str(folder / "server.key")}

    class Quiet(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    website = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=website.serve_forever, daemon=True).start()
    with (
        server(data_dir=folder / "encrypted", **tls) as encrypted,
        server(data_dir=folder / "mutual", **tls, tls_client_ca=str(folder / "ca.pem")) as mutual,
    ):
        yield Place(folder, target, encrypted.target, mutual.target, f"127.0.0.1:{website.server_port}")
    website.shutdown()
    website.server_close()


# The server, the files and flags of TLS, and what the message says.
CASES: dict[str, tuple[str, dict[str, str] | None, str]] = {
    "plain to TLS": ("encrypted", None, r"speaks TLS, and this client does not: .*--tls"),
    "TLS to plain": ("plain", {"ca": "ca.pem"}, r"speaks no TLS, and this client does"),
    "another authority": ("encrypted", {"ca": "foreign-ca.pem"}, r"is not trusted .*--tls-ca"),
    "the system's authorities": ("encrypted", {}, r"is not trusted .*--tls-ca"),
    "another name": ("encrypted", {"ca": "ca.pem", "server_name": "else.where"}, r"another name.*--tls-server-name"),
    "no certificate": ("mutual", {"ca": "ca.pem"}, r"demands a client's certificate.*--client-certificate"),
    "a foreign certificate": (
        "mutual",
        {"ca": "ca.pem", "certificate": "foreign.pem", "key": "foreign.key"},
        r"does not trust this client's certificate",
    ),
    "a website": ("website", None, r"what listens at .* is no gRPC server: check the port"),
    "nobody": ("127.0.0.1:1", None, r"nothing listens at 127.0.0.1:1: start a server there \(shortlist serve\)"),
    "no machine": ("no-such-host.invalid:50051", None, r"no machine with the name in"),
}

FLAGS = {
    "ca": "--tls-ca",
    "certificate": "--client-certificate",
    "key": "--client-key",
    "server_name": "--tls-server-name",
}


def arguments(place: Place, case: str) -> tuple[str, dict[str, str] | None, str]:
    """The address, the settings of TLS, and the message."""
    where, files, message = CASES[case]
    settings = files and {name: value if name == "server_name" else place.file(value) for name, value in files.items()}
    return getattr(place, where, where), settings, message


@pytest.mark.parametrize("case", CASES)
async def test_a_client_says_why_there_is_no_connection(place: Place, connect: Any, case: str) -> None:
    address, settings, message = arguments(place, case)
    client = connect(address, tls=False if settings is None else Tls(**settings), timeout_seconds=10)
    with pytest.raises(ServerUnavailable, match=message) as caught:
        await client.count("docs")
    assert caught.value.details and caught.value.__cause__ is not None


@pytest.mark.parametrize("case", CASES)
def test_a_command_says_it_too(place: Place, case: str) -> None:
    address, settings, message = arguments(place, case)
    flags = ["--tls"] if settings == {} else []
    for name, value in (settings or {}).items():
        flags += [FLAGS[name], value]
    result = CliRunner().invoke(cli, ["health", "--target", address, *flags])
    assert result.exit_code == 1
    assert re.search(message, result.output), result.output


async def test_an_ingest_says_it_when_it_gives_up(place: Place, connect: Any) -> None:
    client = connect(place.encrypted, timeout_seconds=0.5)
    with pytest.raises(ServerUnavailable, match="speaks TLS"):
        await client.ingest("docs", [Document(id="a", text="owl")], reconnect_seconds=0.5).finish()


async def test_waiting_for_a_server_ends_with_the_reason(place: Place, connect: Any) -> None:
    client = connect(place.encrypted)
    with pytest.raises(ServerUnavailable, match=r"not ready within 3 s: .*speaks TLS"):
        await client.wait_until_ready(timeout_seconds=3)
