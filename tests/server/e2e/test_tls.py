"""TLS and mutual TLS: who gets a connection, and which settings are refused."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from click.testing import CliRunner

from shortlist import Client, Tls
from shortlist import _errors as errors
from shortlist_cli.group import cli
from shortlist_server.errors import InvalidArgument
from shortlist_server.keys import Scope, new_key
from shortlist_server.testing import TestServer, server

KEY, ENTRY = new_key("all", Scope)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def files(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the server's certificate and clients' of all kinds."""
    folder = tmp_path_factory.mktemp("tls")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=2)
    for name, issued in {
        "server": authority.issue_cert("localhost", "127.0.0.1"),
        "good": authority.issue_cert("client"),
        "foreign": trustme.CA().issue_cert("client"),
        "expired": authority.issue_cert("client", not_before=past - datetime.timedelta(days=9), not_after=past),
    }.items():
        issued.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        issued.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
    return folder


@pytest.fixture(scope="module", params=[False, True], ids=["tls", "mtls"])
def secured(request: pytest.FixtureRequest, files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    settings = {"tls_certificate": str(files / "server.pem"), "tls_key": str(files / "server.key")}
    if request.param:
        settings["tls_client_ca"] = str(files / "ca.pem")
    with server(data_dir=tmp_path_factory.mktemp("data"), api_keys=(ENTRY.entry(),), **settings) as running:
        yield running, request.param


def answers(target: str, tls: Tls | bool) -> bool:
    with Client(target, tls=tls, api_key=KEY, timeout_seconds=3) as client:
        try:
            return list(client.list_collections()) == []
        except (errors.Unavailable, errors.DeadlineExceeded):
            return False


@pytest.mark.parametrize("certificate", [None, "good", "foreign", "expired"])
def test_client_certificates_are_demanded_and_checked(secured: Any, files: Path, certificate: str | None) -> None:
    running, mutual = secured
    tls = Tls(ca=files / "ca.pem")
    if certificate:
        tls = replace(tls, certificate=files / f"{certificate}.pem", key=files / f"{certificate}.key")
    assert answers(running.target, tls) is (certificate == "good" if mutual else True)


def test_a_client_without_tls_or_without_trust_gets_nothing(secured: Any) -> None:
    running, _ = secured
    assert not answers(running.target, tls=False)
    assert not answers(running.target, tls=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"tls_certificate": "server.pem"},
        {"tls_key": "server.key"},
        {"tls_client_ca": "ca.pem"},
        {"tls_certificate": "absent.pem", "tls_key": "server.key"},
    ],
)
def test_half_of_a_tls_setup_is_refused(tmp_path: Path, files: Path, settings: dict[str, str]) -> None:
    named: dict[str, Any] = {name: str(files / value) for name, value in settings.items()}
    with pytest.raises(InvalidArgument, match=r"certificate|TLS"):
        TestServer(tmp_path, **named).start()


def test_a_command_shows_its_certificate(secured: Any, files: Path) -> None:
    running, mutual = secured
    trust = ["--target", running.target, "--tls-ca", str(files / "ca.pem"), "--timeout", "3"]
    own = ["--client-certificate", str(files / "good.pem"), "--client-key", str(files / "good.key")]
    for arguments, answered in ((trust, not mutual), ([*trust, *own], True), ([*own, *trust[:2]], False)):
        assert (CliRunner().invoke(cli, ["health", *arguments]).exit_code == 0) is answered
