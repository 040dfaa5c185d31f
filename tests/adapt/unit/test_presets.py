"""The settings of a candidate: as presets, as JSON, and the values that tuning chooses from."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime

import pytest

from shortlist import Candidates, Collection, CollectionConfig, Fusion, Rerank, RerankStage, SearchDefaults
from shortlist_adapt.gating import presets
from shortlist_adapt.gating.settings import GateSettings
from shortlist_adapt.gating.tuning import grid_of
from shortlist_adapt.gating.ways import Way, ways
from shortlist_adapt.reporting.decision import GatedModel

NEW = "books-reranker@1"
LATE = RerankStage(model="late-interaction", depth=50, weight=0.3)


def collection(present: Rerank, effective: Rerank) -> Collection:
    defaults = SearchDefaults(candidates=Candidates(dense=70), rerank=present)
    return Collection(
        name="books",
        config=CollectionConfig(search_defaults=defaults),
        create_time=datetime.now(UTC),
        sequence=0,
        document_count=0,
        passage_count=0,
        segment_passage_count=0,
        segment_count=0,
        disk_bytes=0,
        embedder_revision="",
        effective_search_defaults=dataclasses.replace(defaults, rerank=effective),
        etag="",
    )


def model(kind: str, address: str) -> GatedModel:
    return GatedModel(
        kind="embedder" if kind == "embedder" else "reranker",
        name=address.partition("@")[0],
        version="1",
        address=address,
        revision="",
        digest="",
    )


@pytest.mark.parametrize(
    ("effective", "kept"),
    [
        (Rerank(model="late-interaction", depth=50, weight=0.3, deadline_share=0.8), [LATE]),
        (Rerank(model="none"), []),
        (Rerank(enabled=False, model="late-interaction", depth=50), []),
        (Rerank(model="another-cross-encoder", depth=20, weight=0.5), []),
        (Rerank(stages=(LATE, RerankStage(model="books-reranker@0", depth=20, weight=0.4))), [LATE]),
    ],
    ids=["late interaction", "none", "switched off", "another cross-encoder", "an earlier version"],
)
def test_a_new_reranker_is_the_last_stage_and_makes_others_but_late_interaction_go(
    effective: Rerank, kept: list[RerankStage]
) -> None:
    made = presets.with_reranker(collection(Rerank(on_failure="fail"), effective), NEW, 20)
    assert list(made.rerank.stages) == [*kept, RerankStage(model=NEW, depth=20, weight=presets.FIRST_WEIGHT)]
    assert (made.rerank.enabled, made.rerank.on_failure) == (True, "fail")
    assert made.candidates == Candidates(dense=70)


def test_presets_survive_json() -> None:
    defaults = SearchDefaults(
        mode="hybrid",
        candidates=Candidates(dense=100, lexical=100),
        fusion=Fusion(method="weighted_sum", dense_weight=0.6),
        rerank=Rerank(enabled=True, stages=(LATE, RerankStage(model=NEW, depth=20, weight=0.4))),
        recall_target=0.99,
    )
    assert presets.from_json(json.loads(json.dumps(presets.to_json(defaults)))) == defaults
    assert presets.described(defaults) == {
        "candidates": 100,
        "fusion.dense_weight": 0.6,
        "stage 1": "late-interaction, depth 50, weight 0.3",
        "stage 2": "books-reranker@1, depth 20, weight 0.4",
    }
    assert presets.described(SearchDefaults(rerank=Rerank(enabled=False))) == {"rerank.enabled": False}


def test_the_ways_begin_with_the_present_models_and_end_with_all_new_ones() -> None:
    found = collection(Rerank(), Rerank(model="late-interaction", depth=50, weight=0.3))
    both = [model("embedder", "books-embedder@1"), model("reranker", NEW)]
    made = ways(found, both, 7, GateSettings())
    assert [(way.name, way.generation, way.new_reranker) for way in made] == [
        ("present models", 0, ""),
        ("reranker", 0, NEW),
        ("embedder", 7, ""),
        ("embedder and reranker", 7, NEW),
    ]
    assert [way.name for way in ways(found, both[1:], 0, GateSettings())] == ["present models", "reranker"]


def test_tuning_keeps_a_new_reranker_in_and_within_its_depths() -> None:
    settings = GateSettings(rerank_depths=(5, 15))
    made = presets.with_reranker(collection(Rerank(), Rerank(model="late-interaction", depth=50)), NEW, 15)
    way = Way(name="x", models=(model("reranker", NEW),), generation=0, defaults=made)
    for choice in grid_of(way, settings).choices():
        late, new = choice.stages
        assert late.stage.model == "late-interaction"
        assert new.stage.model == NEW
        assert new.weight > 0
        assert new.depth in (5, 15)
    plain = Way(name="x", models=(), generation=0, defaults=SearchDefaults())
    assert grid_of(plain, settings).is_plain
