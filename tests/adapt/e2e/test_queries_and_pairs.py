"""From a served collection to queries and pairs: what is written, what is dropped, and what a kill leaves."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from pathlib import Path

import pytest

from shortlist import Client
from shortlist_adapt.corpus import export, noted
from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.folder import RunFolder
from shortlist_adapt.hiding import CUT_OUT
from shortlist_adapt.mining.mine import cost, mine
from shortlist_adapt.mining.settings import MiningSettings
from shortlist_adapt.progress import Silent
from shortlist_adapt.records import CorpusDocument, Shortlist, Split, TrainingPair, TrainingQuery, read_lines
from shortlist_adapt.searching import BATCH, kept_texts
from shortlist_adapt.synthesis.settings import SynthesisSettings
from shortlist_adapt.synthesis.synthesise import sources_of, synthesise
from shortlist_adapt.texts import normal

COLLECTION = "library"

FILES = ("corpus.jsonl", "queries.jsonl", "pairs.jsonl", "shortlists.jsonl")


class Killed(Exception):
    """Stands for a kill: nothing catches it."""


class DiesAfter(Silent):
    """Ends the step at its nth word of progress."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, count: int = 1, note: str = "") -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed


class Counts(Silent):
    """Counts the searches that a step makes."""

    def __init__(self) -> None:
        self.searches = 0

    def begin(self, what: str, total: int | None = None, unit: str = "") -> None:
        self.searches += total or 0 if unit == "searches" else 0


MINING = MiningSettings(depth=20)


def both(folder: RunFolder, client: Client, settings: SynthesisSettings, progress: Silent, seed: int = 0) -> None:
    folder.prepare()
    sources = sources_of(settings, folder, seed=seed)
    synthesise(folder, client, COLLECTION, settings, progress, sources=sources, seed=seed)
    mine(folder, client, COLLECTION, MINING, progress, seed=seed)


@pytest.fixture(scope="module")
def settings(judged: Path) -> SynthesisSettings:
    return SynthesisSettings(judged=(judged,))


@pytest.fixture(scope="module")
def done(client: Client, settings: SynthesisSettings, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """An undisturbed run, which tests leave as it is."""
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    both(folder, client, settings, Silent())
    return folder


@pytest.fixture
def copy(done: RunFolder, tmp_path: Path) -> RunFolder:
    """The same, to be changed."""
    return RunFolder(shutil.copytree(done.root, tmp_path / "copy"))


def contents(folder: RunFolder) -> dict[str, bytes]:
    return {name: (folder.root / name).read_bytes() for name in FILES}


def test_the_corpus_is_the_collection(done: RunFolder, client: Client) -> None:
    exported = {one.id: (one.title, one.text) for one in read_lines(done.corpus, CorpusDocument)}
    assert exported == {one.id: (one.title, one.text) for one in client.list(COLLECTION)}


def test_queries_come_from_all_sources_and_go_to_all_splits(done: RunFolder) -> None:
    queries = list(read_lines(done.queries, TrainingQuery))
    sources = Counter(query.source for query in queries)
    assert sources["judged"] == 16
    assert min(sources[source] for source in ("title", "first-sentence", "cloze")) > 20
    assert len({query.id for query in queries}) == len({normal(query.text) for query in queries}) == len(queries)
    assert {query.split for query in queries} == set(Split)


def test_no_document_of_a_held_out_query_has_a_query_in_another_split(done: RunFolder) -> None:
    splits: dict[str, set[Split]] = {}
    for query in read_lines(done.queries, TrainingQuery):
        for id in query.positives:
            splits.setdefault(id, set()).add(query.split)
    assert all(len(found) == 1 for found in splits.values())


def test_pairs_hide_what_became_the_query_and_have_safe_negatives(done: RunFolder) -> None:
    queries = {query.id: query for query in read_lines(done.queries, TrainingQuery)}
    documents = {one.id: one for one in read_lines(done.corpus, CorpusDocument)}
    pairs = list(read_lines(done.pairs, TrainingPair))
    assert {pair.query_id for pair in pairs} == {
        query.id for query in queries.values() if query.split is not Split.HELD_OUT
    }
    for pair in pairs:
        query, positive = queries[pair.query_id], documents[pair.positive_id]
        if pair.source in CUT_OUT:
            assert pair.query not in pair.positive
        if pair.source == "title":
            assert pair.positive == positive.text
            assert all(
                negative == documents[id].text for id, negative in zip(pair.negative_ids, pair.negatives, strict=True)
            )
        if pair.source == "judged":
            assert pair.positive == f"{positive.title}\n{positive.text}"
        assert len(set(pair.negative_ids)) == len(pair.negative_ids) == len(pair.negatives)
        assert not set(pair.negative_ids) & set(query.positives)
    # The document that was judged 0 comes first where the search finds it.
    judged = [(pair, queries[pair.query_id].rejected[0]) for pair in pairs if pair.source == "judged"]
    found = [(pair, rejected) for pair, rejected in judged if rejected in pair.negative_ids]
    assert all(pair.negative_ids[0] == rejected for pair, rejected in found)
    assert len(found) > len(judged) / 2


def test_shortlists_are_those_of_development_queries_that_people_wrote(done: RunFolder) -> None:
    queries = {query.id: query for query in read_lines(done.queries, TrainingQuery)}
    shortlists = list(read_lines(done.shortlists, Shortlist))
    assert {one.query_id for one in shortlists} == {
        query.id for query in queries.values() if query.split is Split.DEVELOPMENT and query.source == "judged"
    }
    for one in shortlists:
        assert len(one.document_ids) == len(one.passages) == len(one.fused) == 20
        assert list(one.fused) == sorted(one.fused, reverse=True)


# The export says 24 words of progress, the sources 120; then come some ten batches of searches, and the pairs.
@pytest.mark.parametrize("steps", [60, 151, 180])
def test_a_killed_run_goes_on_to_the_same_result(
    client: Client, settings: SynthesisSettings, done: RunFolder, tmp_path: Path, steps: int
) -> None:
    folder = RunFolder(tmp_path / "killed")
    with pytest.raises(Killed):
        both(folder, client, settings, DiesAfter(steps))
    both(folder, client, settings, Silent())
    assert contents(folder) == contents(done)


def test_what_was_searched_before_a_kill_is_not_searched_again(
    client: Client, settings: SynthesisSettings, done: RunFolder, tmp_path: Path
) -> None:
    folder, rest = RunFolder(tmp_path / "killed"), Counts()
    # Each of the 24 documents is told once by the export, once by each of five sources; then come batches of searches.
    with pytest.raises(Killed):
        both(folder, client, settings, DiesAfter(24 + 5 * 24 + 2))
    kept = next(folder.cache.glob("searches/*.jsonl"))
    with kept.open("a") as file:
        file.write('{"text": "half a li')
    both(folder, client, settings, rest)
    whole = sum(len(kept_texts(path)) for path in done.cache.glob("searches/*.jsonl"))
    assert rest.searches + 2 * BATCH <= whole


def test_a_step_that_is_done_does_nothing_and_another_setting_begins_it_anew(
    client: Client, settings: SynthesisSettings, copy: RunFolder
) -> None:
    before = contents(copy)
    counts = Counts()
    both(copy, client, settings, counts)
    assert (counts.searches, contents(copy)) == (0, before)
    both(copy, client, dataclasses.replace(settings, sources=("title",)), counts)
    assert contents(copy)["queries.jsonl"] != before["queries.jsonl"]
    assert contents(copy)["pairs.jsonl"] != before["pairs.jsonl"]


def test_another_seed_divides_otherwise(client: Client, settings: SynthesisSettings, copy: RunFolder) -> None:
    before = contents(copy)
    both(copy, client, settings, Silent(), seed=1)
    assert contents(copy)["queries.jsonl"] != before["queries.jsonl"]


def test_the_cost_counts_the_searches_that_are_still_to_be_made(
    client: Client, settings: SynthesisSettings, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.prepare()
    sources = sources_of(settings, folder, seed=0)
    synthesise(folder, client, COLLECTION, settings, Silent(), sources=sources, seed=0)
    queries = [one for one in read_lines(folder.queries, TrainingQuery) if one.split is not Split.HELD_OUT]
    assert cost(folder, MINING).searches == len(queries)
    # At the depth of the round trip, its answers are there already.
    people = sum(query.source == "judged" for query in queries)
    assert cost(folder, MiningSettings()).searches == people
    counts = Counts()
    mine(folder, client, COLLECTION, MiningSettings(), counts, seed=0)
    assert counts.searches == people
    assert cost(folder, MiningSettings()).searches == 0


def test_without_a_query_to_train_on_the_step_says_what_to_do(client: Client, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.prepare()
    with pytest.raises(InvalidInput, match="no query is left to train on, of 0 and 0 dropped"):
        synthesise(folder, client, COLLECTION, SynthesisSettings(sources=()), Silent(), sources=[], seed=0)
    with pytest.raises(InvalidInput, match=r"queries\.jsonl cannot be read|queries\.jsonl is missing"):
        mine(folder, client, COLLECTION, MiningSettings(), Silent(), seed=0)


def test_an_empty_collection_is_refused(client: Client, tmp_path: Path) -> None:
    client.create_collection("nothing")
    folder = RunFolder(tmp_path / "run")
    folder.prepare()
    with pytest.raises(InvalidInput, match="has no document with a title or a text"):
        export(folder, client, "nothing", Silent())
    assert noted(folder) == {}
