"""What a collection promises its callers."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from shortlist_server.domain import (
    Change,
    Commit,
    Deletion,
    DenseStrategy,
    Document,
    Equals,
    Include,
    NewPassage,
    StreamPosition,
    Upsert,
)
from shortlist_server.errors import InvalidArgument, InvalidVector, Unavailable, UnsupportedByCollection
from shortlist_server.storage.collection import EmbeddedCollection
from shortlist_server.storage.rows.write_transaction import WriteTransaction
from shortlist_server.storage.rows.writer import Task
from shortlist_server.storage.store import EmbeddedStore
from shortlist_server.storage.verify import verify_collection

from .conftest import DIMENSION, Maker, OpenStore, collection_config, opened, unit
from .reads import read_documents, score_documents, search_dense


def commit(collection: EmbeddedCollection, *changes: Change, position: StreamPosition | None = None) -> Commit:
    return collection.commit(changes, position).result(timeout=30)


def test_a_committed_document_is_found_at_once_by_vector_and_by_words(
    collection: EmbeddedCollection, maker: Maker
) -> None:
    commit(collection, maker.upsert("a", text="the running fox", title="Foxes"))
    key = collection.keys(["a", "b"])["a"]
    found = search_dense(collection, maker.vectors["a"][0], 5)
    assert found.keys.tolist() == [key]
    assert found.scores[0] == pytest.approx(1, abs=1e-6)
    assert found.strategy is DenseStrategy.EXACT
    assert collection.lexical("fox runs", 5).keys.tolist() == [key]


def test_a_document_comes_back_as_it_went_in(collection: EmbeddedCollection, maker: Maker) -> None:
    metadata = {
        "year": 2024,
        "tags": ["a", 'q"uote', "nul\x00one\x01"],
        "nested": {'k"\\\n': None, "ok": True},
        "x": 1.5,
    }
    commit(collection, maker.upsert("id", passages=2, text="text \u20ac", title="title", **metadata))
    key = collection.keys(["id"])["id"]
    document = read_documents(collection, [key, 999], Include(vectors=True))[key]
    assert (document.id, document.title, document.text) == ("id", "title", "text \u20ac")
    assert document.metadata == metadata
    assert [passage.ordinal for passage in document.passages] == [0, 1]
    assert np.array_equal(np.array([passage.vector for passage in document.passages]), maker.vectors["id"])
    bare = read_documents(collection, [key], Include(text=False, metadata=False))[key]
    assert (bare.title, bare.text, dict(bare.metadata), bare.passages) == ("", "", {}, ())
    assert bare.passage_count == 2


def test_a_replaced_document_has_a_new_key_and_is_found_only_as_it_is_now(
    collection: EmbeddedCollection, maker: Maker
) -> None:
    commit(collection, maker.upsert("a", text="old words"))
    old_key, old_vector = collection.keys(["a"])["a"], maker.vectors["a"][0]
    second = commit(collection, maker.upsert("a", text="new words"))
    assert list(second.existed) == [True]
    new_key = collection.keys(["a"])["a"]
    assert new_key != old_key
    assert search_dense(collection, old_vector, 5).keys.tolist() == [new_key]
    assert collection.lexical("old", 5).keys.tolist() == []
    assert collection.count(None) == 1


def test_the_last_change_of_an_id_in_one_commit_wins_and_the_commit_says_so(
    collection: EmbeddedCollection, maker: Maker
) -> None:
    result = commit(collection, maker.upsert("a"), maker.upsert("b"), maker.upsert("a"), Deletion(id="c"))
    assert list(result.superseded) == [True, False, False, False]
    assert list(result.sequences) == [2, 1, 2, 3]
    assert list(result.existed) == [False] * 4
    assert result.last_sequence == collection.sequence == 3
    assert collection.count(None) == 2


def test_deleted_documents_are_gone_from_every_index(collection: EmbeddedCollection, maker: Maker) -> None:
    commit(collection, maker.upsert("a", text="word"), maker.upsert("b", text="word"))
    result = commit(collection, Deletion(id="a"))
    assert list(result.existed) == [True]
    left = collection.keys(["a", "b"])
    assert list(left) == ["b"]
    assert search_dense(collection, maker.vectors["a"][0], 5).keys.tolist() == [left["b"]]
    assert collection.lexical("word", 5).keys.tolist() == [left["b"]]


def test_an_error_fails_only_its_own_callers_changes(collection: EmbeddedCollection, maker: Maker) -> None:
    bad = Upsert(
        document=Document(id="bad"),
        passages={1: [NewPassage(start=0, end=0, vector=np.ones(3, np.float32), tokens=1)]},
        content_hash=b"",
    )
    good, failed, also_good = (
        collection.commit([maker.upsert("a")]),
        collection.commit([maker.upsert("never"), bad]),
        collection.commit([maker.upsert("b")]),
    )
    good.result(30)
    also_good.result(30)
    with pytest.raises(InvalidVector):
        failed.result(30)
    assert sorted(collection.keys(["a", "b", "never", "bad"])) == ["a", "b"]
    assert collection.info().passage_count == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, "\ud800"])
def test_what_json_cannot_hold_is_refused_with_a_typed_error(
    collection: EmbeddedCollection, maker: Maker, value: object
) -> None:
    with pytest.raises(InvalidArgument):
        commit(collection, maker.upsert("a", field=value))
    assert collection.count(None) == 0


def test_a_vector_that_is_not_finite_is_refused(collection: EmbeddedCollection) -> None:
    vector = np.full(DIMENSION, np.nan, dtype=np.float32)
    change = Upsert(
        document=Document(id="a"), passages={1: [NewPassage(start=0, end=0, vector=vector, tokens=1)]}, content_hash=b""
    )
    with pytest.raises(InvalidVector):
        commit(collection, change)


def test_a_query_of_another_dimension_is_refused(collection: EmbeddedCollection) -> None:
    with pytest.raises(UnsupportedByCollection):
        search_dense(collection, np.ones(DIMENSION + 1, np.float32), 1)


def test_a_stream_position_is_kept_with_its_changes_or_alone(collection: EmbeddedCollection, maker: Maker) -> None:
    assert collection.stream_position("s") == 0
    commit(collection, maker.upsert("a"), position=StreamPosition(stream="s", position=7))
    assert collection.stream_position("s") == 7
    assert commit(collection, position=StreamPosition(stream="s", position=9)).last_sequence == 1
    assert collection.stream_position("s") == 9


def test_unchanged_names_the_documents_whose_hash_is_stored(collection: EmbeddedCollection, maker: Maker) -> None:
    commit(collection, maker.upsert("a", text="t"), maker.upsert("b", text="t"))
    assert collection.unchanged({"a": b"at", "b": b"other", "c": b"ct"}) == {"a": 1}


def test_pages_follow_the_sequence_and_end_with_none(collection: EmbeddedCollection, maker: Maker) -> None:
    commit(collection, *(maker.upsert(f"d{i}", even=i % 2 == 0) for i in range(5)))
    first, after = collection.page(None, 0, 2, Include())
    assert [document.id for document in first] == ["d0", "d1"]
    assert after is not None
    second, after = collection.page(None, after, 2, Include())
    assert after is not None
    third, end = collection.page(None, after, 2, Include())
    assert [document.id for document in (*second, *third)] == ["d2", "d3", "d4"]
    assert end is None
    even, end = collection.page(Equals(("even",), True), 0, 10, Include())
    assert [document.id for document in even] == ["d0", "d2", "d4"]
    assert end is None


def test_delete_matching_deletes_what_passes_and_says_how_many(collection: EmbeddedCollection, maker: Maker) -> None:
    commit(collection, *(maker.upsert(f"d{i}", odd=i % 2 == 1) for i in range(1200)))
    assert collection.delete_matching(Equals(("odd",), True)).result(30) == 600
    assert collection.count(None) == collection.count(Equals(("odd",), False)) == 600
    assert collection.count(Equals(("odd",), True)) == 0


def test_a_selection_follows_changes(collection: EmbeddedCollection, maker: Maker) -> None:
    f = Equals(("x",), 1.0)
    assert collection.count(f) == 0
    commit(collection, maker.upsert("a", x=1), maker.upsert("b", x=2))
    assert collection.count(f) == 1
    commit(collection, maker.upsert("a", x=2), maker.upsert("b", x=1), maker.upsert("c", x=1))
    assert collection.select(f).matches == 2
    commit(collection, Deletion(id="b"))
    assert collection.select(f).matches == 1


def test_dense_covers_as_many_documents_as_asked_whatever_their_passages(
    collection: EmbeddedCollection, maker: Maker
) -> None:
    heavy = maker.upsert("heavy", passages=50)
    target = maker.vectors["heavy"][0]
    close = [unit(target + 0.001 * maker.vector()) for _ in range(50)]
    heavy = Upsert(
        document=heavy.document,
        passages={1: [NewPassage(start=0, end=0, vector=v, tokens=1) for v in close]},
        content_hash=b"",
    )
    commit(collection, heavy, *(maker.upsert(f"d{i}") for i in range(10)))
    found = search_dense(collection, target, 5)
    assert len(set(found.keys.tolist())) == 5
    assert np.all(np.diff(found.scores) <= 0)
    assert len(set(search_dense(collection, target, 100).keys.tolist())) == 11


def test_dense_scores_are_exact_for_the_documents_asked(collection: EmbeddedCollection, maker: Maker) -> None:
    commit(collection, *(maker.upsert(f"d{i}", passages=3) for i in range(10)))
    keys = collection.keys(["d3", "d7"])
    query = maker.vector()
    scored = score_documents(collection, query, list(keys.values()))
    expected = sorted(np.concatenate([maker.vectors["d3"] @ query, maker.vectors["d7"] @ query]), reverse=True)
    assert scored.scores.tolist() == pytest.approx(expected, abs=1e-6)
    assert set(scored.keys.tolist()) == set(keys.values())


def test_any_text_is_a_lexical_query(collection: EmbeddedCollection, maker: Maker) -> None:
    commit(collection, maker.upsert("a", text="fox and hound"))
    for text in (
        "",
        "   ",
        '"',
        "fox OR",
        "NEAR(fox",
        "fox* -hound",
        "title:fox",
        "__",
        "_ fox",
        "a\x00b",
        "'; DROP TABLE documents",
    ):
        collection.lexical(text, 5)
    assert len(collection.lexical('fox" AND "hound', 5).keys) == 1
    assert len(collection.lexical("AND", 5).keys) == 1


def test_a_word_in_the_title_weighs_more_than_in_the_text(collection: EmbeddedCollection, maker: Maker) -> None:
    commit(
        collection,
        maker.upsert("text", text="fox here", title="other"),
        maker.upsert("t", text="other here", title="fox"),
    )
    keys = collection.keys(["text", "t"])
    assert collection.lexical("fox", 5).keys.tolist() == [keys["t"], keys["text"]]


def test_lexical_search_within_a_selection_returns_only_what_passes(
    collection: EmbeddedCollection, maker: Maker
) -> None:
    commit(collection, *(maker.upsert(f"d{i}", text="fox", n=i) for i in range(20)))
    selection = collection.select(Equals(("n",), 3.0))
    assert collection.lexical("fox", 5, selection).keys.tolist() == [collection.keys(["d3"])["d3"]]


def test_info_counts_what_is_there(collection: EmbeddedCollection, maker: Maker) -> None:
    commit(collection, *(maker.upsert(f"d{i}", passages=2) for i in range(5)))
    info = collection.info()
    assert (info.document_count, info.passage_count, info.sequence) == (5, 10, 5)
    assert info.disk_bytes > 0


def test_a_document_that_is_replaced_all_the_time_is_always_there(collection: EmbeddedCollection, maker: Maker) -> None:
    commit(collection, maker.upsert("a", passages=2), maker.upsert("other"))
    stop = threading.Event()

    def replace() -> None:
        while not stop.is_set():
            commit(collection, maker.upsert("a", passages=2))

    with ThreadPoolExecutor(1) as thread:
        replacing = thread.submit(replace)
        try:
            for _ in range(300):
                found = collection.documents_by_id(["a", "never"], Include(passages=True))
                assert list(found) == ["a"]
                assert len(found["a"].passages) == 2
        finally:
            stop.set()
        replacing.result(30)


def test_documents_that_are_replaced_all_the_time_do_not_pile_up_in_memory(open_store: OpenStore, maker: Maker) -> None:
    collection = open_store(segment_min_passages=4096).create("papers", collection_config())
    for _ in range(100):
        commit(collection, *(maker.upsert(f"d{i}") for i in range(50)))
        assert len(collection.snapshot.growing.passage_ids) <= 256
    keys = collection.keys([f"d{i}" for i in range(50)])
    assert collection.snapshot.growing.live == 50
    assert [search_dense(collection, maker.vectors[id][0], 1).keys.tolist() for id in keys] == [
        [key] for key in keys.values()
    ]
    assert verify_collection(collection).ok


def test_a_closed_collection_refuses_every_call(
    collection: EmbeddedCollection, store: EmbeddedStore, maker: Maker
) -> None:
    change, query = maker.upsert("a"), maker.vector()
    store.close()
    for call in (
        lambda: collection.commit([change]),
        lambda: search_dense(collection, query, 1),
        lambda: collection.lexical("fox", 1),
        lambda: read_documents(collection, [1], Include()),
    ):
        with pytest.raises(Unavailable):
            call()


def test_a_document_without_passages_is_stored_and_found_by_words(collection: EmbeddedCollection, maker: Maker) -> None:
    commit(collection, maker.upsert("a", passages=0, text="fox"))
    assert len(collection.lexical("fox", 5).keys) == 1
    assert len(search_dense(collection, maker.vector(), 5).keys) == 0


def checkpointed_bytes(collection: EmbeddedCollection) -> int:
    collection.run(Task(lambda _: None, lambda _: None))
    with collection.reading() as connection:
        connection.execute("PRAGMA query_only = OFF")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        connection.execute("PRAGMA query_only = ON")
    return (collection.folder / "collection.db").stat().st_size


def test_a_large_deletion_gives_its_space_back_while_others_write(collection: EmbeddedCollection, maker: Maker) -> None:
    commit(collection, *(maker.upsert(f"d{i}", text=f"word{i} " * 400, keep=i < 100) for i in range(3000)))
    full = checkpointed_bytes(collection)
    assert collection.delete_matching(Equals(("keep",), False)).result(30) == 2900
    commit(collection, maker.upsert("new"))
    until = time.monotonic() + 30
    while opened(collection).deletions.reclaiming:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert checkpointed_bytes(collection) < full / 4
    assert verify_collection(collection).ok


def test_as_many_free_pages_go_back_to_the_disk_as_are_asked_for(collection: EmbeddedCollection, maker: Maker) -> None:
    collection.commit([maker.upsert(f"d{i}", text="x" * 20_000) for i in range(100)]).result(30)
    collection.commit([Deletion(id=f"d{i}") for i in range(100)]).result(30)

    def free(transaction: WriteTransaction) -> int:
        pages: int = transaction.connection.execute("PRAGMA freelist_count").fetchone()[0]
        return pages

    before = collection.run(Task(free, lambda pages: pages))
    assert before > 200
    left = collection.run(Task(lambda transaction: transaction.reclaim(150), lambda pages: pages))
    assert left == collection.run(Task(free, lambda pages: pages)) == before - 150
    assert collection.run(Task(lambda transaction: transaction.reclaim(10_000), lambda pages: pages)) == 0


def test_stats_say_how_maintenance_is_doing(collection: EmbeddedCollection, maker: Maker) -> None:
    commit(collection, *(maker.upsert(f"d{i}") for i in range(10)))
    stats = collection.stats()
    assert stats.growing_passages == 10
    assert (stats.segments, stats.failing, stats.build_failures) == ((), False, 0)
    collection.flush_now()
    commit(collection, Deletion(id="d1"))
    assert [(one.passages, one.dead_passages) for one in collection.stats().segments] == [(9, 1)]
