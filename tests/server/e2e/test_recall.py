"""A real server checks the recall of its searches: the estimate, and searches widened until they meet the target."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from shortlist import (
    Candidates,
    Client,
    CollectionConfig,
    CollectionRecall,
    Field,
    InvalidArgument,
    RecallEstimate,
    SearchDefaults,
)
from shortlist_server.testing import TestServer, server

DIMENSION = 16
ROWS = 4000
PRESET = SearchDefaults(candidates=Candidates(dense=10, ef=10))
"""An ef that finds too little."""

HALF = Field("n") < ROWS // 2


def vectors(seed: int, count: int) -> Iterator[list[float]]:
    return iter(np.random.default_rng(seed).standard_normal((count, DIMENSION)).tolist())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a stopped server, with the collection "v": one segment of random vectors."""
    made = tmp_path_factory.mktemp("made") / "data"
    with server(data_dir=made, segment_min_passages=ROWS) as running, Client(running.target) as client:
        config = CollectionConfig(embedder="none", dimension=DIMENSION, search_defaults=PRESET)
        client.create_collection("v", config)
        documents = ({"id": str(i), "vector": v, "metadata": {"n": i}} for i, v in enumerate(vectors(1, ROWS)))
        client.ingest("v", documents).finish()
        wait_for(lambda: client.get_collection("v").segment_passage_count == ROWS)
    return made


@pytest.fixture
def checking(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestServer]:
    """A server on a copy of the folder that checks as often as it can."""
    monkeypatch.setattr("shortlist_server.pipeline.recall.MAX_SHARE", 1.0)
    copy_tree(folder, tmp_path / "data")
    with server(
        data_dir=tmp_path / "data", recall_check_interval_seconds=0.001, metrics_listen="127.0.0.1:0"
    ) as running:
        yield running


def copy_tree(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-r", str(source), str(target)], check=True)


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def search_until(client: Client, done: Callable[[CollectionRecall], bool], **how: Any) -> list[CollectionRecall]:
    """Searches by random vectors until what is known of the recall is as wanted; all that was known meanwhile."""
    seen = [client.recall("v")]
    for vector in vectors(2, 20_000):
        if done(seen[-1]):
            return seen
        client.search("v", vector=vector, **how)
        seen.append(client.recall("v"))
    raise AssertionError(f"it did not happen: {seen[-1]}")


def check_ten(client: Client) -> RecallEstimate:
    """Searches ten times, and waits until these are checked, which are too few for any consequence."""
    for vector in vectors(6, 10):
        client.search("v", vector=vector)
    wait_for(lambda: client.recall("v").unfiltered.check_count == 10)
    return client.recall("v").unfiltered


def test_searches_that_find_too_little_are_widened_until_they_meet_the_target(
    checking: TestServer, caplog: pytest.LogCaptureFixture
) -> None:
    with Client(checking.target) as client, caplog.at_level(logging.INFO, "shortlist_server.pipeline.recall"):
        seen = search_until(client, lambda r: r.unfiltered.query_count >= 200 and (r.unfiltered.recall or 0) >= 0.98)
        last = seen[-1]
        assert (last.target, last.filtered.check_count) == (0.98, 0)
        (first, *_) = [r.unfiltered for r in seen if r.unfiltered.ef == 10 and r.unfiltered.query_count >= 20]
        assert first.recall is not None and first.lower < first.recall < min(first.upper, 0.98)
        assert last.unfiltered.ef >= 40
        assert last.filtered.ef == 10, "nobody searched with a filter"
        assert client.get_collection("v").config.search_defaults == PRESET
        queries = list(vectors(3, 100))
        exact = [client.search("v", vector=q, candidates=Candidates(exact=True)) for q in queries]
        found = [client.search("v", vector=q) for q in queries]
        shares = [len({h.id for h in a} & {h.id for h in b}) / 10 for a, b in zip(exact, found, strict=True)]
        assert np.mean(shares) >= 0.96
    raised = [record.getMessage() for record in caplog.records]
    assert len(raised) >= 2
    assert raised[0].startswith("collection 'v': raised ef of searches without a filter from 10 to 20, ")


def test_searches_with_a_filter_have_an_estimate_and_an_ef_of_their_own(checking: TestServer) -> None:
    with Client(checking.target) as client:
        seen = search_until(client, lambda recall: recall.filtered.query_count >= 40, filter=HALF)
    assert seen[-1].unfiltered.check_count == 0
    assert seen[-1].unfiltered.ef == 10
    assert seen[-1].filtered.recall is not None


def test_an_ef_that_a_search_sets_is_its_own_affair(checking: TestServer) -> None:
    with Client(checking.target) as client:
        for vector in vectors(4, 20):
            client.search("v", vector=vector, candidates=Candidates(dense=10, ef=10))
            client.search("v", vector=vector, candidates=Candidates(exact=True))
        # Nothing may happen, in the time of three hundred checks.
        time.sleep(0.3)
        assert client.recall("v").unfiltered.check_count == 0
        check_ten(client)


def test_what_was_raised_outlives_a_restart_and_begins_anew_with_another_target(
    checking: TestServer, tmp_path: Path
) -> None:
    with Client(checking.target) as client:
        raised = search_until(client, lambda recall: recall.unfiltered.ef > 10)[-1].unfiltered.ef
    checking.stop()
    with (
        server(data_dir=tmp_path / "data", recall_check_interval_seconds=0.0) as running,
        Client(running.target) as client,
    ):
        assert client.recall("v").unfiltered.ef == raised
        client.update_collection("v", SearchDefaults(candidates=PRESET.candidates, recall_target=0.5))
        assert (client.recall("v").target, client.recall("v").unfiltered.ef) == (0.5, 10)


def test_with_interval_0_nothing_is_checked(folder: Path, tmp_path: Path) -> None:
    copy_tree(folder, tmp_path / "data")
    with (
        server(data_dir=tmp_path / "data", recall_check_interval_seconds=0.0) as running,
        Client(running.target) as client,
    ):
        for vector in vectors(5, 100):
            client.search("v", vector=vector)
        # Nothing may happen, in the time of two hundred checks of the server above.
        time.sleep(0.2)
        recall = client.recall("v").unfiltered
        assert (recall.ef, recall.recall, recall.lower, recall.upper) == (10, None, 0.0, 1.0)
        assert (recall.query_count, recall.check_count) == (0, 0)


def test_the_page_of_metrics_has_the_estimate(checking: TestServer) -> None:
    with Client(checking.target) as client:
        known = check_ten(client)
    with urllib.request.urlopen(f"http://127.0.0.1:{checking._server.metrics_port}/metrics", timeout=10) as answer:
        page = answer.read().decode()
    values = {
        (sample.name.removeprefix("shortlist_collection_"), sample.labels.get("filtered")): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    assert values["recall_target_ratio", None] == 0.98
    names = ("recall_ratio", "recall_lower_ratio", "recall_upper_ratio", "recall_checks_total")
    expected = (known.recall, known.lower, known.upper, known.check_count)
    assert tuple(values[name, "false"] for name in names) == expected
    assert known.lower > 0.5
    assert (values["ef", "false"], values["ef", "true"]) == (10, 10)
    assert ("recall_ratio", "true") not in values


def test_the_command_shows_what_is_known(checking: TestServer) -> None:
    with Client(checking.target) as client:
        known = check_ten(client)
    command = [sys.executable, "-m", "shortlist_cli", "collections", "recall", "v", "--target", checking.target]
    header, plain, filtered = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=True
    ).stdout.splitlines()
    shown = dict(zip(header.split("\t"), plain.split("\t"), strict=True))
    figures = [f"{value:.4f}" for value in (known.recall, known.lower, known.upper)]
    assert [shown["recall@10"], shown["lower"], shown["upper"]] == figures
    assert (shown["searches"], shown["target"], shown["ef"]) == ("without filter", "0.9800", "10")
    assert filtered.split("\t") == ["with filter", "", "0.0000", "1.0000", "0.9800", "0", "10"]
    printed = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    assert printed["unfiltered"]["query_count"] == 10


@pytest.mark.parametrize("target", [-0.1, 1.1, float("nan")])
def test_a_target_that_is_no_share_is_refused(checking: TestServer, target: float) -> None:
    with Client(checking.target) as client, pytest.raises(InvalidArgument) as caught:
        client.update_collection("v", SearchDefaults(recall_target=target))
    assert caught.value.field == "search_defaults.recall_target"
