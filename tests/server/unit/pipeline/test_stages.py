"""Which rerank stages several levels of settings make together, and which of them a search can run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortlist_server.config import Config
from shortlist_server.domain import (
    DegradationKind,
    RerankFailurePolicy,
    RerankStage,
    SearchDefaults,
    SearchRequest,
)
from shortlist_server.errors import InvalidArgument, ModelNotFound, UnsupportedByCollection
from shortlist_server.inference.catalog import load_models
from shortlist_server.pipeline.collections import NewCollection, check_search_defaults, create_collection
from shortlist_server.pipeline.plan import Plan, effective_defaults, merged, plan
from shortlist_server.storage.base import Store
from shortlist_server.storage.rows import settings
from shortlist_server.storage.store import open_store

from .conftest import Planned

LATE = RerankStage(model="late-interaction", depth=100, weight=0.3)
OTHER = RerankStage(model="other", depth=20)
PRESETS = SearchDefaults(rerank_stages=(LATE, OTHER))

STAGES = st.builds(RerankStage, model=st.none() | st.sampled_from("ab"), depth=st.none() | st.integers(1, 9))
LEVELS = st.builds(
    SearchDefaults, reranker=st.none() | st.sampled_from("ab"), rerank_depth=st.none() | st.integers(1, 9)
) | st.builds(SearchDefaults, rerank_stages=st.lists(STAGES, min_size=1, max_size=3).map(tuple))


def test_a_list_replaces_the_stages_of_lower_levels_as_a_whole() -> None:
    assert merged(SearchDefaults(rerank_stages=(OTHER,)), PRESETS).rerank_stages == (OTHER,)
    below = SearchDefaults(reranker="x", rerank_depth=7, rerank_weight=0.1)
    assert merged(PRESETS, below) == PRESETS


def test_the_fields_of_one_stage_above_a_list_change_its_last_stage() -> None:
    found = merged(SearchDefaults(rerank_depth=5), SearchDefaults(rerank_weight=0.0, rerank_depth=6), PRESETS)
    assert found == SearchDefaults(rerank_stages=(LATE, replace(OTHER, depth=5, weight=0.0)))


def test_no_reranker_above_a_list_is_no_reranking() -> None:
    assert merged(SearchDefaults(reranker="none"), PRESETS).reranker == "none"
    assert merged(SearchDefaults(reranker="none"), PRESETS).rerank_stages is None


@given(LEVELS, LEVELS, LEVELS)
def test_levels_can_be_merged_in_any_grouping(
    first: SearchDefaults, second: SearchDefaults, third: SearchDefaults
) -> None:
    at_once = merged(first, second, third)
    assert merged(first, merged(second, third)) == at_once
    assert merged(merged(first, second), third) == at_once


def test_stages_are_stored_as_they_are(tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path, embedders=("hashing",))
    models, store = load_models(config), open_store(config)
    presets = SearchDefaults(rerank_stages=(RerankStage(), RerankStage(depth=3, weight=0.0, instruction="it")))
    made = create_collection(store, models, NewCollection(name="c", search_defaults=presets)).config
    assert settings.load(settings.dump(made)) == made
    store.close()
    store = open_store(config)
    assert store.find("c").config.search_defaults == presets
    store.close()
    models.close()


# ------------------------------------------------------------------------------------------------------------- plans


def listed(*stages: RerankStage) -> SearchDefaults:
    return SearchDefaults(rerank_stages=stages)


def test_what_a_stage_leaves_open_is_its_rerankers_own(planned: Planned) -> None:
    found = planned(listed(RerankStage(depth=100), RerankStage(weight=1.0))).stages
    assert [(stage.number, stage.depth, stage.weight) for stage in found] == [(1, 100, 0.4), (2, 50, 1.0)]


def test_the_stages_divide_the_time_among_them(planned: Planned) -> None:
    found = planned(listed(RerankStage(), RerankStage(deadline_share=0.1), RerankStage())).stages
    assert [stage.deadline_share for stage in found] == pytest.approx([0.8 / 3, 0.1, 0.8])
    assert [stage.deadline_share for stage in planned().stages] == [0.8]


def test_a_stage_takes_the_requests_instruction_unless_it_has_its_own(tmp_path: Path, planned: Planned) -> None:
    found = planned(listed(RerankStage(), RerankStage(instruction="mine")))
    assert [stage.instruction for stage in found.stages] == ["", "mine"]


def test_without_a_text_there_are_no_stages(planned: Planned) -> None:
    with pytest.raises(InvalidArgument):
        planned(replace(listed(RerankStage()), rerank=True), text="")
    assert planned(replace(listed(RerankStage()), rerank=False)).stages == ()


def test_a_stage_that_was_asked_for_is_there_or_an_error(planned: Planned) -> None:
    with pytest.raises(ModelNotFound):
        planned(listed(LATE, OTHER))
    with pytest.raises(UnsupportedByCollection) as caught:
        planned(listed(LATE), embedder="none")
    assert caught.value.field == "rerank.stages[0].model"
    with pytest.raises(InvalidArgument) as refused:
        planned(listed(RerankStage()), embedder="none")
    assert refused.value.field == "rerank.stages[0].model"


def test_a_collection_presets_only_stages_that_it_can_run(tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path, embedders=("hashing",))
    models, store = load_models(config), open_store(config)
    texts = create_collection(store, models, NewCollection(name="texts")).config
    vectors = create_collection(store, models, NewCollection(name="vectors", embedder="none", dimension=4)).config
    check_search_defaults(models, texts, listed(RerankStage(), LATE))
    with pytest.raises(ModelNotFound):
        check_search_defaults(models, texts, listed(LATE, OTHER))
    for stages in (listed(RerankStage()), listed(LATE)):
        with pytest.raises(InvalidArgument) as caught:
            check_search_defaults(models, vectors, stages)
        assert caught.value.field == "search_defaults.rerank.stages[0].model"
    store.close()
    models.close()


def test_the_effective_stages_of_a_reranker_that_is_not_served_have_no_depth(tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path, embedders=("hashing",))
    models, store = load_models(config), open_store(config)
    made = create_collection(store, models, NewCollection(name="c")).config
    made = replace(made, search_defaults=listed(RerankStage(), RerankStage(model="gone", weight=0.2)))
    stages = effective_defaults(made, models).rerank_stages
    assert stages is not None
    assert [(stage.model, stage.depth, stage.weight) for stage in stages] == [
        ("late-interaction", 50, 0.4),
        ("gone", None, 0.2),
    ]
    store.close()
    models.close()


def without_its_model(config: Config, store: Store, request: SearchDefaults) -> Plan:
    """Plans a search of collection "c" on a server that has another revision of its model."""
    models = load_models(config.replace(embedders=("it=hashing:64:2",)))
    try:
        with store.find("c").read_generation() as generation:
            return plan(SearchRequest(collection="c", text="a text", settings=request), generation, models)
    finally:
        models.close()


def test_without_its_model_a_collection_loses_the_stages_that_need_it(tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path, embedders=("it=hashing:64",))
    models, store = load_models(config), open_store(config)
    create_collection(store, models, NewCollection(name="c"))
    models.close()
    found = without_its_model(config, store, SearchDefaults())
    assert (found.stages, [one.kind for one in found.degradations]) == ((), [DegradationKind.EMBEDDER_MISSING])
    with pytest.raises(Exception, match="revision"):
        without_its_model(config, store, SearchDefaults(rerank_on_failure=RerankFailurePolicy.FAIL))
    store.close()
