"""What is wrong is found before a model is loaded, and said in one sentence that tells what to do."""

from __future__ import annotations

import datetime
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from shortlist_server.config import Config
from shortlist_server.errors import InvalidArgument, ModelNotFound, ShortlistError, Unavailable
from shortlist_server.preflight import check


def refused(kind: type[ShortlistError], folder: Path, **settings: Any) -> str:
    settings.setdefault("data_dir", folder / "data")
    settings.setdefault("listen", "127.0.0.1:0")
    with pytest.raises(kind) as caught:
        check(Config(**settings), keeps_collections=True)
    assert "\n" not in caught.value.message
    assert not (folder / "data" / "models").exists()
    return caught.value.message


def test_what_is_right_passes_and_nothing_is_made(tmp_path: Path) -> None:
    check(Config(data_dir=tmp_path / "a" / "b", listen="localhost:0", metrics_listen=":0"), keeps_collections=True)
    check(Config(data_dir=tmp_path, listen=f"unix:{tmp_path}/socket"), keeps_collections=False)
    assert not [*tmp_path.iterdir()]


# ------------------------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize("below", ["", "data"])
def test_a_file_where_the_data_folder_belongs(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    message = refused(InvalidArgument, tmp_path, data_dir=tmp_path / "file" / below)
    assert f"{tmp_path / 'file'} is a file, and a folder is needed there: move it away, or name another" in message


def test_a_data_folder_that_is_a_link_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(tmp_path / "absent")
    assert "is a link to nothing" in refused(InvalidArgument, tmp_path)


@pytest.mark.parametrize("name", ["collections", "models"])
def test_a_file_where_a_folder_of_the_data_belongs(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("")
    assert f"{tmp_path / name} is a file where" in refused(InvalidArgument, tmp_path, data_dir=tmp_path)


def test_a_folder_where_the_lock_belongs(tmp_path: Path) -> None:
    (tmp_path / "LOCK").mkdir()
    assert "LOCK is a folder where a file belongs: move it" in refused(InvalidArgument, tmp_path, data_dir=tmp_path)


def test_a_backup_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "with --backup-dir" in refused(InvalidArgument, tmp_path, backup_dir=str(tmp_path / "file"))


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_data_folder_that_may_not_be_written_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        assert "this user may not write to" in refused(Unavailable, tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_a_disk_that_is_nearly_full_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = Config(data_dir=tmp_path, listen="127.0.0.1:0", min_free_disk_bytes=2**62)
    check(config, keeps_collections=True)
    assert "less than min_free_disk_bytes: free some space" in caplog.text


# ----------------------------------------------------------------------------------------------------------- addresses


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("form", ["{}", "ipv4:{}", "dns:///{}"])
def test_an_address_that_is_taken(tmp_path: Path, taken: str, form: str) -> None:
    message = refused(Unavailable, tmp_path, listen=form.format(taken))
    assert message == f"cannot listen on {form.format(taken)}: another process listens there: stop it, or choose" + (
        " another port"
    )


def test_a_metrics_address_that_is_taken(tmp_path: Path, taken: str) -> None:
    assert "cannot serve metrics on 127" in refused(Unavailable, tmp_path, metrics_listen=taken)


def test_one_port_for_calls_and_metrics(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    message = refused(Unavailable, tmp_path, listen=f"127.0.0.1:{port}", metrics_listen=f"127.0.0.1:{port}")
    assert "cannot serve metrics" in message


def test_an_address_of_another_machine(tmp_path: Path) -> None:
    message = refused(Unavailable, tmp_path, listen="192.0.2.1:0")
    assert "this machine has no such address: choose another host" in message


def test_a_host_that_nobody_knows(tmp_path: Path) -> None:
    assert "cannot listen on" in refused(Unavailable, tmp_path, listen="host.invalid:0")


def test_a_socket_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert "there is no folder" in refused(Unavailable, tmp_path, listen=f"unix:{tmp_path}/absent/socket")


def test_a_socket_where_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "remove it" in refused(Unavailable, tmp_path, listen=f"unix://{tmp_path}/file")


def test_a_socket_whose_path_is_too_long(tmp_path: Path) -> None:
    assert "choose a shorter one" in refused(Unavailable, tmp_path, listen=f"unix:{tmp_path}/{'x' * 108}")


def test_metrics_on_a_socket(tmp_path: Path) -> None:
    assert "HOST:PORT only" in refused(InvalidArgument, tmp_path, metrics_listen="unix:/tmp/socket")


# -------------------------------------------------------------------------------------------------------- certificates


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    today, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    for name, issued in {
        "good": authority.issue_cert("localhost"),
        "other": authority.issue_cert("localhost"),
        "elliptic": authority.issue_cert("localhost", key_type=trustme.KeyType.ECDSA),
        "expired": authority.issue_cert("localhost", not_before=today - 9 * day, not_after=today - day),
        "early": authority.issue_cert("localhost", not_before=today + day, not_after=today + 9 * day),
    }.items():
        issued.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        issued.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
    plain = serialization.load_pem_private_key((folder / "good.key").read_bytes(), password=None)
    (folder / "encrypted.key").write_bytes(
        plain.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    (folder / "text").write_text("not PEM")
    broken = (folder / "good.pem").read_text().splitlines()
    (folder / "broken.pem").write_text("\n".join([*broken[:3], *broken[-1:]]))
    return folder


def tls(files: Path, certificate: str, key: str, client_ca: str = "") -> dict[str, Any]:
    return {
        "tls_certificate": str(files / certificate),
        "tls_key": str(files / key),
        "tls_client_ca": str(files / client_ca) if client_ca else "",
    }


@pytest.mark.parametrize("name", ["good", "elliptic"])
@pytest.mark.parametrize("client_ca", ["", "ca.pem"])
def test_a_pair_that_belongs_together_passes(tmp_path: Path, files: Path, name: str, client_ca: str) -> None:
    pair = tls(files, f"{name}.pem", f"{name}.key", client_ca)
    check(Config(data_dir=tmp_path, listen="127.0.0.1:0", **pair), keeps_collections=True)


@pytest.mark.parametrize(
    ("certificate", "key", "client_ca", "problem"),
    [
        ("good.pem", "other.key", "", "good.pem: give the certificate and the unencrypted key that were issued"),
        ("good.pem", "elliptic.key", "", "give the certificate and the unencrypted key"),
        ("expired.pem", "expired.key", "", "expired.pem has expired: renew it"),
        ("early.pem", "early.key", "ca.pem", "early.pem is not valid yet: renew it, or set this machine's clock"),
        ("text", "good.key", "", "holds no certificate in PEM form: give another file"),
        ("good.pem", "text", "", "holds no private key in PEM form: give another file"),
        ("good.key", "good.pem", "", "holds no certificate in PEM form"),
        ("broken.pem", "good.key", "", "cannot be read"),
        ("good.pem", "encrypted.key", "", "is encrypted: give it unencrypted"),
        ("good.pem", "good.key", "text", "holds no certificate in PEM form"),
        ("good.pem", "good.key", "broken.pem", "cannot be read"),
        ("absent.pem", "good.key", "", "cannot be read"),
    ],
)
def test_files_of_tls_that_would_serve_no_client(
    tmp_path: Path, files: Path, certificate: str, key: str, client_ca: str, problem: str
) -> None:
    assert problem in refused(InvalidArgument, tmp_path, **tls(files, certificate, key, client_ca))


# -------------------------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize(
    ("kind", "settings", "problem"),
    [
        (InvalidArgument, {"backend": "tensorrt"}, "give auto, onnx or torch"),
        (InvalidArgument, {"dtype": "float16"}, "give auto, int8, float32 or bfloat16"),
        (InvalidArgument, {"device": "tpu"}, "give auto, cpu or cuda"),
        (InvalidArgument, {"device": "cuda", "backend": "onnx"}, "backend onnx runs on the CPU, but device is cuda"),
        (InvalidArgument, {"device": "cuda:1", "backend": "onnx"}, "give backend torch or auto, or device cpu"),
        (InvalidArgument, {"embedders": ("hashing", "hashing")}, "two embedders are called 'hashing'"),
        (InvalidArgument, {"embedders": ("hashing:1",)}, "from 16 to 4096"),
        (InvalidArgument, {"embedders": ("name=",)}, "use NAME=FOLDER"),
        (ModelNotFound, {"embedders": ("all-MiniLM-L6-v2", "x=/absent")}, "there is no model folder /absent: correct"),
        (ModelNotFound, {"rerankers": ("x=./absent",)}, "there is no model folder ./absent"),
        (ModelNotFound, {"rerankers": ("x=/",)}, "/config.json is missing"),
    ],
)
def test_models_that_cannot_be_loaded(
    tmp_path: Path, kind: type[ShortlistError], settings: dict[str, Any], problem: str
) -> None:
    assert problem in refused(kind, tmp_path, **settings)
