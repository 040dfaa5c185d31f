"""Which level of settings decides."""

from shortlist_server.domain import FusionMethod, RetrievalMode, SearchDefaults
from shortlist_server.pipeline.settings import DEFAULT_DENSE_WEIGHT, merged, resolve


def test_the_request_goes_before_the_collection_and_the_collection_before_the_server() -> None:
    settings = resolve(
        SearchDefaults(dense_weight=0.0),
        SearchDefaults(dense_weight=0.9, fusion=FusionMethod.RRF),
        reranker="late-interaction",
        has_text=True,
        has_vector=True,
    )
    assert settings.dense_weight == 0.0
    assert settings.fusion is FusionMethod.RRF
    assert settings.rrf_k == 60
    assert settings.reranker == "late-interaction"


def test_zero_and_false_are_settings_too() -> None:
    first = merged(SearchDefaults(exact=False, dense_weight=0.0), SearchDefaults(exact=True, dense_weight=0.5))
    assert (first.exact, first.dense_weight) == (False, 0.0)


def test_the_mode_follows_what_the_query_has() -> None:
    def mode(*, has_text: bool, has_vector: bool, asked: RetrievalMode | None = None) -> RetrievalMode:
        return resolve(
            SearchDefaults(mode=asked), SearchDefaults(), reranker="none", has_text=has_text, has_vector=has_vector
        ).mode

    assert mode(has_text=True, has_vector=True) is RetrievalMode.HYBRID
    assert mode(has_text=False, has_vector=True) is RetrievalMode.DENSE
    assert mode(has_text=True, has_vector=False) is RetrievalMode.LEXICAL
    assert mode(has_text=False, has_vector=True, asked=RetrievalMode.HYBRID) is RetrievalMode.HYBRID


def test_the_server_has_a_default_for_every_setting() -> None:
    settings = resolve(SearchDefaults(), SearchDefaults(), reranker="none", has_text=True, has_vector=True)
    assert settings.dense_weight == DEFAULT_DENSE_WEIGHT
    assert settings.dense_candidates == settings.lexical_candidates == 100
