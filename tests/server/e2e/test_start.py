"""A server or worker that cannot start says so at once, in one line; one that starts says what it does."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from shortlist_cli.hosting.server_process import ServerProcess

CPU_SECONDS = 5.0
"""What a refusal may take, most of it Python's start; converting the default model takes twice that. Not the time that
passes, which says more of the machine."""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Things that are in the way."""
    folder = tmp_path_factory.mktemp("places")
    (folder / "file").write_text("")
    for name in ("one", "other"):
        pair = trustme.CA().issue_cert("localhost")
        pair.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        pair.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield {"folder": str(folder), "port": str(listening.getsockname()[1])}


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(
    ("command", "arguments", "problem"),
    [
        ("serve", "--data-dir {folder}/file", "file is a file, and a folder is needed there: move it away"),
        ("worker", "--data-dir {folder}/file/data", "file is a file, and a folder is needed there: move it away"),
        ("serve", "--listen 127.0.0.1:{port}", "another process listens there: stop it, or choose another port"),
        ("worker", "--listen 127.0.0.1:{port}", "another process listens there: stop it, or choose another port"),
        ("serve", "--metrics-listen 127.0.0.1:{port}", "cannot serve metrics on 127.0.0.1:{port}: another process"),
        ("serve", "--tls-certificate {folder}/one.pem --tls-key {folder}/other.key", "issued together"),
        ("worker", "--tls-certificate {folder}/one.pem --tls-key {folder}/absent", "the TLS file cannot be read"),
        ("serve", "--api-keys-file {folder}/absent", "cannot read the API keys file"),
        ("serve", "--reranker it={folder}/absent", "there is no model folder {folder}/absent: correct the path"),
    ],
)
def test_what_keeps_it_from_starting_is_said_before_a_model_is_loaded(
    tmp_path: Path, places: dict[str, str], command: str, arguments: str, problem: str
) -> None:
    program = [sys.executable, "-m", "shortlist_cli", command, "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path)]
    before = cpu_seconds()
    run = subprocess.run(
        [*program, *arguments.format(**places).split()], capture_output=True, text=True, timeout=100, check=False
    )
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert line.startswith(f"shortlist: the {'worker' if command == 'worker' else 'server'} cannot start: ")
    assert problem.format(**places) in line
    assert cpu_seconds() - before < CPU_SECONDS
    assert not (tmp_path / "models").exists()


def test_a_data_folder_in_use_is_found_before_a_model_is_loaded(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "shortlist_cli", "serve", "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path)]
    server = ServerProcess(tmp_path, arguments=["--embedder", "hashing"])
    try:
        before = cpu_seconds()
        run = subprocess.run(program, capture_output=True, text=True, timeout=100, check=False)
        assert run.returncode == 1
        assert "is in use by another process" in run.stderr
        assert cpu_seconds() - before < CPU_SECONDS
        assert not (tmp_path / "models").exists()
    finally:
        server.stop()


@pytest.mark.model
@pytest.mark.parametrize("command", ["serve", "worker"])
def test_the_first_start_says_what_it_does_and_how_far_it_is(tmp_path: Path, command: str) -> None:
    told: list[str] = []
    ServerProcess(tmp_path, command=command, on_progress=told.append).stop()
    assert told[0] == "loading embedder all-MiniLM-L6-v2"
    steps = [line for line in told if " (step " in line and ": still " not in line]
    assert [line.partition("(")[2] for line in steps] == [f"step {number} of 4)" for number in range(1, 5)]
    assert told[-1].startswith("models are loaded after ")

    told.clear()
    ServerProcess(tmp_path, command=command, on_progress=told.append).stop()
    assert not [line for line in told if " (step " in line]
