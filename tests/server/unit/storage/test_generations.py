"""Generations of a collection: built beside the one that serves, switched to and rolled back to."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace

import pytest

from shortlist_server.domain import (
    BuiltDocument,
    DeadLetter,
    Deletion,
    Document,
    GenerationState,
    Include,
    SearchDefaults,
    Upsert,
)
from shortlist_server.errors import (
    GenerationNotReady,
    InvalidVector,
    UnsupportedByCollection,
)
from shortlist_server.storage.base import GenerationChanged
from shortlist_server.storage.collection import EmbeddedCollection
from shortlist_server.storage.rows.writer import Task
from shortlist_server.storage.store import EmbeddedStore

from .conftest import DIMENSION, OpenStore, collection_config
from .generations import OTHER, built, config, fill, nearest, of, passages, upsert, vector
from .reads import search_dense


def test_a_new_collection_has_one_generation_which_serves(collection: EmbeddedCollection) -> None:
    fill(collection, range(3))
    (first,) = collection.generations()
    assert (first.number, first.state) == (1, GenerationState.SERVING)
    assert first.config.dimension == DIMENSION
    assert first.serve_time_seconds == first.create_time_seconds > 0
    assert (first.passage_count, first.progress.done_documents, first.progress.complete) == (3, 3, True)
    assert first.disk_bytes > 3 * 4 * DIMENSION
    assert collection.generation == collection.info().generation == 1


def test_what_a_generation_lacks_is_read_by_key_and_built(collection: EmbeddedCollection) -> None:
    fill(collection, range(10))
    empty = collection.create_generation(config()).result(30)
    assert (empty.number, empty.state, empty.config) == (2, GenerationState.BUILDING, config())
    assert not empty.progress.complete
    documents, cursor = collection.documents_to_build(2, 4, 1 << 20)
    assert [one.id for one in documents] == ["d0", "d1", "d2", "d3"]
    assert (documents[0].text, documents[0].passage_count, cursor) == ("fox", 1, documents[3].key)
    ahead, further = collection.documents_to_build(2, 100, 1 << 20, after=cursor)
    assert [one.id for one in ahead] == [f"d{i}" for i in range(4, 10)]
    now = collection.build(
        2,
        [BuiltDocument(key=one.key, passages=passages(int(one.id[1:]), OTHER)) for one in documents],
        cursor,
        tokens=9,
    ).result(30)
    assert (now.progress.done_documents, now.progress.done_tokens, now.passage_count) == (4, 9, 4)
    assert nearest(collection, vector(2, OTHER), 2)[0] == "d2"
    with collection.read_generation(2) as reader:
        assert not reader.complete
    failure = DeadLetter(
        id="d9",
        stream="reindex/2",
        position=1,
        time_seconds=1.0,
        reason="DOCUMENT_TOO_LARGE",
        message="too large",
        field="",
        retryable=False,
        document=None,
    )
    rest = [BuiltDocument(key=one.key, passages=passages(int(one.id[1:]), OTHER)) for one in ahead[:-1]]
    rest.append(BuiltDocument(key=ahead[-1].key, passages=[]))
    now = collection.build(2, rest, further, tokens=1, failures=[failure]).result(30)
    assert (now.progress.complete, now.progress.failed_documents, now.progress.done_documents) == (True, 1, 10)
    assert collection.documents_to_build(2, 10, 1 << 20)[0] == []
    assert [letter.id for letter in collection.dead_letters(0, 10)[0]] == ["d9"]


def test_a_portion_ends_once_its_texts_are_long_enough(collection: EmbeddedCollection) -> None:
    collection.commit([upsert(number, text="x" * 400) for number in range(5)]).result(30)
    collection.create_generation(config()).result(30)
    documents, cursor = collection.documents_to_build(2, 100, 900)
    assert [one.id for one in documents] == ["d0", "d1", "d2"]
    assert [one.id for one in collection.documents_to_build(2, 100, 1, after=cursor)[0]] == ["d3"]


def test_a_portion_that_leaves_a_document_out_is_refused(collection: EmbeddedCollection) -> None:
    fill(collection, range(6))
    collection.create_generation(config()).result(30)
    _, cursor = collection.documents_to_build(2, 2, 1 << 20)
    ahead, further = collection.documents_to_build(2, 2, 1 << 20, after=cursor)
    made = [BuiltDocument(key=one.key, passages=passages(int(one.id[1:]), OTHER)) for one in ahead]
    with pytest.raises(GenerationNotReady, match="still lacks a document before"):
        collection.build(2, made, further, tokens=1).result(30)
    assert of(collection, 2).passage_count == 0


def test_what_changed_since_it_was_read_is_not_built(collection: EmbeddedCollection) -> None:
    fill(collection, range(4))
    collection.create_generation(config()).result(30)
    documents, cursor = collection.documents_to_build(2, 10, 1 << 20)
    collection.commit([Deletion(id="d0"), upsert(1), upsert(2, 2)]).result(30)
    made = [BuiltDocument(key=one.key, passages=passages(99, OTHER)) for one in documents]
    collection.build(2, made, cursor, tokens=1).result(30)
    assert of(collection, 2).passage_count == 1 + 2  # d3, and d2 as it was written.
    assert [one.id for one in collection.documents_to_build(2, 10, 1 << 20)[0]] == ["d1"]
    assert built(collection, 2).progress.done_documents == 3


def test_a_commit_that_brings_passages_for_a_complete_generation_leaves_it_complete(
    collection: EmbeddedCollection,
) -> None:
    fill(collection, range(3))
    collection.create_generation(config()).result(30)
    built(collection, 2)
    fill(collection, range(2, 6), 2)
    assert of(collection, 2).progress.complete
    # The model of the other generation failed for one document: what comes after it is there, but the cursor stays.
    collection.commit([upsert(7, 2), upsert(8), upsert(9, 2)]).result(30)
    now = of(collection, 2).progress
    assert (now.complete, now.done_documents, now.total_documents) == (False, 8, 9)
    with pytest.raises(GenerationNotReady, match="8 of 9 documents"):
        collection.switch_generation(2).result(30)
    assert [one.id for one in collection.documents_to_build(2, 10, 1 << 20)[0]] == ["d8"]
    assert built(collection, 2).progress.done_documents == 9


def test_a_build_is_done_even_if_writes_never_cease(collection: EmbeddedCollection) -> None:
    fill(collection, range(30))
    collection.create_generation(config()).result(30)
    number = 30
    for _ in range(20):
        documents, cursor = collection.documents_to_build(2, 10, 1 << 20)
        fill(collection, [number, number + 1], 2)
        number += 2
        made = [BuiltDocument(key=one.key, passages=passages(int(one.id[1:]), OTHER)) for one in documents]
        if collection.build(2, made, cursor, tokens=1).result(30).progress.complete:
            return
    raise AssertionError("the build never caught up")


def test_a_vector_that_is_wrong_for_another_generation_does_not_fail_the_write(collection: EmbeddedCollection) -> None:
    collection.create_generation(config()).result(30)
    change = Upsert(
        document=Document(id="d1"), passages={1: passages(1, DIMENSION), 2: passages(1, 3)}, content_hash=b""
    )
    collection.commit([change]).result(30)
    assert of(collection, 2).progress.done_documents == 0
    (document,), cursor = collection.documents_to_build(2, 10, 1 << 20)
    with pytest.raises(InvalidVector):
        collection.build(2, [BuiltDocument(key=document.key, passages=passages(1, 3))], cursor, tokens=1).result(30)
    assert built(collection, 2).passage_count == 2


def test_a_commit_must_bring_passages_for_the_generation_that_serves(collection: EmbeddedCollection) -> None:
    collection.create_generation(config()).result(30)
    collection.switch_generation(2).result(30)
    with pytest.raises(GenerationChanged):
        collection.commit([upsert(1)]).result(30)
    assert collection.sequence == 0
    fill(collection, [1], 2)
    assert collection.count(None) == 1


def test_one_generation_at_a_time_is_built(collection: EmbeddedCollection) -> None:
    collection.create_generation(config()).result(30)
    with pytest.raises(GenerationNotReady, match="generation 2 is being built"):
        collection.create_generation(config()).result(30)
    collection.drop_generation(2).result(30)
    assert collection.create_generation(config()).result(30).number == 3


def test_a_switch_changes_the_settings_and_a_roll_back_brings_them_back(
    collection: EmbeddedCollection, store: EmbeddedStore, open_store: OpenStore
) -> None:
    fill(collection, range(20))
    before = collection.config
    collection.raise_ef(256, filtered=False, under=SearchDefaults(), generation=1)
    collection.create_generation(config()).result(30)
    built(collection, 2)
    now = collection.switch_generation(2).result(30)
    assert (now.state, now.number) == (GenerationState.SERVING, 2)
    assert now.serve_time_seconds > now.create_time_seconds
    assert of(collection, 1).state is GenerationState.FORMER
    changed = collection.config
    assert (changed.embedder, changed.embedder_revision, changed.dimension) == ("other", "r2", OTHER)
    assert (changed.chunking, changed.query_instruction) == (config().chunking, "find")
    assert changed.reranker == before.reranker
    assert collection.ef(filtered=False) == 128
    collection.raise_ef(512, filtered=False, under=SearchDefaults(), generation=1)
    assert collection.ef(filtered=False) == 128
    assert collection.info().passage_count == 40
    assert nearest(collection, vector(5, OTHER))[0] == "d5"
    (document,) = collection.documents_by_id(["d5"], Include(passages=True)).values()
    assert document.passage_count == len(document.passages) == 2
    with pytest.raises(UnsupportedByCollection):
        search_dense(collection, vector(5, DIMENSION), 3)
    fill(collection, range(15, 25), 2)
    collection.commit([Deletion(id="d0")]).result(30)
    store.close()
    collection = open_store().open("papers")
    assert collection.generation == 2
    assert collection.config == changed
    assert of(collection, 1).progress.complete
    assert collection.switch_generation(1).result(30).number == 1
    assert collection.config == before
    assert of(collection, 2).state is GenerationState.FORMER
    assert sorted(nearest(collection, vector(3, DIMENSION))) == sorted(f"d{i}" for i in range(1, 25))
    assert collection.switch_generation(1).result(30).state is GenerationState.SERVING


def test_segments_of_generations_overlap_in_range_and_hold_their_own_passages(open_store: OpenStore) -> None:
    store = open_store()
    collection = store.create("papers", collection_config())
    fill(collection, range(100))
    collection.create_generation(config()).result(30)
    # Commits and portions take turns, so the ids of both generations alternate and keys of the second do not ascend.
    for start in range(100, 160, 10):
        documents, cursor = collection.documents_to_build(2, 20, 1 << 20)
        fill(collection, range(start, start + 10), 2)
        made = [BuiltDocument(key=one.key, passages=passages(int(one.id[1:]), OTHER, 2)) for one in documents]
        collection.build(2, made, cursor, tokens=1).result(30)
    built(collection, 2)
    for flushed in (False, True):
        if flushed:
            collection.flush_now()
            collection.merge_now()
            assert {number: len(snapshot.segments) > 0 for number, snapshot in collection.snapshots().items()} == {
                1: True,
                2: True,
            }
        keys = collection.keys([f"d{i}" for i in range(160)])
        for number, size in ((1, DIMENSION), (2, OTHER)):
            with collection.read_generation(number) as reader:
                for id in ("d0", "d55", "d99", "d120", "d159"):
                    query = vector(int(id[1:]), size)
                    assert reader.dense(query, 1).keys[0] == keys[id]
                    scored = reader.dense_scores(query, [keys[id]])
                    assert scored.keys.tolist() == [keys[id]] * (1 if number == 1 else 2)
                    assert scored.scores[0] == pytest.approx(1, abs=1e-5)
    collection.commit([Deletion(id="d55"), upsert(120, 2)]).result(30)
    assert store.verify("papers").problems == []
    store.close()
    store = open_store()
    collection = store.open("papers")
    assert collection.damage == ()
    assert "d55" not in nearest(collection, vector(55, OTHER), 2)
    assert store.verify("papers").problems == []


def test_a_build_that_is_paused_stays_so_after_a_restart(
    collection: EmbeddedCollection, store: EmbeddedStore, open_store: OpenStore
) -> None:
    fill(collection, [1])
    collection.create_generation(config()).result(30)
    paused = collection.pause_build(2, "the model failed", by_user=False).result(30).progress
    assert (paused.paused, paused.paused_by_user) == ("the model failed", False)
    store.close()
    store = open_store()
    assert store.reindexing() == ["papers"]
    assert store.find("papers").generations()[1].progress.paused == "the model failed"
    collection = store.open("papers")
    assert collection.pause_build(2, "", by_user=True).result(30).progress.paused_by_user is False


def test_a_failure_neither_ends_nor_replaces_the_pause_of_a_caller(collection: EmbeddedCollection) -> None:
    fill(collection, [1])
    collection.create_generation(config()).result(30)
    collection.pause_build(2, "it is noon", by_user=True).result(30)
    for reason in ("the model failed", ""):
        at = collection.pause_build(2, reason, by_user=False).result(30).progress
        assert (at.paused, at.paused_by_user) == ("it is noon", True)
    assert collection.pause_build(2, "", by_user=True).result(30).progress.paused == ""


def test_the_serving_generation_has_no_build_to_pause(collection: EmbeddedCollection) -> None:
    with pytest.raises(GenerationNotReady, match="serves"):
        collection.pause_build(1, "it is noon", by_user=True).result(30)


def test_the_store_knows_without_opening_who_has_something_to_build(
    collection: EmbeddedCollection, store: EmbeddedStore, open_store: OpenStore
) -> None:
    fill(collection, range(3))
    assert store.reindexing() == []
    collection.create_generation(config()).result(30)
    assert store.reindexing() == ["papers"]
    built(collection, 2)
    assert store.reindexing() == ["papers"]
    collection.switch_generation(2).result(30)
    assert store.reindexing() == []
    # The former generation lags: its model failed.
    change = Upsert(document=Document(id="d7", text="fox"), passages={2: passages(7, OTHER)}, content_hash=b"")
    collection.commit([change]).result(30)
    assert store.reindexing() == ["papers"]
    collection.drop_generation(1).result(30)
    assert store.reindexing() == []
    (collection.folder / "reindexing").touch()
    store.close()
    store = open_store()
    assert store.reindexing() == ["papers"]
    store.open("papers")
    assert store.reindexing() == []


def test_a_former_generation_that_lags_can_be_made_up(collection: EmbeddedCollection) -> None:
    collection.create_generation(config()).result(30)
    collection.switch_generation(2).result(30)
    change = Upsert(document=Document(id="d7", text="fox"), passages={2: passages(7, OTHER)}, content_hash=b"")
    collection.commit([change]).result(30)
    with pytest.raises(GenerationNotReady):
        collection.switch_generation(1).result(30)
    (document,), cursor = collection.documents_to_build(1, 10, 1 << 20)
    made = [BuiltDocument(key=document.key, passages=passages(7, DIMENSION))]
    assert collection.build(1, made, cursor, tokens=1).result(30).progress.complete
    assert collection.switch_generation(1).result(30).number == 1


def test_generations_of_a_closed_collection_are_known(open_store: OpenStore) -> None:
    store = open_store()
    collection = store.create("papers", collection_config())
    fill(collection, range(5))
    collection.create_generation(config()).result(30)
    built(collection, 2)
    before = collection.generations()
    store.close()
    closed = open_store().find("papers")
    assert [(one.number, one.state, one.config, one.progress) for one in closed.generations()] == [
        (one.number, one.state, one.config, one.progress) for one in before
    ]
    assert closed.generation == 1
    assert not closed.is_open


def test_a_build_that_outgrows_its_flushes_waits_and_commits_do_not(open_store: OpenStore) -> None:
    store = open_store(segment_min_passages=4, builder=(sys.executable, "-c", "import time; time.sleep(60)"))
    collection = store.create("papers", collection_config())
    fill(collection, range(60))
    collection.create_generation(config()).result(30)
    documents, cursor = collection.documents_to_build(2, 40, 1 << 20)
    made = [BuiltDocument(key=one.key, passages=passages(int(one.id[1:]), OTHER, 2)) for one in documents]
    collection.build(2, made, cursor, tokens=1).result(30)
    documents, cursor = collection.documents_to_build(2, 40, 1 << 20)
    made = [BuiltDocument(key=one.key, passages=passages(int(one.id[1:]), OTHER, 2)) for one in documents]
    waiting = collection.build(2, made, cursor, tokens=1)
    fill(collection, [1], 2)
    assert not waiting.done()
    store.close()
    assert waiting.result(30).progress.done_documents == 60


def test_the_marker_stays_when_one_transaction_ends_a_build_and_leaves_a_document_out(
    collection: EmbeddedCollection, store: EmbeddedStore
) -> None:
    fill(collection, range(3))
    collection.create_generation(config()).result(30)
    built(collection, 2)
    collection.switch_generation(2).result(30)
    left_out = Upsert(document=Document(id="d7"), passages={2: passages(7, OTHER)}, content_hash=b"")
    collection.commit([left_out]).result(30)
    (document,), cursor = collection.documents_to_build(1, 10, 1 << 20)
    gate = threading.Event()
    blocked = collection.submit(Task(lambda _: gate.wait(30), lambda _: None))
    made = BuiltDocument(key=document.key, passages=passages(7, DIMENSION))
    build = collection.build(1, [made], cursor, tokens=1)
    again = replace(left_out, document=Document(id="d8"))
    commit = collection.commit([again])
    gate.set()
    for future in (blocked, build, commit):
        future.result(30)
    assert not of(collection, 1).progress.complete
    assert store.reindexing() == ["papers"]
