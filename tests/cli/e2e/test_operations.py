"""Operations from a shell: detached, listed, waited for, cancelled, and interrupted by Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from shortlist import Client, Document, Operation
from shortlist_cli.commands.waiting import follow
from shortlist_cli.group import cli
from shortlist_server.testing import TestServer, server

COMMAND = [sys.executable, "-m", "shortlist_cli"]


def shortlist(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[TestServer]:
    with server(tmp_path / "data") as running:
        with Client(running.target) as client:
            client.create_collection("notes")
            client.ingest("notes", [Document(id=f"n{i}", text=f"note{i}") for i in range(3)]).finish()
        yield running


class Gate:
    """Holds the store's work before a backup has its name."""

    def __init__(self, running: TestServer) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        running._server._store._crash_point = self

    def __call__(self, point: str) -> None:
        if point == "backup:written":
            self.reached.set()
            assert self.opened.wait(60)


def test_a_detached_backup_is_followed_by_its_name(running: TestServer) -> None:
    target = ("--target", running.target)
    run = shortlist("backup", "one", "--detach", *target)
    assert run.returncode == 0, run.stderr
    name = run.stdout.strip()
    assert name.startswith("operations/")
    run = shortlist("operations", "wait", name.removeprefix("operations/"), *target)
    assert (run.returncode, run.stdout) == (0, f"{name}: succeeded\n")
    header, row = (line.split("\t") for line in shortlist("operations", "list", *target).stdout.splitlines())
    shown = dict(zip(header, row, strict=True))
    assert (shown["name"], shown["kind"], shown["state"]) == (name, "backup", "succeeded")
    assert shown["progress"].startswith("notes: ")
    assert shortlist("operations", "list", "--state", "running", *target).stdout.count("\n") == 1
    run = shortlist("operations", "show", name, *target)
    assert "state\tsucceeded" in run.stdout
    found = json.loads(shortlist("operations", "show", name, "--json", *target).stdout)
    assert found["result"]["collections"][0]["document_count"] == 3
    assert found["progress"]["collection"] == "notes"
    run = shortlist("operations", "cancel", name, *target)
    assert run.stdout == f"the backup ({name}) had succeeded before it could be cancelled\n"
    started = json.loads(shortlist("verify", "--detach", "--json", *target).stdout)
    assert started["kind"] == "verify"
    assert shortlist("verify", str(running.data_dir), "--detach").returncode == 2


def backup(running: TestServer, *options: str) -> subprocess.Popen[str]:
    """The command, running until the gate is opened."""
    command = [*COMMAND, "backup", "one", "--target", running.target, *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_until_cancelling(running: TestServer) -> None:
    with Client(running.target) as client:
        while not list(client.list_operations(state="cancelling")):
            time.sleep(0.02)


def test_ctrl_c_before_the_answer_to_the_start_cancels_too(
    running: TestServer, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = Gate(running)
    with Client(running.target) as client, ThreadPoolExecutor(1) as threads:

        def open_when_cancelling() -> None:
            wait_until_cancelling(running)
            gate.opened.set()

        def start() -> Operation:
            started = client.start_backup("one")
            assert gate.reached.wait(60)
            signal.raise_signal(signal.SIGINT)
            return started

        opened = threads.submit(open_when_cancelling)
        with pytest.raises(click.exceptions.Exit) as ended:
            follow(client, start, detach=False, as_json=False, progress=lambda _: None, timeout_seconds=None)
        opened.result(60)
    assert ended.value.exit_code == 1
    assert "was cancelled; nothing of it is left" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert list((running.data_dir / "backups").iterdir()) == []


def test_ctrl_c_cancels_and_says_what_is_left(running: TestServer) -> None:
    gate = Gate(running)
    with backup(running) as run:
        assert gate.reached.wait(60)
        run.send_signal(signal.SIGINT)
        wait_until_cancelling(running)
        gate.opened.set()
        _, said = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "was cancelled; nothing of it is left\n" in said
    assert "Traceback" not in said
    assert list((running.data_dir / "backups").iterdir()) == []


def test_a_deadline_cancels_and_says_what_is_left(running: TestServer) -> None:
    gate = Gate(running)
    with backup(running, "--timeout", "1") as run:
        wait_until_cancelling(running)
        gate.opened.set()
        _, said = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "was cancelled; nothing of it is left\n" in said
    assert "Error: " in said


def test_one_that_is_cancelled_from_elsewhere_is_an_error_of_the_command(running: TestServer) -> None:
    gate = Gate(running)
    with backup(running) as run, Client(running.target) as client:
        assert gate.reached.wait(60)
        (found,) = client.list_operations()
        command = [*COMMAND, "operations", "cancel", found.name, "--target", running.target]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as cancelling:
            wait_until_cancelling(running)
            gate.opened.set()
            said, _ = cancelling.communicate(timeout=60)
        assert said == f"the backup ({found.name}) was cancelled; nothing of it is left\n"
        _, said = run.communicate(timeout=60)
    assert (run.returncode, said) == (1, "Error: the operation was cancelled before it was done\n")
    waited = shortlist("operations", "wait", found.name, "--target", running.target)
    assert (waited.returncode, waited.stdout) == (1, f"{found.name}: cancelled\n")


def test_an_unknown_operation_is_one_line_of_an_error(running: TestServer) -> None:
    for verb in ("show", "wait", "cancel"):
        run = shortlist("operations", verb, "absent", "--target", running.target)
        assert run.returncode == 1
        assert "there is no operation 'operations/absent'" in run.stderr
        assert "Traceback" not in run.stderr


def test_cancelling_what_does_not_stop_is_a_failure(running: TestServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shortlist_cli.commands.waiting.CANCEL_SECONDS", 0.3)
    gate = Gate(running)
    with Client(running.target) as client:
        name = client.start_backup("one").name
        assert gate.reached.wait(60)
        run = CliRunner().invoke(cli, ["operations", "cancel", name, "--target", running.target])
        gate.opened.set()
        assert client.wait_operation(name).state == "cancelled"
    assert (run.exit_code, run.output.partition(";")[0]) == (1, f"the backup ({name}) has not stopped yet")
