"""A random history of a collection with several generations, against dicts and brute force.

Documents come, change and go, with and without passages for the generations that do not serve; generations are made,
built in portions, switched to, rolled back to and dropped; segments are flushed and merged; the store is restarted.
After every step each generation has the documents and passages that the dicts say, and none of another generation. At
some steps the data folder is copied at a crash point: the copy must be as before the step, or as after it.
"""

from __future__ import annotations

import copy
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shortlist_server.config import Config
from shortlist_server.domain import (
    BuiltDocument,
    Chunking,
    CollectionConfig,
    Deletion,
    Document,
    GenerationConfig,
    GenerationState,
    Include,
    NewPassage,
    StoredDocument,
    Upsert,
)
from shortlist_server.errors import GenerationNotFound, GenerationNotReady
from shortlist_server.storage.base import GenerationChanged, GenerationReader, Lease
from shortlist_server.storage.collection import EmbeddedCollection
from shortlist_server.storage.store import EmbeddedStore

IDS = [f"d{i}" for i in range(10)]
POINTS = (
    "commit:before",
    "commit:after",
    "commit:recorded",
    "generation:created",
    "generation:built",
    "switch:before",
    "switch:committed",
    "drop:marked",
    "drop:folders",
    "drop:rows",
    "drop:pages",
    "drop:tables",
)
ROLES = st.sampled_from(["building", "former", "building", "former", "serving", "none"])


def dimension(generation: int) -> int:
    return 3 + generation % 3


def vectors_of(id: str, version: int, generation: int) -> np.ndarray:
    """What a generation makes of a version of a document: none to three passages, each another vector everywhere."""
    chance = np.random.default_rng([int(id[1:]), version, generation])
    count = chance.integers(0, 4)
    vectors = chance.standard_normal((count, dimension(generation)))
    unit: np.ndarray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def passages_of(id: str, version: int, generation: int) -> list[NewPassage]:
    packed = f"{id} {version} {generation}".encode()
    return [
        NewPassage(start=0, end=1, vector=vector, tokens=1, token_vectors=packed)
        for vector in vectors_of(id, version, generation)
    ]


def generation_config(number: int) -> GenerationConfig:
    return GenerationConfig(
        embedder="e",
        embedder_revision=f"r{number}",
        dimension=dimension(number),
        chunking=Chunking(max_tokens=16 * number, overlap_tokens=0),
    )


@dataclass
class Model:
    """What a collection should hold.

    Attributes:
        versions: of each document.
        built: for each generation that is not dropped, the version of each document that it has passages of.
        last: the number given to a generation last.
    """

    versions: dict[str, int] = field(default_factory=dict)
    built: dict[int, dict[str, int]] = field(default_factory=lambda: {1: {}})
    serving: int = 1
    building: int | None = None
    former: int | None = None
    last: int = 1

    def number(self, role: str) -> int:
        """The generation in a role, or a number that none has."""
        found = {"building": self.building, "former": self.former, "serving": self.serving}.get(role)
        return 77 if found is None else found

    def drop(self, number: int) -> None:
        del self.built[number]
        self.building = None if self.building == number else self.building
        self.former = None if self.former == number else self.former

    def switch(self, number: int) -> None:
        if number == self.serving:
            return
        if self.former not in (None, number):
            assert self.former is not None
            del self.built[self.former]
        self.building = None if self.building == number else self.building
        self.serving, self.former = number, self.serving


class History(RuleBasedStateMachine):
    """Rules act on the store and on ``self.model``."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.model = Model()
        self.version = 0
        self.portions: list[tuple[int, list[StoredDocument], int]] = []
        self.read_to: int | None = None
        self.held: list[tuple[Lease[GenerationReader], dict[str, int], int]] = []
        self.snap: str | None = None
        self.taken = False
        self.store = self.open_store(self.folder / "data")
        self.collection = self.store.create(
            "c",
            CollectionConfig(
                embedder="e",
                embedder_revision="r1",
                dimension=dimension(1),
                reranker="none",
                chunking=Chunking(max_tokens=16, overlap_tokens=0),
            ),
        )

    def open_store(self, folder: Path) -> EmbeddedStore:
        return EmbeddedStore(Config(data_dir=folder), maintain=False, crash_point=self.pass_by)

    def pass_by(self, point: str) -> None:
        if point == self.snap and not self.taken:
            self.taken = True
            # Another process copies: closing a file of the database here would give up SQLite's locks on it.
            subprocess.run(["cp", "-r", self.folder / "data", self.folder / "copy"], check=True)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.release()
            self.store.close()
            shutil.rmtree(self.folder)

    def step(self, change: Callable[[], object], then: Callable[[Model], None], point: str | None = None) -> None:
        """Does a step to the store and to the model. A copy of the folder at ``point`` must be in one of its states."""
        before = copy.deepcopy(self.model)
        self.snap = point
        change()
        then(self.model)
        self.snap = None
        if self.taken:
            self.check_copy([before, self.model])
            shutil.rmtree(self.folder / "copy")
            self.taken = False

    def check_copy(self, states: list[Model]) -> None:
        store = EmbeddedStore(Config(data_dir=self.folder / "copy"), maintain=False)
        try:
            collection = store.open("c")
            problems = []
            for state in states:
                try:
                    self.compare(collection, state)
                    break
                except AssertionError as error:
                    problems.append(error)
            else:
                raise AssertionError(f"the copy is in no state: {problems}") from problems[-1]
            assert store.verify("c").problems == []
            building = state.building is not None
            assert building <= (store.reindexing() == ["c"])
        finally:
            store.close()

    @rule(
        documents=st.lists(st.tuples(st.sampled_from(IDS), st.booleans(), st.booleans()), min_size=1, max_size=6),
        point=st.none() | st.sampled_from(POINTS),
    )
    def put(self, documents: list[tuple[str, bool, bool]], point: str | None) -> None:
        """Writes documents; a flag says whether those that do not serve get passages, one after the other."""
        changes, made = [], []
        for id, building, former in documents:
            self.version += 1
            wanted = [self.model.serving]
            if building and self.model.building is not None:
                wanted.append(self.model.building)
            if former and self.model.former is not None:
                wanted.append(self.model.former)
            passages = {number: passages_of(id, self.version, number) for number in wanted}
            # A generation that is not there any more is no news.
            passages[99] = passages_of(id, self.version, 99)
            made.append((id, self.version, wanted))
            changes.append(
                Upsert(document=Document(id=id, text="fox"), passages=passages, content_hash=b"%d" % self.version)
            )

        def then(model: Model) -> None:
            for id, version, wanted in made:
                for built in model.built.values():
                    built.pop(id, None)
                model.versions[id] = version
                for number in wanted:
                    model.built[number][id] = version

        self.step(lambda: self.collection.commit(changes).result(30), then, point)

    @precondition(lambda self: self.model.former is not None)
    @rule(id=st.sampled_from(IDS))
    def put_for_the_wrong_generation(self, id: str) -> None:
        former = self.model.former
        assert former is not None
        change = Upsert(document=Document(id=id), passages={former: passages_of(id, 0, former)}, content_hash=b"")
        with pytest.raises(GenerationChanged):
            self.collection.commit([change]).result(30)

    @rule(ids=st.lists(st.sampled_from(IDS), min_size=1, max_size=3), point=st.none() | st.sampled_from(POINTS))
    def delete(self, ids: list[str], point: str | None) -> None:
        def then(model: Model) -> None:
            for id in ids:
                model.versions.pop(id, None)
                for built in model.built.values():
                    built.pop(id, None)

        self.step(lambda: self.collection.commit([Deletion(id=id) for id in ids]).result(30), then, point)

    @rule(point=st.none() | st.sampled_from(POINTS))
    def create(self, point: str | None) -> None:
        config = generation_config(self.model.last + 1)
        if self.model.building is not None:
            with pytest.raises(GenerationNotReady):
                self.collection.create_generation(config).result(30)
            return

        def change() -> None:
            made = self.collection.create_generation(config).result(30)
            assert (made.number, made.state, made.config) == (
                self.model.last + 1,
                GenerationState.BUILDING,
                config,
            )

        def then(model: Model) -> None:
            model.last += 1
            model.building = model.last
            model.built[model.last] = {}

        self.step(change, then, point)

    @precondition(lambda self: len(self.model.built) > 1)
    @rule(limit=st.integers(1, 4), former=st.booleans())
    def read_portion(self, limit: int, former: bool) -> None:
        """Reads ahead, if there is a portion already; portions are written in order."""
        number = self.portions[0][0] if self.portions else (self.model.former if former else self.model.building)
        if number is None or number not in self.model.built or number == self.model.serving:
            return
        after = self.portions[-1][2] if self.portions else None
        documents, cursor = self.collection.documents_to_build(number, limit, 1000, after=after)
        assert len(documents) <= limit
        assert not {document.id for document in documents} & self.model.built[number].keys() - {
            id for id, version in self.model.built[number].items() if not len(vectors_of(id, version, number))
        }
        self.portions.append((number, documents, cursor))

    @precondition(lambda self: self.portions)
    @rule(point=st.none() | st.sampled_from(POINTS))
    def write_portion(self, point: str | None) -> None:
        number, documents, cursor = self.portions.pop(0)
        versions = {document.id: self.read_version(document) for document in documents}
        built = [
            BuiltDocument(key=document.key, passages=passages_of(document.id, versions[document.id], number))
            for document in documents
        ]
        if number not in self.model.built:
            self.portions.clear()
            with pytest.raises(GenerationNotFound):
                self.collection.build(number, built, cursor, tokens=1).result(30)
            return

        def change() -> None:
            now = self.collection.build(number, built, cursor, tokens=7).result(30)
            assert now.number == number

        def then(model: Model) -> None:
            for id, version in versions.items():
                if model.versions.get(id) == version:
                    model.built[number].setdefault(id, version)

        self.step(change, then, point)

    def read_version(self, document: StoredDocument) -> int:
        """The version of a document as it was read: one that was replaced since has another key."""
        keys = self.collection.keys([document.id])
        return self.model.versions[document.id] if keys.get(document.id) == document.key else 0

    @precondition(lambda self: self.model.building is not None)
    @rule()
    def build_all(self) -> None:
        number = self.model.building
        assert number is not None
        self.portions.clear()
        while True:
            documents, cursor = self.collection.documents_to_build(number, 3, 1000)
            built = []
            for document in documents:
                version = self.model.versions[document.id]
                built.append(BuiltDocument(key=document.key, passages=passages_of(document.id, version, number)))
                self.model.built[number][document.id] = version
            made = self.collection.build(number, built, cursor, tokens=1).result(30)
            if made.progress.complete:
                break
        assert self.model.built[number] == self.model.versions

    @rule(role=ROLES, point=st.none() | st.sampled_from(POINTS))
    def switch(self, role: str, point: str | None) -> None:
        number = self.model.number(role)
        if number not in self.model.built:
            with pytest.raises(GenerationNotFound):
                self.collection.switch_generation(number).result(30)
            return
        known = {one.number: one for one in self.collection.generations()}
        if not known[number].progress.complete:
            with pytest.raises(GenerationNotReady):
                self.collection.switch_generation(number).result(30)
            return
        assert self.model.built[number] == self.model.versions

        def change() -> None:
            assert self.collection.switch_generation(number).result(30).state is GenerationState.SERVING

        self.step(change, lambda model: model.switch(number), point)

    @rule(role=ROLES, point=st.none() | st.sampled_from(POINTS))
    def drop(self, role: str, point: str | None) -> None:
        number = self.model.number(role)
        if number not in self.model.built or number == self.model.serving:
            with pytest.raises(GenerationNotReady if number in self.model.built else GenerationNotFound):
                self.collection.drop_generation(number).result(30)
            return

        def change() -> None:
            self.collection.drop_generation(number).result(30)
            if not self.held:
                self.wait_until_gone()

        self.step(change, lambda model: model.drop(number), point)

    def wait_until_gone(self) -> None:
        until = time.monotonic() + 30
        while any(one.state is GenerationState.DROPPING for one in self.collection.generations()):
            assert time.monotonic() < until
            time.sleep(0.001)

    @rule(reason=st.sampled_from(["", "the model failed"]), by_user=st.booleans())
    def pause(self, reason: str, by_user: bool) -> None:
        if self.model.building is not None:
            number = self.model.building
            before = next(one.progress for one in self.collection.generations() if one.number == number)
            now = self.collection.pause_build(number, reason, by_user=by_user).result(30).progress
            stays = before.paused_by_user and not by_user
            expected = (before.paused, True) if stays else (reason, bool(reason) and by_user)
            assert (now.paused, now.paused_by_user) == expected

    @rule(role=ROLES)
    def hold(self, role: str) -> None:
        """Begins to read a generation, and goes on whatever is switched or dropped."""
        number = self.model.number(role)
        if number in self.model.built and len(self.held) < 2:
            self.held.append((self.collection.read_generation(number), {}, number))

    @rule()
    def release(self) -> None:
        for lease, _, number in self.held:
            reader = lease.collection
            assert reader.number == number
            assert reader.config.embedder_revision == f"r{number}"
            if number in self.model.built:
                self.compare_generation(reader, self.collection, self.model, number)
            else:
                # Dropped meanwhile: what is left of it is still its own.
                found = reader.dense(query(number), 100, exact=True)
                stored = reader.passages(found.passage_ids.tolist(), token_vectors=True)
                assert {passage.token_vectors.split()[2] for passage in stored.values() if passage.token_vectors} <= {
                    b"%d" % number
                }
            lease.release()
        self.held.clear()

    @rule()
    def flush(self) -> None:
        self.collection.flush_now()

    @rule()
    def merge(self) -> None:
        self.collection.merge_now()

    @rule(wait=st.booleans())
    def restart(self, wait: bool) -> None:
        self.release()
        if wait:
            self.wait_until_gone()
        self.portions.clear()
        self.store.close()
        self.store = self.open_store(self.folder / "data")
        assert (self.model.building is not None) <= (self.store.reindexing() == ["c"])
        assert self.store.find("c").generations()[-1].number >= max(self.model.built)
        self.collection = self.store.open("c")

    @rule()
    def check(self) -> None:
        assert self.store.verify("c").problems == []

    @invariant()
    def as_the_model_says(self) -> None:
        if hasattr(self, "store"):
            self.compare(self.collection, self.model)

    def compare(self, collection: EmbeddedCollection, model: Model) -> None:
        known = {one.number: one for one in collection.generations() if one.state is not GenerationState.DROPPING}
        assert known.keys() == model.built.keys()
        states = {number: one.state for number, one in known.items()}
        expected = {model.serving: GenerationState.SERVING}
        expected |= {} if model.building is None else {model.building: GenerationState.BUILDING}
        expected |= {} if model.former is None else {model.former: GenerationState.FORMER}
        assert states == expected
        info = collection.info()
        assert (info.generation, info.document_count) == (model.serving, len(model.versions))
        assert info.passage_count == known[model.serving].passage_count
        assert collection.config.embedder_revision == f"r{model.serving}"
        for number, one in known.items():
            with collection.read_generation(number) as reader:
                assert reader.complete == one.progress.complete
                self.compare_generation(reader, collection, model, number)
            if one.progress.complete:
                assert one.progress.done_documents == one.progress.total_documents == len(model.versions)
                # A document without passages may be new to a generation that has it already.
                assert model.built[number] == model.versions

    def compare_generation(
        self, reader: GenerationReader, collection: EmbeddedCollection, model: Model, number: int
    ) -> None:
        names = {key: id for id, key in collection.keys(IDS).items()}
        assert set(names.values()) == model.versions.keys()
        built = model.built[number]
        stored = reader.documents(list(names), Include(vectors=True))
        for key, document in stored.items():
            expected = vectors_of(document.id, built[document.id], number) if document.id in built else np.empty((0, 1))
            found = [passage.vector for passage in document.passages]
            assert document.passage_count == len(found) == len(expected)
            assert all(np.array_equal(np.asarray(a), b) for a, b in zip(found, expected, strict=True))
            scored = reader.dense_scores(query(number), [key])
            assert sorted(scored.scores.tolist()) == pytest.approx(
                sorted((expected @ query(number)).tolist()) if len(expected) else []
            )
        best = {
            id: float(np.max(vectors @ query(number)))
            for id, version in built.items()
            if len(vectors := vectors_of(id, version, number))
        }
        right = sorted(best.values(), reverse=True)
        for exact in (True, False):
            dense = reader.dense(query(number), 100, exact=exact)
            got = list(dict.fromkeys(names[key] for key in dense.keys.tolist()))
            assert [best[id] for id in got] == pytest.approx(right, abs=1e-5)
            packed = reader.passages(dense.passage_ids.tolist(), token_vectors=True)
            assert all(one.token_vectors and one.token_vectors.endswith(b" %d" % number) for one in packed.values())


def query(generation: int) -> np.ndarray:
    made = np.cos(np.arange(dimension(generation)) + 1).astype(np.float32)
    unit: np.ndarray = made / np.linalg.norm(made)
    return unit


PHASES = tuple(phase for phase in Phase if phase is not Phase.explain)

TestHistory = History.TestCase
TestHistory.settings = settings(
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    phases=PHASES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
