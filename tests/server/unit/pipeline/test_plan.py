"""What a search runs with: which level of settings decides, and what the query's own parts allow."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shortlist_server.config import Config
from shortlist_server.domain import (
    Chunking,
    CollectionConfig,
    DegradationKind,
    FusionMethod,
    RerankFailurePolicy,
    RerankStage,
    RetrievalMode,
    SearchDefaults,
    SearchRequest,
)
from shortlist_server.errors import InvalidArgument, ModelMismatch, ModelNotFound, UnsupportedByCollection
from shortlist_server.inference.catalog import load_models
from shortlist_server.pipeline.collections import NewCollection, create_collection
from shortlist_server.pipeline.plan import DEFAULTS, STAGE_FIELDS, Plan, effective_defaults, merged, plan
from shortlist_server.pipeline.stages import PlannedStage, one_stage
from shortlist_server.storage.store import open_store

from .conftest import Planned


def test_the_request_goes_before_the_collection_and_the_collection_before_the_server(planned: Planned) -> None:
    found = planned(SearchDefaults(dense_weight=0.0), SearchDefaults(dense_weight=0.9, fusion=FusionMethod.RRF))
    assert (found.dense_weight, found.fusion, found.rrf_k) == (0.0, FusionMethod.RRF, DEFAULTS.rrf_k)


def test_zero_and_false_are_settings_too() -> None:
    first = merged(SearchDefaults(exact=False, dense_weight=0.0), SearchDefaults(exact=True, dense_weight=0.5))
    assert (first.exact, first.dense_weight) == (False, 0.0)


def test_the_reranker_gives_its_own_depth_and_weight(planned: Planned) -> None:
    (stage,) = planned().stages
    info = stage.reranker.info
    assert (stage.number, stage.depth, stage.weight) == (1, info.default_depth, info.default_weight)
    assert planned(SearchDefaults(rerank_weight=0.0)).stages[0].weight == 0.0
    assert planned(SearchDefaults(rerank=False)).stages == ()


@pytest.mark.parametrize(
    "presets",
    [
        SearchDefaults(),
        SearchDefaults(mode=RetrievalMode.LEXICAL, ef=77, exact=True, fusion=FusionMethod.RRF, rerank_weight=0.0),
        SearchDefaults(rerank_depth=3, rerank_instruction="be strict", rerank_deadline_share=0.5, dense_candidates=7),
        SearchDefaults(rerank_stages=(RerankStage(), RerankStage(depth=3, weight=0.0, instruction="be strict"))),
    ],
)
def test_the_effective_defaults_are_what_a_search_without_settings_runs_with(
    tmp_path: Path, presets: SearchDefaults
) -> None:
    config = Config(data_dir=tmp_path, embedders=("hashing",))
    models, store = load_models(config), open_store(config)
    collection = create_collection(store, models, NewCollection(name="c", search_defaults=presets))
    effective = effective_defaults(collection.config, models)
    assert effective.ef == presets.ef
    with collection.read_generation() as generation:
        found = plan(SearchRequest(collection="c", text="a text", limit=1), generation, models)
    for field in dataclasses.fields(effective):
        if field.name in {"ef", "rerank", "recall_target", *STAGE_FIELDS}:
            continue
        assert getattr(found, field.name) == getattr(effective, field.name), field.name
    assert effective.rerank
    stages = effective.rerank_stages or (one_stage(effective),)
    assert [as_settings(one) for one in found.stages] == list(stages)
    assert (effective.rerank_stages is None) == (presets.rerank_stages is None)
    store.close()
    models.close()


def as_settings(stage: PlannedStage) -> RerankStage:
    return RerankStage(
        model=stage.reranker.info.name,
        depth=stage.depth,
        weight=stage.weight,
        instruction=stage.instruction,
        deadline_share=stage.deadline_share,
    )


def test_without_a_reranker_the_effective_defaults_do_not_rerank(tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path, embedders=("hashing",))
    models = load_models(config)
    chunking = Chunking(max_tokens=16, overlap_tokens=0)
    for reranker in ("none", "not-served"):
        made = CollectionConfig(
            embedder="none", embedder_revision="", dimension=3, reranker=reranker, chunking=chunking
        )
        effective = effective_defaults(made, models)
        assert (effective.rerank, effective.reranker) == (reranker != "none", reranker)
        assert (effective.rerank_depth, effective.rerank_weight) == (None, None)
    models.close()


def test_each_index_is_asked_for_what_the_answer_needs(planned: Planned) -> None:
    found = planned(SearchDefaults(dense_candidates=5, lexical_candidates=50), limit=20)
    assert (found.dense_candidates, found.lexical_candidates) == (20, 50)


def test_the_mode_follows_what_the_query_has(planned: Planned) -> None:
    assert planned().mode is RetrievalMode.HYBRID
    assert planned(text="", vector=True).mode is RetrievalMode.DENSE
    assert planned(embedder="none").mode is RetrievalMode.LEXICAL
    with pytest.raises(InvalidArgument):
        planned(SearchDefaults(mode=RetrievalMode.HYBRID), text="", vector=True)
    with pytest.raises(UnsupportedByCollection):
        planned(SearchDefaults(mode=RetrievalMode.HYBRID), embedder="none")


def test_a_reranker_that_was_asked_for_is_there_or_an_error(planned: Planned) -> None:
    with pytest.raises(ModelNotFound):
        planned(SearchDefaults(reranker="another"))
    with pytest.raises(InvalidArgument):
        planned(SearchDefaults(rerank=True), text="", vector=True)


# ------------------------------------------------------------------------------------------------ models not served


@pytest.fixture
def lacking(tmp_path: Path) -> Iterator[Planned]:
    """Plans a search of a collection whose model was another revision than the one that is served now."""
    config = Config(data_dir=tmp_path, embedders=("it=hashing:64",))
    models, store = load_models(config), open_store(config)
    collection = create_collection(store, models, NewCollection(name="c"))
    models.close()
    models = load_models(config.replace(embedders=("it=hashing:64:2",)))

    def make(request: SearchDefaults = SearchDefaults(), *, text: str = "a text", vector: bool = False) -> Plan:
        values = np.ones(64, dtype=np.float32) if vector else None
        search = SearchRequest(collection="c", text=text, vector=values, settings=request)
        with collection.read_generation() as generation:
            return plan(search, generation, models)

    yield make
    store.close()
    models.close()


def test_without_its_model_a_collection_is_searched_by_words_and_the_answer_says_so(lacking: Planned) -> None:
    found = lacking()
    assert (found.mode, found.embedder, found.stages) == (RetrievalMode.LEXICAL, None, ())
    (lost,) = found.degradations
    assert lost.kind is DegradationKind.EMBEDDER_MISSING
    assert "revision" in lost.message


def test_what_needs_the_missing_model_and_nothing_else_fails(lacking: Planned) -> None:
    with pytest.raises(ModelMismatch):
        lacking(SearchDefaults(mode=RetrievalMode.DENSE))
    with pytest.raises(ModelMismatch):
        lacking(SearchDefaults(rerank_on_failure=RerankFailurePolicy.FAIL))


def test_what_needs_no_model_is_not_degraded_without_it(lacking: Planned) -> None:
    assert lacking(SearchDefaults(mode=RetrievalMode.LEXICAL, rerank=False)).degradations == ()
    by_vector = lacking(SearchDefaults(rerank=False), vector=True)
    assert (by_vector.mode, by_vector.degradations) == (RetrievalMode.HYBRID, ())
    assert lacking(text="", vector=True).degradations == ()
    # Its default reranker would read token vectors of the query.
    assert [one.kind for one in lacking(vector=True).degradations] == [DegradationKind.EMBEDDER_MISSING]
