"""A random history of a collection, against a dict and brute force.

Documents come, change and go; flushes and merges happen at random moments; the store is restarted,
sometimes with a segment damaged. After every step, searches give what the dict gives: the same documents and, in exact
mode, the same scores.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shortlist_server.config import Config
from shortlist_server.domain import (
    AllOf,
    AnyOf,
    Chunking,
    CollectionConfig,
    Contains,
    Deletion,
    DenseCandidates,
    Document,
    Equals,
    Exists,
    Filter,
    Include,
    Negation,
    NewPassage,
    OneOf,
    Range,
    Upsert,
    Vector,
)
from shortlist_server.storage.store import EmbeddedStore
from shortlist_server.storage.vectors.selection import KeySelection
from shortlist_server.storage.verify import verify_collection

from .reads import read_documents, search_dense

DIMENSION = 4
IDS = [f"d{i}" for i in range(12)]
SCALARS = st.one_of(
    st.booleans(),
    st.sampled_from([0.0, 1.0, -1.5, 1e300, 5e-324]),
    st.text(st.sampled_from('ab"\\\x00\x01\u00e9\U0001f600'), max_size=3),
)
KEYS = st.sampled_from(["x", "y", 'q"\\', "z.z"])
VALUES = st.one_of(SCALARS, st.none(), st.lists(SCALARS, max_size=2), st.dictionaries(KEYS, SCALARS, max_size=2))
METADATA = st.dictionaries(KEYS, VALUES, max_size=3)
PATHS = st.lists(KEYS, min_size=1, max_size=2).map(tuple)
NUMBERS = st.sampled_from([0.0, 1.0, -1.5])
RANGES = st.builds(
    Range,
    path=PATHS,
    lower=NUMBERS,
    lower_inclusive=st.booleans(),
    upper=st.one_of(st.none(), NUMBERS),
    upper_inclusive=st.booleans(),
)
LEAVES = st.one_of(
    st.builds(Equals, PATHS, SCALARS),
    st.builds(OneOf, PATHS, st.lists(SCALARS, min_size=1, max_size=3).map(tuple)),
    RANGES,
    st.builds(Exists, PATHS),
    st.builds(Contains, PATHS, SCALARS),
)
Metadata = dict[str, Any]

FILTERS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(Negation, inner),
        st.builds(AllOf, st.lists(inner, min_size=1, max_size=3).map(tuple)),
        st.builds(AnyOf, st.lists(inner, min_size=1, max_size=3).map(tuple)),
    ),
    max_leaves=4,
)


def same(a: object, b: object) -> bool:
    """Equality without conversion: True is not 1."""
    if isinstance(a, bool) or isinstance(b, bool):
        return isinstance(a, bool) and isinstance(b, bool) and a == b
    if isinstance(a, str) or isinstance(b, str):
        return isinstance(a, str) and isinstance(b, str) and a == b
    return isinstance(a, int | float) and isinstance(b, int | float) and a == b


def passes(filter: Filter, metadata: Metadata) -> bool:
    """The definition of the filter language, in Python."""
    match filter:
        case AllOf(filters):
            return all(passes(part, metadata) for part in filters)
        case AnyOf(filters):
            return any(passes(part, metadata) for part in filters)
        case Negation(part):
            return not passes(part, metadata)
    value: object = metadata
    for key in filter.path:
        if not isinstance(value, dict) or key not in value:
            return False
        value = value[key]
    match filter:
        case Equals(_, wanted):
            return same(value, wanted)
        case OneOf(_, values):
            return any(same(value, wanted) for wanted in values)
        case Exists():
            return value is not None
        case Contains(_, wanted):
            return isinstance(value, list) and any(same(item, wanted) for item in value)
        case Range(_, lower, lower_inclusive, upper, upper_inclusive):
            if isinstance(value, bool) or not isinstance(value, int | float):
                return False
            assert not isinstance(lower, str)
            assert not isinstance(upper, str)
            above = lower is None or value > lower or (lower_inclusive and value == lower)
            return above and (upper is None or value < upper or (upper_inclusive and value == upper))


class History(RuleBasedStateMachine):
    """Rules act on the store and on ``self.model``: id -> (metadata, text, vectors)."""

    @initialize(seed=st.integers(0, 1000), declared=st.booleans())
    def begin(self, seed: int, declared: bool) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.random = np.random.default_rng(seed)
        self.model: dict[str, tuple[Metadata, str, np.ndarray]] = {}
        self.store = self.open_store()
        self.collection = self.store.create(
            "c",
            CollectionConfig(
                embedder="none",
                embedder_revision="",
                dimension=DIMENSION,
                reranker="none",
                chunking=Chunking(max_tokens=16, overlap_tokens=0),
                filterable_fields=("x", r"z\.z", "x.y") if declared else (),
            ),
        )

    def open_store(self) -> EmbeddedStore:
        return EmbeddedStore(Config(data_dir=self.folder), maintain=False)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.folder)

    def upsert_of(self, id: str, metadata: Metadata, passages: int, text: str) -> Upsert:
        vectors = self.random.standard_normal((passages, DIMENSION)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        self.model.pop(id, None)
        self.model[id] = (metadata, text, vectors)
        return Upsert(
            document=Document(id=id, text=text, metadata=metadata),
            passages={1: [NewPassage(start=0, end=1, vector=vector, tokens=1) for vector in vectors]},
            content_hash=text.encode(),
        )

    @rule(
        documents=st.lists(
            st.tuples(
                st.sampled_from(IDS), METADATA, st.integers(0, 3), st.sampled_from(["fox", "hound", "fox hound"])
            ),
            min_size=1,
            max_size=8,
        )
    )
    def put(self, documents: list[tuple[str, Metadata, int, str]]) -> None:
        self.collection.commit([self.upsert_of(*document) for document in documents]).result(30)

    @rule(ids=st.lists(st.sampled_from(IDS), min_size=1, max_size=3))
    def delete(self, ids: list[str]) -> None:
        for id in ids:
            self.model.pop(id, None)
        self.collection.commit([Deletion(id=id) for id in ids]).result(30)

    @rule(filter=FILTERS)
    def delete_matching(self, filter: Filter) -> None:
        gone = [id for id, (metadata, _, _) in self.model.items() if passes(filter, metadata)]
        assert self.collection.delete_matching(filter).result(30) == len(gone)
        for id in gone:
            del self.model[id]

    @rule()
    def flush(self) -> None:
        self.collection.flush_now()

    @rule()
    def merge(self) -> None:
        self.collection.merge_now()

    @rule(damage=st.one_of(st.none(), st.integers(0, 1000)))
    def restart(self, damage: int | None) -> None:
        self.store.close()
        files = sorted((self.folder / "collections" / "c" / "segments").glob("*/*"))
        if damage is not None and files:
            chance = random.Random(damage)
            file = chance.choice(files)
            # Where no vectors are equal, the file of twins is empty.
            content = bytearray(file.read_bytes() or b"\0")
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            file.write_bytes(content)
        self.store = self.open_store()
        self.collection = self.store.open("c")

    @rule(filter=FILTERS, limit=st.integers(1, 15), exact=st.booleans())
    def search_filtered(self, filter: Filter, limit: int, exact: bool) -> None:
        selection = self.collection.select(filter)
        assert isinstance(selection, KeySelection)
        expected = {id for id, (metadata, _, _) in self.model.items() if passes(filter, metadata)}
        names = {key: id for id, key in self.collection.keys(IDS).items()}
        assert {names[key] for key in selection.keys.tolist()} == expected
        assert self.collection.count(filter) == len(expected)
        self.compare(
            search_dense(self.collection, self.query(), limit, selection, exact=exact), expected, limit, names, exact
        )
        page, end = self.collection.page(filter, 0, 100, Include())
        assert ({document.id for document in page}, end) == (expected, None)
        lexical = {names[key] for key in self.collection.lexical("fox", 100, selection).keys.tolist()}
        assert lexical == {id for id in expected if "fox" in self.model[id][1]}

    @rule(limit=st.integers(1, 15), exact=st.booleans())
    def search(self, limit: int, exact: bool) -> None:
        names = {key: id for id, key in self.collection.keys(IDS).items()}
        self.compare(
            search_dense(self.collection, self.query(), limit, exact=exact), set(self.model), limit, names, exact
        )

    def query(self) -> Vector:
        vector = self.random.standard_normal(DIMENSION).astype(np.float32)
        self.last_query: Vector = vector / np.linalg.norm(vector)
        return self.last_query

    def compare(self, found: DenseCandidates, ids: set[str], limit: int, names: dict[int, str], exact: bool) -> None:
        best = {id: float(np.max(self.model[id][2] @ self.last_query)) for id in ids if len(self.model[id][2])}
        expected = sorted(best, key=best.__getitem__, reverse=True)[:limit]
        got = list(dict.fromkeys(names[key] for key in found.keys.tolist()))
        assert len(got) == len(expected)
        assert set(got) <= set(best)
        if exact:
            assert [best[id] for id in got] == pytest.approx([best[id] for id in expected], abs=1e-5)
            firsts = np.sort(np.unique(found.keys, return_index=True)[1])
            assert found.scores[firsts].tolist() == pytest.approx([best[id] for id in expected], abs=1e-5)

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "store"):
            return
        info = self.collection.info()
        assert info.document_count == len(self.model)
        assert info.passage_count == sum(len(vectors) for _, _, vectors in self.model.values())

    @rule()
    def check(self) -> None:
        report = verify_collection(self.collection)
        assert [problem for problem in report.problems if "at the start" not in problem] == []
        stored = read_documents(
            self.collection, list(self.collection.keys(IDS).values()), Include(vectors=True)
        ).values()
        assert {d.id: (dict(d.metadata), d.text) for d in stored} == {
            id: (metadata, text) for id, (metadata, text, _) in self.model.items()
        }
        for document in stored:
            assert np.array_equal(
                np.array([p.vector for p in document.passages]).reshape(-1, DIMENSION), self.model[document.id][2]
            )


TestHistory = History.TestCase
TestHistory.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
