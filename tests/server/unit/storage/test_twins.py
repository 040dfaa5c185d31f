"""Equal vectors, and all but equal ones, in a segment: what is found, deleted, filtered, merged and verified."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterable
from pathlib import Path

import hnswlib
import numpy as np
import pytest

from shortlist_server.config import Config
from shortlist_server.domain import Deletion, DenseStrategy, Document, Equals, NewPassage, Range, Upsert
from shortlist_server.storage.base import Selection
from shortlist_server.storage.collection import EmbeddedCollection
from shortlist_server.storage.layout import MANIFEST_FILE, TWINS_FILE
from shortlist_server.storage.store import EmbeddedStore
from shortlist_server.storage.vectors.manifest import describe, sha256
from shortlist_server.storage.vectors.twins import NODES, represent
from shortlist_server.storage.verify import verify_collection

from .conftest import OpenStore, collection_config, unit
from .reads import read_passages, score_documents, search_dense
from .test_migrations import GOLDEN
from .test_segments import wait_until

DIMENSION = 16
COUNT = 4000


class Content:
    """Vectors by document number, and what brute force finds among those that live."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors
        self.alive = np.ones(len(vectors), dtype=bool)

    def upserts(self, numbers: Iterable[int]) -> list[Upsert]:
        return [
            Upsert(
                document=Document(id=f"d{number}", metadata={"n": float(number)}),
                passages={1: [NewPassage(start=0, end=1, vector=self.vectors[number], tokens=1)]},
                content_hash=b"",
            )
            for number in numbers
        ]

    def recall(
        self,
        collection: EmbeddedCollection,
        queries: np.ndarray,
        selection: Selection | None = None,
        passing: np.ndarray | None = None,
    ) -> float:
        """Mean recall at 10; the scores found must be exact, and of documents that live and pass."""
        passing = self.alive if passing is None else self.alive & passing
        right = []
        for query in queries:
            found = search_dense(collection, query, 10, selection)
            passage_ids, scores = found.passage_ids[:10], found.scores[:10]
            numbers = [int(p.key) - 1 for p in read_passages(collection, passage_ids.tolist()).values()]
            assert len(set(found.keys[:10].tolist())) == min(10, passing.sum())
            assert passing[numbers].all()
            truth = np.sort((self.vectors @ query)[passing])[::-1][:10]
            assert np.all(np.diff(scores) <= 1e-6)
            assert scores == pytest.approx(self.vectors[found.keys[:10] - 1] @ query, abs=1e-5)
            right.append(np.mean(scores >= truth[len(scores) - 1] - 1e-5))
        return float(np.mean(right))


def half_equal(noise: float = 0.0) -> np.ndarray:
    """4,000 vectors; 2,000 of them, all over, are one vector but for some noise."""
    random = np.random.default_rng(3)
    vectors = unit(random.standard_normal((COUNT, DIMENSION)))
    crowd = random.permutation(COUNT)[: COUNT // 2]
    vectors[crowd] = unit(vectors[crowd[0]] + noise * unit(random.standard_normal((len(crowd), DIMENSION))))
    return vectors


def queries(content: Content, number: int = 40) -> np.ndarray:
    random = np.random.default_rng(4)
    own = content.vectors[np.flatnonzero(content.alive)]
    return np.concatenate((unit(random.standard_normal((number, DIMENSION))), random.permutation(own)[:number]))


@pytest.fixture(scope="module")
def flushed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the documents of ``half_equal`` in one segment."""
    folder = tmp_path_factory.mktemp("twins") / "data"
    store = EmbeddedStore(Config(data_dir=folder), maintain=False)
    collection = store.create("papers", collection_config(DIMENSION))
    collection.commit(Content(half_equal()).upserts(range(COUNT))).result(60)
    assert collection.flush_now() == 1
    store.close()
    return folder


@pytest.fixture
def collection(flushed: Path, tmp_path: Path, open_store: OpenStore) -> EmbeddedCollection:
    shutil.copytree(flushed, tmp_path / "data")
    return open_store(maintain=False).open("papers")


def graph_nodes(collection: EmbeddedCollection) -> list[int]:
    return [segment._graph.get_current_count() for segment in collection.snapshot.segments]


@pytest.mark.parametrize("noise", [0.0, 1e-6, 1e-4])
def test_where_half_of_all_vectors_are_equal_everything_is_found(open_store: OpenStore, noise: float) -> None:
    content = Content(half_equal(noise))
    collection = open_store(maintain=False).create("papers", collection_config(DIMENSION))
    collection.commit(content.upserts(range(COUNT))).result(60)
    assert collection.flush_now() == 1
    assert COUNT / 2 < graph_nodes(collection)[0] < COUNT / 2 + 10 * NODES
    assert content.recall(collection, queries(content)) > 0.99
    assert search_dense(collection, content.vectors[0], 10).strategy is DenseStrategy.HNSW
    assert verify_collection(collection).ok


def test_equal_vectors_die_one_by_one_and_all_together(collection: EmbeddedCollection, open_store: OpenStore) -> None:
    content = Content(half_equal())
    crowd = np.flatnonzero(content.vectors @ content.vectors[np.argmax(crowding(content))] > 0.999)
    assert len(crowd) == COUNT // 2
    crowd = np.random.default_rng(5).permutation(crowd)
    for start, end in ((0, 1000), (1000, 1990)):
        gone = crowd[start:end]
        collection.commit([Deletion(id=f"d{number}") for number in gone]).result(30)
        content.alive[gone] = False
        assert content.recall(collection, queries(content)) > 0.99
        assert search_dense(collection, content.vectors[crowd[-1]], 10).strategy is DenseStrategy.HNSW
    left = crowd[1990:]
    found = search_dense(collection, content.vectors[left[0]], len(left))
    assert sorted(found.keys.tolist()) == sorted((left + 1).tolist())
    collection.commit([Deletion(id=f"d{number}") for number in left]).result(30)
    content.alive[left] = False
    assert content.recall(collection, queries(content)) > 0.99
    assert verify_collection(collection).ok
    again = reopened(open_store, collection)
    assert content.recall(again, queries(content)) > 0.99
    assert verify_collection(again).ok


def crowding(content: Content) -> np.ndarray:
    counts: np.ndarray = np.sum((content.vectors @ content.vectors[:50].T) > 0.999, axis=0)
    return counts


def reopened(open_store: OpenStore, collection: EmbeddedCollection) -> EmbeddedCollection:
    collection.close()
    folder = collection.folder.parent.parent
    shutil.copytree(folder, folder.parent / "again")
    store = open_store(maintain=False, data_dir=folder.parent / "again")
    return store.open(collection.name)


def test_a_filter_passes_some_of_the_equal_vectors(collection: EmbeddedCollection) -> None:
    content = Content(half_equal())
    numbers = np.arange(COUNT)
    for filter, passing in (
        (Range(("n",), upper=3900.0), numbers <= 3900),
        (Range(("n",), upper=1000.0), numbers <= 1000),
        (Range(("n",), upper=40.0), numbers <= 40),
        (Equals(("n",), 7.0), numbers == 7),
    ):
        assert content.recall(collection, queries(content, 15), collection.select(filter), passing) > 0.98


def test_equal_vectors_of_several_segments_are_merged_into_the_nodes_there_are(open_store: OpenStore) -> None:
    content = Content(half_equal())
    collection = open_store(maintain=False).create("papers", collection_config(DIMENSION))
    for start, end in ((0, 400), (400, 3400), (3400, COUNT)):
        collection.commit(content.upserts(range(start, end))).result(60)
        assert collection.flush_now() == 1
    gone = np.random.default_rng(6).permutation(3000)[:50] + 400
    collection.commit([Deletion(id=f"d{number}") for number in gone]).result(30)
    content.alive[gone] = False
    assert collection.merge_now() == 1
    (segment,) = collection.snapshot.segments
    # The seed's dead rows are in it, as ever; its nodes are the first ones.
    assert (len(segment.passage_ids), segment.live, segment.passage_ids[0]) == (COUNT, COUNT - 50, 401)
    assert COUNT / 2 < graph_nodes(collection)[0] < COUNT / 2 + 10 * NODES
    assert content.recall(collection, queries(content)) > 0.99
    assert verify_collection(collection).ok
    scores = score_documents(collection, content.vectors[0], [1, 500, 2999])
    assert scores.scores == pytest.approx(np.sort(content.vectors[[0, 499, 2998]] @ content.vectors[0])[::-1], abs=1e-5)


def test_a_segment_of_an_earlier_release_with_equal_vectors_is_read_and_built_anew(
    flushed: Path, tmp_path: Path, open_store: OpenStore
) -> None:
    shutil.copytree(flushed, tmp_path / "data")
    content = Content(half_equal())
    as_of_format_1(tmp_path / "data" / "collections" / "papers", content.vectors)
    collection = open_store(maintain=False).open("papers")
    assert collection.damage == ()
    assert collection.snapshot.segments[0].crowded
    assert graph_nodes(collection) == [COUNT]
    assert search_dense(collection, content.vectors[5], 10).strategy is DenseStrategy.HNSW
    assert content.recall(collection, queries(content)) < 0.99
    assert collection.merge_now() == 1
    assert graph_nodes(collection)[0] < COUNT
    assert content.recall(collection, queries(content)) > 0.99
    assert collection.merge_now() == 0


def as_of_format_1(folder: Path, vectors: np.ndarray) -> None:
    """Puts the segment of a collection into the form that format 1 gave it."""
    (segment,) = (folder / "segments").iterdir()
    (segment / TWINS_FILE).unlink()
    graph = hnswlib.Index(space="ip", dim=DIMENSION)
    graph.init_index(max_elements=COUNT, M=16, ef_construction=200)
    graph.add_items(vectors, np.arange(COUNT), num_threads=1)
    graph.save_index(str(segment / "graph.hnsw"))
    (segment / "vectors.f32").write_bytes(vectors.astype(np.float32).tobytes())
    for name in ("labels.i64", "keys.i64"):
        (segment / name).write_bytes(np.arange(1, COUNT + 1).tobytes())
    manifest = json.loads((segment / MANIFEST_FILE).read_bytes())
    manifest["format"] = 1
    del manifest["files"][TWINS_FILE]
    for name in manifest["files"]:
        entry = describe(segment / name)
        manifest["files"][name] = {"bytes": entry.bytes, "sha256": entry.sha256}
    content = json.dumps(manifest).encode()
    (segment / MANIFEST_FILE).write_bytes(content)
    connection = sqlite3.connect(folder / "collection.db", isolation_level=None)
    connection.execute("UPDATE segments SET checksum = ?", (sha256(content),))
    connection.close()


def test_a_segment_of_an_earlier_release_without_equal_vectors_stays(tmp_path: Path, open_store: OpenStore) -> None:
    shutil.copytree(GOLDEN / "format-3", tmp_path / "data")
    collection = open_store(maintain=False).open("golden")
    assert [segment.crowded for segment in collection.snapshot.segments] == [False]


def test_vectors_that_are_all_but_equal_are_no_damage(open_store: OpenStore) -> None:
    """A neighbourhood of 2,000 within 0.003 of one vector: searches miss some, and find others as near."""
    content = Content(half_equal(0.003))
    store = open_store(maintain=False)
    collection = store.create("papers", collection_config(DIMENSION))
    collection.commit(content.upserts(range(COUNT))).result(60)
    collection.flush_now()
    report = verify_collection(collection, sample=COUNT)
    assert report.ok, report.problems
    assert report.reached < 0.95 * report.sampled
    assert content.recall(collection, queries(content)) > 0.99


def test_a_graph_whose_searches_end_far_from_where_they_should_is_damage(collection: EmbeddedCollection) -> None:
    (segment,) = collection.snapshot.segments
    graph = hnswlib.Index(space="ip", dim=DIMENSION)
    count = segment._graph.get_current_count()
    graph.init_index(max_elements=count, M=16, ef_construction=200)
    # Each node has another's vector.
    graph.add_items(np.roll(segment.vectors[:count], count // 2, axis=0), np.arange(count))
    segment._graph = graph
    (problem,) = verify_collection(collection).problems
    assert "reachability" in problem


def test_a_maintained_collection_of_one_vector_alone_settles(open_store: OpenStore) -> None:
    content = Content(np.repeat(unit(np.ones((1, DIMENSION))), 400, axis=0))
    collection = open_store().create("papers", collection_config(DIMENSION))
    collection.commit(content.upserts(range(400))).result(30)
    wait_until(lambda: collection.info().segment_passage_count == 400)
    assert graph_nodes(collection) == [NODES]
    assert len(search_dense(collection, content.vectors[0], 400).keys) == 400
    assert verify_collection(collection).ok


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_what_stands_for_a_vector_is_near_it_and_a_node(scale: float) -> None:
    random = np.random.default_rng(7)
    centres = random.standard_normal((20, DIMENSION))
    crowds = centres[random.integers(0, 20, 2000)] + 1e-5 * random.standard_normal((2000, DIMENSION))
    vectors = (scale * np.concatenate((crowds, random.standard_normal((500, DIMENSION))))).astype(np.float32)
    own = np.arange(len(vectors))
    first = represent(vectors[:1000], own[:1000], 0)
    assert len(np.unique(first)) < 20 * 4 * NODES
    # The first thousand are a seed, with nodes and twins of its own.
    order = np.argsort(first != own[:1000], kind="stable")
    seed, nodes = vectors[:1000][order], int((first == own[:1000]).sum())
    place = np.empty(1000, dtype=np.int64)
    place[order] = own[:1000]
    known = np.concatenate((place[first[order]], own[1000:]))
    both = np.concatenate((seed, vectors[1000:]))
    stands = represent(both, known, nodes)
    assert np.array_equal(stands[:1000], known[:1000])
    assert np.array_equal(stands[stands], stands)
    assert np.max(np.linalg.norm(both - both[stands], axis=1)) < 0.01 * scale * np.sqrt(DIMENSION)
    assert (stands == own).sum() < nodes + 500 + 20 * 2 * NODES
