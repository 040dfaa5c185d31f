"""An index that shows something else than the database has: `verify` says so, and `--repair` heals it in place.

Each state is made on purpose, on the writer thread, in a collection of two segments and some rows in the growing one.
"""

from __future__ import annotations

import copy
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shortlist_server.config import Config
from shortlist_server.domain import Change, Deletion, Vector
from shortlist_server.storage.collection import EmbeddedCollection
from shortlist_server.storage.compaction.builder import BuildSpec, build
from shortlist_server.storage.compaction.compactor import BuildFailed
from shortlist_server.storage.disk.files import Files
from shortlist_server.storage.rows.writer import Task
from shortlist_server.storage.store import EmbeddedStore
from shortlist_server.storage.values import SegmentOutdated, SegmentRow
from shortlist_server.storage.vectors.index import Job, Watch
from shortlist_server.storage.vectors.segments import Segment

from .conftest import Maker, OpenStore, collection_config, opened
from .reads import search_dense


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Maker]:
    """Documents d0 to d49 in a first segment, to d99 in a second, to d119 in the growing segment: passages 1 to 120."""
    maker = Maker()
    folder = tmp_path_factory.mktemp("template") / "data"
    store = EmbeddedStore(Config(data_dir=folder), maintain=False)
    collection = store.create("papers", collection_config())
    for start, end in ((0, 50), (50, 100), (100, 120)):
        collection.commit([maker.upsert(f"d{i}") for i in range(start, end)]).result(30)
        if end <= 100:
            assert collection.flush_now() == 1
    store.close()
    return folder, maker


@pytest.fixture
def maker(template: tuple[Path, Maker]) -> Maker:
    return copy.deepcopy(template[1])


@pytest.fixture
def store(template: tuple[Path, Maker], tmp_path: Path, open_store: OpenStore) -> EmbeddedStore:
    shutil.copytree(template[0], tmp_path / "data")
    return open_store(maintain=False)


@pytest.fixture
def collection(store: EmbeddedStore) -> EmbeddedCollection:
    return store.open("papers")


def write(collection: EmbeddedCollection, change: Change) -> None:
    """Changes the database, and shows nobody."""
    collection.run(Task(lambda transaction: transaction.apply([change], None), lambda _: None))


def execute(collection: EmbeddedCollection, sql: str, *values: object) -> None:
    collection.run(Task(lambda transaction: transaction.connection.execute(sql, values).fetchall(), lambda _: None))


def show(collection: EmbeddedCollection, change: Callable[[], object]) -> None:
    """Changes what is in memory alone."""
    collection.run(Task(lambda _: None, lambda _: change()))


def deleted_in_a_segment(collection: EmbeddedCollection, maker: Maker) -> None:
    write(collection, Deletion(id="d7"))
    del maker.vectors["d7"]


def deleted_in_the_growing_segment(collection: EmbeddedCollection, maker: Maker) -> None:
    write(collection, Deletion(id="d110"))
    del maker.vectors["d110"]


def written_and_not_shown(collection: EmbeddedCollection, maker: Maker) -> None:
    write(collection, maker.upsert("d200", passages=2))


def replaced_and_not_shown(collection: EmbeddedCollection, maker: Maker) -> None:
    write(collection, maker.upsert("d60"))


def dead_in_a_segment(collection: EmbeddedCollection, maker: Maker) -> None:
    show(collection, lambda: collection.snapshot.segments[0].remove(np.array([8, 9])))


def dead_in_the_growing_segment(collection: EmbeddedCollection, maker: Maker) -> None:
    show(collection, lambda: opened(collection).serving.index._growing.remove(np.array([105])))


def in_a_segment_and_in_the_growing_segment(collection: EmbeddedCollection, maker: Maker) -> None:
    growing = opened(collection).serving.index._growing
    growing.drop_range(0, 1000)
    growing.append([5, *range(101, 121)], [5, *range(101, 121)], maker_rows(maker, [4, *range(100, 120)]))
    show(collection, opened(collection).serving.index._show)


def maker_rows(maker: Maker, numbers: list[int]) -> list[Vector]:
    return [maker.vectors[f"d{number}"][0] for number in numbers]


def in_two_segments(collection: EmbeddedCollection, maker: Maker) -> None:
    row = begun(collection, 0, 100)
    values = (row.uid, row.low, row.high, row.passages, row.checksum)
    execute(collection, "INSERT INTO segments (uid, low, high, passages, checksum) VALUES (?, ?, ?, ?, ?)", *values)
    index = opened(collection).serving.index

    def both() -> None:
        index._segments = (loaded(collection, row), *index._segments)
        index._show()

    show(collection, both)


def listed_by_no_manifest(collection: EmbeddedCollection, maker: Maker) -> None:
    execute(collection, "DELETE FROM segments WHERE low = 0")


def listed_and_not_loaded(collection: EmbeddedCollection, maker: Maker) -> None:
    execute(collection, "INSERT INTO segments (uid, low, high, passages, checksum) VALUES ('gone', 100, 120, 20, '')")


def listed_under_another_name(collection: EmbeddedCollection, maker: Maker) -> None:
    execute(collection, "UPDATE segments SET uid = 'gone' WHERE low = 50")


def begun(collection: EmbeddedCollection, low: int, high: int) -> SegmentRow:
    """The row of a segment that was built and not published."""
    spec = BuildSpec(
        database=str(collection.folder / "collection.db"),
        folder=str(collection.folder / "segments"),
        collection=collection.uid,
        uid="made",
        generation=1,
        dimension=collection.config.dimension,
        low=low,
        high=high,
        seed=None,
        threads=1,
    )
    row = build(spec, Files())
    assert row is not None
    return row


def loaded(collection: EmbeddedCollection, row: SegmentRow) -> Segment:
    return Segment.load(collection.folder / "segments" / row.uid, row, collection.uid, collection.config.dimension)


def assert_finds_all(collection: EmbeddedCollection, maker: Maker) -> None:
    names = {key: id for id, key in collection.keys(list(maker.vectors)).items()}
    for query in maker.random.standard_normal((3, 16)).astype(np.float32):
        best = {id: float(np.max(vectors @ query)) for id, vectors in maker.vectors.items()}
        for exact in (True, False):
            found = search_dense(collection, query, len(best), exact=exact)
            got = list(dict.fromkeys(names.get(key) for key in found.keys.tolist()))
            assert got == sorted(best, key=best.__getitem__, reverse=True)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (deleted_in_a_segment, "1 passages are indexed but not stored, first 8"),
        (deleted_in_the_growing_segment, "1 passages are indexed but not stored, first 111"),
        (written_and_not_shown, "2 passages are in no index, first 121"),
        (replaced_and_not_shown, "1 passages are in no index, first 121"),
        (dead_in_a_segment, "2 passages are in no index, first 8"),
        (dead_in_the_growing_segment, "1 passages are in no index, first 105"),
        (in_a_segment_and_in_the_growing_segment, "a passage is in two places"),
        (in_two_segments, "a passage is in two places"),
        (listed_by_no_manifest, "the manifest names other segments than are loaded"),
        (listed_and_not_loaded, "the manifest names other segments than are loaded"),
        (listed_under_another_name, "the manifest names other segments than are loaded"),
    ],
)
def test_verify_names_the_state_and_repair_heals_it_without_a_restart(
    collection: EmbeddedCollection,
    store: EmbeddedStore,
    open_store: OpenStore,
    maker: Maker,
    harm: Callable[[EmbeddedCollection, Maker], None],
    said: str,
) -> None:
    harm(collection, maker)
    (problem,) = store.verify("papers").problems
    assert said in problem
    healed = store.verify("papers", repair=True)
    assert healed.ok, healed.problems
    assert any("agree with the database" in line for line in healed.repairs)
    assert_finds_all(collection, maker)
    collection.commit([Deletion(id="d11"), maker.upsert("d12"), maker.upsert("d300")]).result(30)
    del maker.vectors["d11"]
    collection.merge_now()
    assert_finds_all(collection, maker)
    assert {path.name for path in (collection.folder / "segments").iterdir()} == {
        segment.row.uid for segment in collection.snapshot.segments
    }
    store.close()
    again = open_store(maintain=False)
    assert again.verify("papers").ok
    assert again.open("papers").damage == ()
    assert_finds_all(again.open("papers"), maker)


def test_what_dies_by_the_repair_is_dead_in_a_build_that_is_under_way(
    collection: EmbeddedCollection, store: EmbeddedStore, maker: Maker
) -> None:
    index = opened(collection).serving.index
    with index.watching() as watch:
        row = begun(collection, 0, 50)
        segment = loaded(collection, row)
        deleted_in_a_segment(collection, maker)
        assert store.verify("papers", repair=True).ok
        assert [removed.tolist() for removed in watch.removed] == [[8]]
    segment.remove(watch.removed[0])
    assert segment.live == 49


def test_a_build_whose_part_was_set_aside_is_not_published_and_another_is_made(
    collection: EmbeddedCollection, store: EmbeddedStore, maker: Maker
) -> None:
    started, go_on = threading.Event(), threading.Event()
    compaction = opened(collection).serving.compaction
    real = compaction._publish

    def late(job: Job, segment: Segment | None, watch: Watch) -> None:
        if not started.is_set():
            started.set()
            assert go_on.wait(30)
        real(job, segment, watch)

    compaction._merger._publish = late
    merged: list[int] = []
    merging = threading.Thread(target=lambda: merged.append(collection.merge_now()))
    merging.start()
    assert started.wait(60)
    dead_in_a_segment(collection, maker)
    assert store.verify("papers", repair=True).ok
    go_on.set()
    merging.join()
    assert merged == [1]
    (segment,) = collection.snapshot.segments
    assert (segment.live, len(list((collection.folder / "segments").iterdir()))) == (120, 1)
    assert store.verify("papers").ok
    assert_finds_all(collection, maker)


def test_a_segment_that_overlaps_another_or_replaces_what_is_gone_is_not_listed(collection: EmbeddedCollection) -> None:
    row, uids = begun(collection, 20, 60), [segment.row.uid for segment in collection.snapshot.segments]

    def replacing(gone: list[str]) -> Task[None]:
        return Task(lambda transaction: transaction.replace_segments(gone, row), lambda _: None)

    for gone in ([], uids[:1], [*uids, "gone"]):
        with pytest.raises(SegmentOutdated):
            collection.run(replacing(gone))
    assert collection.difference().problems == ()


def test_a_build_that_the_index_contradicts_says_what_to_do_and_works_after_it(
    collection: EmbeddedCollection, store: EmbeddedStore, maker: Maker
) -> None:
    deleted_in_the_growing_segment(collection, maker)
    with pytest.raises(BuildFailed, match="run a verification with repair"):
        collection.flush_now()
    assert len(list((collection.folder / "segments").iterdir())) == 2
    assert store.verify("papers", repair=True).ok
    assert len(collection.snapshot.segments) == 3
    assert_finds_all(collection, maker)


@pytest.mark.parametrize("harm", [listed_by_no_manifest, listed_under_another_name])
def test_a_build_that_the_manifest_contradicts_fails_and_is_not_repeated_without_end(
    collection: EmbeddedCollection,
    store: EmbeddedStore,
    maker: Maker,
    harm: Callable[[EmbeddedCollection, Maker], None],
) -> None:
    harm(collection, maker)
    with pytest.raises(BuildFailed, match="no longer exists"):
        collection.merge_now()
    assert store.verify("papers", repair=True).ok
    assert collection.merge_now() == 1
    assert_finds_all(collection, maker)
