"""A data folder of an earlier release opens for ever, and a schema can be moved on.

``golden/format-N`` was written when N was the newest schema version, and is never written again; see ``make_golden``.
"""

from __future__ import annotations

import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from shortlist_server.config import Config
from shortlist_server.domain import (
    BuiltDocument,
    Chunking,
    CollectionConfig,
    Document,
    Equals,
    FusionMethod,
    Generation,
    GenerationConfig,
    GenerationState,
    Include,
    NewPassage,
    OverflowPolicy,
    RerankFailurePolicy,
    RerankStage,
    RetrievalMode,
    SearchDefaults,
    StreamPosition,
    Upsert,
)
from shortlist_server.errors import DataCorrupted, NewerDataFormat
from shortlist_server.storage.collection import EmbeddedCollection
from shortlist_server.storage.rows import schema, settings
from shortlist_server.storage.store import EmbeddedStore

from .reads import read_documents, search_dense

GOLDEN = Path(__file__).with_name("golden")
FIRST_FORMATS = {"format-1", "format-2", "format-3", "format-4"}
"""Formats without generations."""
ONE_STAGE_FORMATS = {*FIRST_FORMATS, "format-5"}
"""Formats without a list of rerank stages."""
DIMENSION = 8
CONFIG = CollectionConfig(
    embedder="none",
    embedder_revision="r1",
    dimension=DIMENSION,
    reranker="late-interaction",
    chunking=Chunking(max_tokens=64, overlap_tokens=16),
    overflow=OverflowPolicy.TRUNCATE,
    filterable_fields=("year", r"a\.b"),
    query_instruction="find",
    search_defaults=SearchDefaults(
        mode=RetrievalMode.DENSE,
        fusion=FusionMethod.RRF,
        rerank_on_failure=RerankFailurePolicy.FAIL,
        rerank_depth=7,
    ),
)


STAGED = replace(
    CONFIG,
    search_defaults=replace(
        CONFIG.search_defaults,
        rerank_depth=None,
        rerank_stages=(RerankStage(model="late-interaction", depth=7), RerankStage(weight=0.0, instruction="find")),
    ),
)

GENERATION = GenerationConfig(
    embedder="other",
    embedder_revision="r2",
    dimension=DIMENSION // 2,
    chunking=Chunking(max_tokens=32, overlap_tokens=8),
    number_format="int8",
)


def vector(number: int) -> np.ndarray:
    made = np.cos(np.arange(DIMENSION) * (number + 1)).astype(np.float32)
    return made / np.linalg.norm(made)


def upsert(number: int) -> Upsert:
    return Upsert(
        document=Document(
            id=f"d{number}",
            title=f"title {number}",
            text=f"the running text of {number}",
            metadata={"year": 2000 + number % 3, "a.b": [number, "x\x00"]},
        ),
        passages={1: [NewPassage(start=0, end=5, vector=vector(number), tokens=4, token_vectors=b"packed")]},
        content_hash=bytes([number]),
    )


def make_golden(folder: Path) -> None:
    """Writes the golden folder of this release's format; run once for each format, by hand."""
    store = EmbeddedStore(Config(data_dir=folder), maintain=False)
    collection = store.create("golden", STAGED)
    collection.commit([upsert(n) for n in range(40)], StreamPosition(stream="s", position=40)).result()
    collection.flush_now()
    collection.commit([upsert(n) for n in range(35, 50)]).result()
    collection.create_generation(GENERATION).result()
    build(collection, 20)
    store.close()


def build(collection: EmbeddedCollection, limit: int) -> Generation:
    """Builds a portion of generation 2, whose vectors have half the dimension."""
    documents, cursor = collection.documents_to_build(2, limit, 1 << 20)
    built = []
    for document in documents:
        half = vector(int(document.id[1:]))[: DIMENSION // 2]
        passage = NewPassage(start=0, end=5, vector=half / np.linalg.norm(half), tokens=4)
        built.append(BuiltDocument(key=document.key, passages=[passage]))
    return collection.build(2, built, cursor, tokens=1).result()


@pytest.mark.parametrize("format", sorted(path.name for path in GOLDEN.iterdir()))
def test_a_data_folder_of_every_format_opens_with_all_it_holds(tmp_path: Path, format: str) -> None:
    shutil.copytree(GOLDEN / format, tmp_path / "data")
    store = EmbeddedStore(Config(data_dir=tmp_path / "data"), maintain=False)
    try:
        collection = store.open("golden")
        assert collection.damage == ()
        assert collection.config == (CONFIG if format in ONE_STAGE_FORMATS else STAGED)
        assert collection.stream_position("s") == 40
        info = collection.info()
        assert (info.document_count, info.segment_passage_count, info.sequence) == (50, 35, 55)
        keys = collection.keys([f"d{n}" for n in range(50)])
        documents = read_documents(collection, list(keys.values()), Include(vectors=True))
        for n in range(50):
            document, expected = documents[keys[f"d{n}"]], upsert(n)
            assert (document.title, document.text) == (expected.document.title, expected.document.text)
            assert dict(document.metadata) == dict(expected.document.metadata)
            assert np.allclose(np.asarray(document.passages[0].vector), vector(n))
            assert search_dense(collection, vector(n), 1).scores[0] == pytest.approx(1, abs=1e-5)
        assert collection.count(Equals(("year",), 2001.0)) == 17
        assert len(collection.lexical("runs", 100).keys) == 50
        assert store.verify("golden").ok
        first, *others = collection.generations()
        assert (first.number, first.state, first.passage_count) == (1, GenerationState.SERVING, 50)
        assert (first.config.embedder, first.config.dimension, first.progress.complete) == ("none", DIMENSION, True)
        assert (len(others) == 1) == (format not in FIRST_FORMATS)
        if not others:
            collection.create_generation(GENERATION).result()
        else:
            assert (others[0].config, others[0].progress.done_documents) == (GENERATION, 20)
        assert build(collection, 100).progress.complete
        collection.switch_generation(2).result()
        assert collection.info().passage_count == 50
        assert store.verify("golden").ok
    finally:
        store.close()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE settings SET value = substr(value, 2) WHERE name = 'config'",
        "DELETE FROM settings WHERE name = 'create_time'",
    ],
)
def test_damaged_settings_of_an_old_format_keep_no_other_collection_from_opening(tmp_path: Path, damage: str) -> None:
    shutil.copytree(GOLDEN / "format-3", tmp_path / "data")
    connection = sqlite3.connect(tmp_path / "data/collections/golden/collection.db", isolation_level=None)
    connection.execute(damage)
    connection.close()
    store = EmbeddedStore(Config(data_dir=tmp_path / "data"), maintain=False)
    try:
        store.create("sound", CONFIG)
        assert store.open_all()
        assert store.find("sound").is_open
        with pytest.raises(DataCorrupted):
            store.open("golden")
        assert store.find("golden").problem
    finally:
        store.close()


def test_a_database_that_calls_the_weighted_sum_convex_is_read() -> None:
    config = replace(CONFIG, search_defaults=SearchDefaults(fusion=FusionMethod.WEIGHTED_SUM))
    assert settings.load(settings.dump(config)) == config
    assert settings.load(settings.dump(config).replace("weighted_sum", "convex")) == config


def test_a_migration_that_fails_leaves_the_collection_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_golden(tmp_path / "data")
    now = schema.SCHEMA_VERSION
    newer = Migrations("shortlist")
    for known in schema.migrations.pending(Database(memory=True)):
        newer(name=known.name)(known.fn)

    @newer(name="next")
    def next_one(db: Database) -> None:
        db.execute("CREATE TABLE extra (x)")
        db.execute(f"PRAGMA user_version = {now + 1}")
        if broken:
            raise RuntimeError("half done")

    monkeypatch.setattr(schema, "migrations", newer)
    monkeypatch.setattr(schema, "SCHEMA_VERSION", now + 1)
    path = tmp_path / "data/collections/golden/collection.db"

    def version() -> tuple[int, bool]:
        connection = sqlite3.connect(path)
        try:
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
            return connection.execute("PRAGMA user_version").fetchone()[0], "extra" in tables
        finally:
            connection.close()

    broken = True
    with pytest.raises(RuntimeError):
        schema.open_writer(path, "golden")
    assert version() == (now, False)
    broken = False
    schema.open_writer(path, "golden").close()
    assert version() == (now + 1, True)
    monkeypatch.undo()
    with pytest.raises(NewerDataFormat):
        schema.open_writer(path, "golden")
