"""The gate and publication against a real server: what serves, what is left behind, and what a caller notices."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from shortlist import Client, CollectionConfig, SearchDefaults
from shortlist_adapt.errors import GateRefused, InvalidInput
from shortlist_adapt.folder import RunFolder
from shortlist_adapt.gating.gate import gate
from shortlist_adapt.gating.scratch import model_of
from shortlist_adapt.gating.settings import GateSettings
from shortlist_adapt.progress import Silent
from shortlist_adapt.publishing import PublishedWorse, PublishSettings, publish
from shortlist_adapt.records import TrainingQuery, read_lines, write_lines
from shortlist_adapt.reporting.decision import load
from shortlist_server.testing import server

from .worlds import TOPICS, documents, write_embedder, write_judged, write_run

SETTINGS = GateSettings(tune=False)
SEED = 0
KNOWN = 4
"""Topics that the serving model knows, the first ones."""

ONLY_WORDS = SearchDefaults(mode="lexical")


@pytest.fixture
def target(tmp_path: Path) -> Iterator[str]:
    """A server with a model that knows the first topics."""
    base = write_embedder(tmp_path / "base", knows=0.1)
    models = {"embedders": (f"base={base}",), "rerankers": ("none",), "backend": "torch", "dtype": "float32"}
    with server(tmp_path / "data", **models) as running:
        yield running.target


@pytest.fixture
def client(target: str) -> Iterator[Client]:
    with Client(target) as connected:
        for name in ("books", "other"):
            connected.create_collection(name, CollectionConfig(embedder="base"))
            connected.ingest(name, documents()).finish()
        yield connected


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run whose model knows every topic."""
    folder = write_run(tmp_path / "run")
    write_embedder(folder.model / "embedder", knows=1.0)
    return folder


def decide(run: RunFolder, client: Client, settings: GateSettings = SETTINGS) -> None:
    gate(run, client, "books", settings, Silent(), seed=SEED)


def left_behind(client: Client) -> tuple[list[str], list[str], dict[str, list[str]]]:
    """Published models, collections, and the states of their generations."""
    names = [one.name for one in client.list_collections()]
    states: dict[str, list[str]] = {name: [one.state for one in client.generations(name)] for name in names}
    return [one.model for one in client.list_models()], names, states


def test_a_better_model_passes_waits_unused_and_serves_once_it_is_published(run: RunFolder, client: Client) -> None:
    before = client.search("books", "ask39a")
    decide(run, client)
    decision = load(run.gate)
    assert decision.passed
    assert decision.chosen == "embedder"
    assert decision.candidate.ndcg_at_10 == pytest.approx(1.0)
    assert decision.difference.better > TOPICS / 2
    assert len(decision.queries) == TOPICS
    models, _, states = left_behind(client)
    assert models == [decision.models[0].address]
    assert states == {"books": ["serving", "building"], "other": ["serving"]}
    assert [hit.id for hit in client.search("books", "ask39a")] == [hit.id for hit in before]
    assert "passed the gate" in run.report.read_text()

    # Publication lets it serve, with its card.
    published = publish(run, client, "books", PublishSettings(), Silent(), seed=SEED)
    assert published.ndcg_at_10 == pytest.approx(1.0)
    assert client.search("books", "ask39a").hits[0].id == "d39"
    (model,) = published.models
    assert str(client.search("books", "ask39a").report.embedder).startswith(model)
    card = client.get_model(model).card
    assert "| judged | 40 | 40 | 40 |" in card
    assert "1.0000" in card
    assert publish(run, client, "books", PublishSettings(), Silent(), seed=SEED) == published
    assert client.roll_back_generation("books").serving.number == published.former


def test_a_model_that_is_no_better_is_refused_and_leaves_nothing(run: RunFolder, client: Client) -> None:
    write_embedder(run.model / "embedder", knows=0.1, seed=2)
    before = left_behind(client)
    with pytest.raises(GateRefused, match="nDCG@10") as refused:
        decide(run, client)
    assert refused.value.exit_code == 4
    assert left_behind(client) == before
    assert not load(run.gate).passed
    assert "refused the candidate" in run.report.read_text()
    with pytest.raises(GateRefused, match="the gate refused"):
        publish(run, client, "books", PublishSettings(), Silent(), seed=SEED)
    # The decision stands when the gate is run again, without searches.
    with pytest.raises(GateRefused):
        decide(run, client)


def test_a_gain_within_the_margin_is_refused(run: RunFolder, client: Client) -> None:
    write_embedder(run.model / "embedder", knows=0.4)
    with pytest.raises(GateRefused, match=r"margin of 0\.5"):
        decide(run, client, GateSettings(tune=False, margin=0.5))


def test_guarded_sets_that_hold_let_the_candidate_pass(run: RunFolder, client: Client, tmp_path: Path) -> None:
    judged = write_judged(tmp_path / "judged", range(TOPICS))
    decide(run, client, GateSettings(tune=False, guarded=(f"other={judged}", f"books={judged}:test")))
    outcomes = {one.collection: one for one in load(run.gate).guarded}
    assert {name: one.holds for name, one in outcomes.items()} == {"other": True, "books": True}
    assert outcomes["other"].candidate == pytest.approx(1.0)
    assert left_behind(client)[2] == {"books": ["serving", "building"], "other": ["serving"]}


def test_a_guarded_set_that_falls_is_the_reason_of_a_refusal(run: RunFolder, client: Client, tmp_path: Path) -> None:
    # The candidate knows every topic but those that the serving model knows.
    write_embedder(run.model / "embedder", knows=0.9, first=KNOWN, seed=5)
    judged = write_judged(tmp_path / "known", range(KNOWN))
    with pytest.raises(GateRefused, match=r"the guarded set known/test falls from 1\.0000 to 0\.\d+"):
        decide(run, client, GateSettings(tune=False, guarded=(f"other={judged}",)))
    assert left_behind(client) == ([], ["books", "other"], {"books": ["serving"], "other": ["serving"]})


def test_the_settings_are_those_that_rank_best_with_the_new_model(run: RunFolder, client: Client) -> None:
    client.update_collection("books", ONLY_WORDS)
    decide(run, client, GateSettings())
    decision = load(run.gate)
    assert decision.candidate.ndcg_at_10 == pytest.approx(1.0)
    embedder = decision.trials[1]
    assert embedder.development > embedder.untuned + 0.5
    publish(run, client, "books", PublishSettings(), Silent(), seed=SEED)
    assert client.get_collection("books").config.search_defaults.mode == "hybrid"
    assert client.search("books", "ask39a").hits[0].id == "d39"


def test_a_gain_of_settings_alone_is_not_one_of_the_model(run: RunFolder, client: Client, tmp_path: Path) -> None:
    client.create_collection("known", CollectionConfig(embedder="base", search_defaults=ONLY_WORDS))
    client.ingest("known", documents()).finish()
    folder = write_run(tmp_path / "known", topics=range(KNOWN))
    write_embedder(folder.model / "embedder", knows=1.0, seed=9)
    with pytest.raises(GateRefused, match="tuned settings of the present models gain as much"):
        gate(folder, client, "known", GateSettings(), Silent(), seed=SEED)


def test_queries_cut_out_of_documents_are_judged_where_their_words_are_hidden(tmp_path: Path, client: Client) -> None:
    folder = write_run(tmp_path / "cut")
    cut = [
        TrainingQuery(
            id=query.id,
            text=f"tell{topic}a {query.text}",
            source="cloze",
            split=query.split,
            positives=query.positives,
            excluded_text=(0, len(f"tell{topic}a")),
        )
        for query in read_lines(folder.queries, TrainingQuery)
        for topic in [int(query.id.rpartition("-")[2])]
    ]
    write_lines(folder.queries, cut)
    write_embedder(folder.model / "embedder", knows=1.0)
    decide(folder, client)
    decision = load(folder.gate)
    assert decision.hidden
    # On the collection itself, every search would have found its document by the word that was cut out of it.
    assert decision.serving.ndcg_at_10 < 0.9
    assert left_behind(client)[1] == ["books", "other"]
    published = publish(folder, client, "books", PublishSettings(), Silent(), seed=SEED)
    assert published.ndcg_at_10 is None
    assert client.search("books", "ask39b").hits[0].id == "d39"


def test_an_interrupted_gate_goes_on_and_gives_the_same_decision(
    run: RunFolder, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide(run, client)
    undisturbed = json.loads(run.gate.read_text())
    client.drop_generation("books", undisturbed["generation"])
    run.gate.unlink()
    run.state("gate").unlink()

    class Interrupted(Silent):
        """Ends the gate at the n-th sign of progress, as a kill would."""

        def __init__(self, left: int) -> None:
            self.left = left

        def advance(self, count: int = 1, note: str = "") -> None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt

    for left in (0, 3, 60):
        with pytest.raises(KeyboardInterrupt):
            gate(run, client, "books", SETTINGS, Interrupted(left), seed=SEED)
    decide(run, client)
    again = json.loads(run.gate.read_text())
    for decision in (undisturbed, again):
        decision.pop("generation")
        for side in ("serving", "candidate"):
            decision[side].pop("median_ms")
    assert again == undisturbed


def test_a_model_that_changed_after_the_gate_is_not_published(run: RunFolder, client: Client) -> None:
    decide(run, client)
    write_embedder(run.model / "embedder", knows=0.5)
    with pytest.raises(InvalidInput, match="changed since the gate"):
        publish(run, client, "books", PublishSettings(), Silent(), seed=SEED)


def test_a_collection_that_ranks_worse_after_the_switch_is_rolled_back(run: RunFolder, client: Client) -> None:
    decide(run, client)
    presets = client.get_collection("books").config.search_defaults
    client.delete("books", [f"d{topic}" for topic in range(TOPICS // 2)])
    with pytest.raises(PublishedWorse, match="rolled back"):
        publish(run, client, "books", PublishSettings(), Silent(), seed=SEED)
    found = client.get_collection("books")
    assert found.config.embedder == "base"
    assert found.config.search_defaults == presets == SearchDefaults()


def test_a_foreign_build_is_left_alone(run: RunFolder, client: Client) -> None:
    client.reindex("books", embedder="base", force=True)
    with pytest.raises(InvalidInput, match=r"generation 2 of books with base is being built"):
        decide(run, client)
    assert [one.state for one in client.generations("books")] == ["serving", "building"]


def test_the_published_version_is_named_by_the_files(run: RunFolder) -> None:
    first = model_of(run, "books", "embedder")
    (run.model / "embedder" / "README.md").write_text("a card")
    assert model_of(run, "books", "embedder") == first
    write_embedder(run.model / "embedder", knows=0.5)
    assert model_of(run, "books", "embedder").version != first.version
