"""How queries are divided: nothing of the held-out split is seen elsewhere."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from shortlist_adapt.records import Split
from shortlist_adapt.splits import MAX_GROUP, Member, assign

SHARES = {"development": 0.2, "held_out": 0.3}


def judged(key: str, *documents: str, split: Split | None = None) -> Member:
    return Member(key=key, documents=documents, made=False, split=split)


def made(key: str, document: str) -> Member:
    return Member(key=key, documents=(document,), made=True)


def split_of(members: list[Member], seed: int = 0, **shares: float) -> dict[str, Split]:
    assignment = assign(members, **{**SHARES, **shares}, seed=seed)
    return dict(zip([member.key for member in members], assignment.splits, strict=True))


def test_the_shares_are_about_those_asked_for() -> None:
    members = [judged(f"q{number}", f"d{number}") for number in range(2000)]
    counts = Counter(split_of(members).values())
    assert abs(counts[Split.DEVELOPMENT] - 400) < 60
    assert abs(counts[Split.HELD_OUT] - 600) < 70
    assert split_of(members) != split_of(members, seed=1)


def test_a_share_of_nothing_gives_nothing() -> None:
    members = [made(f"q{number}", f"d{number}") for number in range(200)]
    assert set(split_of(members, development=0, held_out=0).values()) == {Split.TRAIN}


@given(
    st.lists(
        st.tuples(st.sets(st.integers(0, 8), min_size=1, max_size=2), st.booleans()), min_size=1, max_size=MAX_GROUP
    ),
    st.integers(0, 5),
)
def test_queries_that_share_an_answer_share_a_split(drawn: list[tuple[set[int], bool]], seed: int) -> None:
    members = [
        Member(key=f"q{number}", documents=tuple(f"d{one}" for one in sorted(documents)), made=is_made)
        for number, (documents, is_made) in enumerate(drawn)
    ]
    assignment = assign(members, **SHARES, seed=seed)
    assert assignment.cut_links == 0
    for first, one in zip(members, assignment.splits, strict=True):
        for second, other in zip(members, assignment.splits, strict=True):
            if set(first.documents) & set(second.documents):
                assert one is other


def test_another_query_moves_none_of_the_others() -> None:
    members = [judged(f"q{number}", f"d{number}") for number in range(50)]
    before = split_of(members)
    after = split_of([*members, judged("new", "elsewhere")])
    assert {key: after[key] for key in before} == before


def test_a_chosen_split_stays_and_what_was_made_follows_it() -> None:
    members = [
        judged("test", "d1", split=Split.HELD_OUT),
        *(judged(f"train{number}", "d1", f"e{number}") for number in range(20)),
        made("cut from d1", "d1"),
        made("cut from elsewhere", "d2"),
    ]
    splits = split_of(members)
    assert splits["test"] is Split.HELD_OUT
    assert splits["cut from d1"] is Split.HELD_OUT
    # The user has held-out queries, so no other query is taken from training.
    assert {key for key, split in splits.items() if split is Split.HELD_OUT} == {"test", "cut from d1"}


def test_a_document_that_answers_everything_does_not_join_everything() -> None:
    members = [judged(f"q{number}", "everywhere", f"d{number}") for number in range(400)]
    assignment = assign(members, **SHARES, seed=0)
    counts = Counter(assignment.splits)
    assert assignment.cut_links > 0
    assert min(counts[split] for split in Split) > 20
    # What is made from the shared document is protected as the strictest of its queries.
    assert split_of([*members, made("cut", "everywhere")])["cut"] is Split.HELD_OUT
