"""Which hits become negatives."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from shortlist_adapt.mining.choosing import choose
from shortlist_adapt.mining.settings import MiningSettings
from shortlist_adapt.searching import Found


def hit(id: str, cosine: float | None = 0.1, dense: int = 0, lexical: int = 0) -> Found:
    return Found(id=id, score=0.0, cosine=cosine, dense_rank=dense, lexical_rank=lexical)


def content(id: str) -> str:
    """Ids that differ by a prime have the same content."""
    return id.rstrip("'")


def ids(found: list[Found], positives: set[str], rejected: tuple[str, ...] = (), **settings: float) -> list[str]:
    chosen = choose(found, positives, rejected, MiningSettings(**settings), same=content)  # type: ignore[arg-type]
    return [one.id for one in chosen]


FUSED: Any = {"lexical_share": 0.0, "dense_share": 0.0}


def test_what_is_nearly_as_similar_as_the_answer_is_left_out() -> None:
    found = [hit("near", 0.77), hit("answer", 0.8), hit("safe", 0.7599), hit("unscored", None)]
    assert ids(found, {"answer"}, **FUSED) == ["safe", "unscored"]
    assert ids(found, {"answer"}, **FUSED, max_similarity=1.0) == ["near", "safe", "unscored"]


def test_the_least_similar_answer_decides() -> None:
    found = [hit("one", 0.8), hit("other", 0.4), hit("a", 0.5), hit("b", 0.3)]
    assert ids(found, {"one", "other"}, **FUSED) == ["b"]


def test_where_the_answer_was_not_found_the_best_hits_are_left_out() -> None:
    found = [hit(str(number), 0.9 - number / 100) for number in range(9)]
    assert ids(found, {"answer"}, **FUSED, skipped=5, negatives=3) == ["5", "6", "7"]


def test_judged_ones_come_first_and_need_no_margin() -> None:
    found = [hit("a", 0.1), hit("answer", 0.5), hit("judged", 0.9)]
    assert ids(found, {"answer"}, ("judged", "not found"), **FUSED) == ["judged", "a"]


def test_one_of_several_twins_is_taken_and_none_of_an_answer() -> None:
    found = [hit("answer", 0.9), hit("answer'"), hit("a"), hit("a'"), hit("b")]
    assert ids(found, {"answer"}, **FUSED) == ["a", "b"]


def test_any_first_few_have_the_shares_of_the_rankings() -> None:
    found = [
        hit("answer", 0.9),
        *(hit(f"f{number}") for number in range(20)),
        *(hit(f"l{number}", lexical=number + 1) for number in range(20)),
        *(hit(f"d{number}", dense=number + 1) for number in range(20)),
    ]
    chosen = ids(found, {"answer"}, negatives=8, lexical_share=0.25, dense_share=0.25)
    assert [chosen.count(one) for one in ("f0", "f1", "f2", "f3", "l0", "l1", "d0", "d1")] == [1] * 8
    assert {one[0] for one in chosen[:4]} == {"f", "l", "d"}
    assert {one[0] for one in ids(found, {"answer"}, lexical_share=1.0, dense_share=0.0)} == {"l"}
    assert {one[0] for one in ids(found, {"answer"}, lexical_share=0.0, dense_share=1.0)} == {"d"}


def test_what_one_ranking_lacks_the_others_give() -> None:
    found = [hit("answer", 0.9), *(hit(f"f{number}") for number in range(5)), hit("l0", lexical=1)]
    assert len(ids(found, {"answer"}, negatives=6, lexical_share=1.0, dense_share=0.0)) == 6


HITS = st.lists(
    st.tuples(st.integers(0, 12), st.floats(-1, 1) | st.none(), st.integers(0, 20), st.integers(0, 20)),
    unique_by=lambda one: one[0],
    max_size=12,
)


@given(HITS, st.sets(st.integers(0, 12)), st.sets(st.integers(0, 12)), st.floats(0, 1), st.floats(0, 1))
def test_no_answer_and_nothing_unsafe_is_ever_chosen(
    drawn: list[tuple[int, float | None, int, int]],
    answers: set[int],
    judged: set[int],
    lexical: float,
    dense: float,
) -> None:
    found = [hit(str(id), cosine, one, other) for id, cosine, one, other in drawn]
    positives, rejected = {str(id) for id in answers}, tuple(str(id) for id in judged - answers)
    chosen = ids(found, positives, rejected, negatives=5, skipped=0, lexical_share=lexical, dense_share=dense)
    at = {one.id: one for one in found}
    assert len(set(chosen)) == len(chosen) <= 5
    assert not positives & set(chosen)
    scored = [one.cosine for one in found if one.id in positives and one.cosine is not None]
    for id in set(chosen) - set(rejected):
        cosine = at[id].cosine
        assert cosine is None or not scored or cosine <= 0.95 * min(scored)
    safe = [
        one
        for one in found
        if one.id not in positives
        and (one.id in rejected or one.cosine is None or not scored or one.cosine <= 0.95 * min(scored))
    ]
    assert len(chosen) == min(5, len(safe))
