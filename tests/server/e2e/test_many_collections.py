"""A server with more collections than may be open: asking about them opens none, using them opens them in turn."""

from __future__ import annotations

import logging
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from shortlist import Client, CollectionConfig, DataCorrupted, Document
from shortlist_server.pipeline import collection_state
from shortlist_server.testing import TestServer

NAMES = [f"c{i}" for i in range(6)]
MOST_OPEN = 2


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with six collections, each with as many documents as its number."""
    running = TestServer(tmp_path)
    running.start()
    with Client(running.target) as client:
        for number, name in enumerate(NAMES):
            client.create_collection(name, CollectionConfig(embedder="none", dimension=2))
            client.ingest(name, [Document(id=f"d{i}", vector=[1.0, 0.0]) for i in range(number)]).finish()
    running.stop()
    return tmp_path


@pytest.fixture
def running(data: Path) -> Iterator[TestServer]:
    server = TestServer(data, max_open_collections=MOST_OPEN, metrics_listen="127.0.0.1:0")
    server.start()
    yield server
    server.stop()


def metrics(running: TestServer) -> dict[str, dict[str, float]]:
    """Each metric of collections: the values by collection, or by "" where it is of all."""
    found: dict[str, dict[str, float]] = {}
    with urllib.request.urlopen(f"http://127.0.0.1:{running._server.metrics_port}/metrics", timeout=10) as page:
        for family in text_string_to_metric_families(page.read().decode()):
            for sample in family.samples:
                if sample.name.startswith("shortlist_collection"):
                    found.setdefault(sample.name, {})[sample.labels.get("collection", "")] = sample.value
    return found


def test_what_is_asked_about_collections_opens_none(running: TestServer) -> None:
    with Client(running.target) as client:
        assert [(one.name, one.document_count) for one in client.list_collections()] == [
            (name, number) for number, name in enumerate(NAMES)
        ]
        assert client.get_collection("c3").passage_count == 3
        assert client.recall("c4").target == 0.98
        assert client.server_info().collection_count == len(NAMES)
    page = metrics(running)
    assert page["shortlist_collection_documents"] == {name: number for number, name in enumerate(NAMES)}
    assert page["shortlist_collections"] == {"": len(NAMES)}
    assert page["shortlist_collections_open"] == {"": 0}
    assert page["shortlist_collections_damaged"] == {"": 0}


def test_collections_are_opened_in_turn_by_those_who_use_them(running: TestServer) -> None:
    with Client(running.target) as client:
        for _ in range(3):
            for number, name in enumerate(NAMES):
                assert len(client.search(name, vector=[1.0, 0.0]).hits) == number
                client.delete(name, ids=["absent"])
        assert all(report.ok for report in client.verify())
        wait_until(lambda: metrics(running)["shortlist_collections_open"][""] <= MOST_OPEN)
        assert [one.document_count for one in client.list_collections()] == list(range(len(NAMES)))


def test_only_the_collections_used_last_have_metrics_of_their_own(
    running: TestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collection_state, "METRIC_COLLECTIONS", 2)
    with Client(running.target) as client:
        for name in ("c1", "c5", "c3"):
            client.search(name, vector=[1.0, 0.0])
    page = metrics(running)
    assert set(page["shortlist_collection_documents"]) == {"c5", "c3"}
    assert set(page["shortlist_collection_flushes_total"]) == {"c5", "c3"}


def test_a_damaged_collection_is_logged_listed_and_counted_before_anybody_uses_it(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (data / "collections" / "c2" / "collection.db").write_bytes(b"no database" * 1000)
    running = TestServer(data, max_open_collections=MOST_OPEN, metrics_listen="127.0.0.1:0")
    with caplog.at_level(logging.ERROR):
        running.start()
        try:
            wait_until(lambda: metrics(running)["shortlist_collections_damaged"] == {"": 1})
            assert "c2" not in metrics(running)["shortlist_collection_documents"]
            with Client(running.target) as client:
                assert [one.name for one in client.list_collections() if one.problem] == ["c2"]
                with pytest.raises(DataCorrupted):
                    client.search("c2", vector=[1.0, 0.0])
                assert len(client.search("c3", vector=[1.0, 0.0]).hits) == 3
        finally:
            running.stop()
    assert len([record for record in caplog.records if "'c2' cannot be opened" in record.getMessage()]) == 1
