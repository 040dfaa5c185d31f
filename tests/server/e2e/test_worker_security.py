"""Who may use a worker, and how a server shows that it may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from click.testing import CliRunner

from shortlist_cli.group import cli
from shortlist_server.config import Config
from shortlist_server.domain import Deadline
from shortlist_server.errors import InvalidArgument, Unavailable
from shortlist_server.keys import Scope, new_key
from shortlist_server.remote.catalog import find_models
from shortlist_server.worker import Worker

KEY, READER = new_key("server", [Scope.READ])
WRITER_KEY, WRITER = new_key("writer", [Scope.WRITE])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a worker's certificate, servers' own, and keys."""
    folder = tmp_path_factory.mktemp("files")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    for name, issued in {
        "worker": authority.issue_cert("localhost", "127.0.0.1"),
        "good": authority.issue_cert("server"),
        "foreign": trustme.CA().issue_cert("server"),
    }.items():
        issued.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        issued.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
    for name, key in {
        "right": KEY,
        "scopeless": WRITER_KEY,
        "wrong": KEY[:-1],
        "empty": "",
        "two": f"{KEY}\n{KEY}",
    }.items():
        (folder / f"{name}.secret").write_text(f"{key}\n")
    return folder


def worker_config(folder: Path, **settings: Any) -> Config:
    return Config(data_dir=folder, listen="127.0.0.1:0", embedders=("hashing",), **settings)


@pytest.fixture(params=["tls", "mtls"])
async def guarded(request: pytest.FixtureRequest, files: Path, tmp_path: Path) -> AsyncIterator[tuple[int, bool]]:
    """The port of a worker with keys and TLS, and whether it demands certificates."""
    mutual = request.param == "mtls"
    worker = Worker(
        worker_config(
            tmp_path,
            tls_certificate=str(files / "worker.pem"),
            tls_key=str(files / "worker.key"),
            tls_client_ca=str(files / "ca.pem") if mutual else "",
            api_keys=(READER.entry(), WRITER.entry()),
        )
    )
    yield await worker.start(), mutual
    await worker.stop(1)


async def embed(port: int, files: Path, **settings: str) -> int:
    """The dimension of a vector made by the worker on that port; settings name files in the folder."""
    named = {name: str(files / value) for name, value in settings.items()}
    models = await asyncio.to_thread(find_models, Config(workers=(f"127.0.0.1:{port}",)).replace(**named))
    try:
        embedder = models.embedder("hashing")
        found = await embedder.embed_query("q", instruction="", dimension=256, deadline=Deadline.after(10))
        return len(found.vector)
    finally:
        models.close()


OWN = {"worker_tls_certificate": "good.pem", "worker_tls_key": "good.key"}
FOREIGN = {"worker_tls_certificate": "foreign.pem", "worker_tls_key": "foreign.key"}
TRUST = {"worker_tls_ca": "ca.pem"}
RIGHT = {"worker_api_key_file": "right.secret"}


async def test_a_server_with_key_and_certificate_is_served(guarded: tuple[int, bool], files: Path) -> None:
    assert await embed(guarded[0], files, **TRUST, **OWN, **RIGHT) == 256


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (TRUST | OWN, "an API key is needed"),
        (TRUST | OWN | {"worker_api_key_file": "empty.secret"}, "an API key is needed"),
        (TRUST | OWN | {"worker_api_key_file": "wrong.secret"}, "not known"),
        (TRUST | OWN | {"worker_api_key_file": "scopeless.secret"}, "lacks the scope 'read'"),
        (RIGHT, "worker '127.0.0.1"),
        ({"worker_tls_ca": "foreign.pem"} | RIGHT, "worker '127.0.0.1"),
    ],
    ids=["no key", "an empty file", "wrong key", "wrong scope", "no TLS", "another authority"],
)
async def test_any_other_server_does_not_start_and_says_why(
    guarded: tuple[int, bool], files: Path, settings: dict[str, str], message: str
) -> None:
    with pytest.raises(Unavailable, match=message):
        await embed(guarded[0], files, **settings)


@pytest.mark.parametrize("certificate", [{}, FOREIGN], ids=["none", "foreign"])
async def test_under_mutual_tls_the_servers_certificate_counts(
    guarded: tuple[int, bool], files: Path, certificate: dict[str, str]
) -> None:
    port, mutual = guarded
    if mutual:
        with pytest.raises(Unavailable, match=r"worker '127\.0\.0\.1"):
            await embed(port, files, **TRUST, **RIGHT, **certificate)
    else:
        assert await embed(port, files, **TRUST, **RIGHT, **certificate) == 256


async def test_a_workers_health_needs_no_key(guarded: tuple[int, bool], files: Path) -> None:
    own = ["--client-certificate", str(files / "good.pem"), "--client-key", str(files / "good.key")]
    address = ["--target", f"127.0.0.1:{guarded[0]}", "--tls-ca", str(files / "ca.pem")]
    service = ["--service", "shortlist.worker.v1.WorkerService"]
    run = await asyncio.to_thread(CliRunner().invoke, cli, ["health", *service, *address, *own])
    assert (run.exit_code, run.output) == (0, "serving\n")


async def test_a_worker_that_others_could_reach_does_not_start_without_a_key(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="--insecure"):
        await Worker(worker_config(tmp_path).replace(listen="0.0.0.0:0")).start()


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"worker_tls_certificate": "good.pem", "worker_tls_ca": "ca.pem"}, "worker_tls_certificate"),
        (OWN, "worker_tls_ca"),
        ({"worker_tls_ca": "absent.pem"}, "worker_tls_ca"),
        ({"worker_api_key_file": "absent.secret"}, "worker_api_key_file"),
        ({"worker_api_key_file": "two.secret"}, "worker_api_key_file"),
    ],
)
def test_half_of_a_setup_is_refused(files: Path, settings: dict[str, str], field: str) -> None:
    named: dict[str, Any] = {name: str(files / value) for name, value in settings.items()}
    with pytest.raises(InvalidArgument) as caught:
        find_models(Config(workers=("127.0.0.1:1",), **named))
    assert caught.value.field == field
