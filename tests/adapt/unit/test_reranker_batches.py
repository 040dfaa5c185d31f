"""The batches of a reranker's training."""

from __future__ import annotations

from shortlist_adapt.records import Split, TrainingPair
from shortlist_adapt.training.reranker_batches import Groups, Key, LengthBatches
from shortlist_adapt.training.reranker_inputs import by_length
from shortlist_server.inference.cross_encoder import PairIds


def pair(number: int, negatives: int = 6) -> TrainingPair:
    return TrainingPair(
        query_id=f"q{number}",
        query=f"query {number}",
        source="judged",
        split=Split.TRAIN,
        positive_id=f"p{number}",
        positive="word " * (1 + number % 17),
        negative_ids=tuple(f"n{number}-{one}" for one in range(negatives)),
        negatives=tuple(f"negative {one}" for one in range(negatives)),
    )


PAIRS = [pair(number) for number in range(100)]


def batches(epoch: int, *, seed: int = 1, size: int = 4) -> list[list[Key]]:
    made = LengthBatches(Groups(PAIRS, 4, seed), size=size, step_size=8, seed=seed)
    made.epoch = epoch
    found = list(made)
    assert len(found) == len(made)
    return found


def test_every_pair_comes_once_in_an_epoch() -> None:
    for size in (4, 8, 2, 1):
        keys = [key for batch in batches(3, size=size) for key in batch]
        assert sorted(keys) == [(3, number) for number in range(100)]


def test_the_order_follows_from_seed_and_epoch() -> None:
    assert batches(0) == batches(0)
    assert [key[1] for batch in batches(0) for key in batch] != [key[1] for batch in batches(1) for key in batch]
    assert batches(0) != batches(0, seed=2)


def test_a_batch_has_texts_of_similar_length_and_the_smallest_comes_last() -> None:
    groups = Groups(PAIRS, 4, 1)
    spreads = []
    for batch in batches(0, size=8):
        lengths = [groups.length(index) for _, index in batch]
        spreads.append(max(lengths) - min(lengths))
    everything = [groups.length(index) for index in range(100)]
    assert sum(spreads) / len(spreads) < (max(everything) - min(everything)) / 3
    assert [len(batch) for batch in batches(0, size=8)] == [8] * 12 + [4]


def test_negatives_are_drawn_anew_in_each_epoch() -> None:
    groups = Groups(PAIRS, 4, 1)
    first, again, second = groups[0, 5], groups[0, 5], groups[1, 5]
    assert first == again != second
    assert first.query == "query 5" and first.passages[0] == PAIRS[5].positive
    assert len(first.passages) == 5 and len(set(first.passages[1:])) == 4
    assert Groups(PAIRS, 9, 1)[0, 5].passages == (PAIRS[5].positive, *PAIRS[5].negatives)


def test_pairs_of_similar_length_share_a_part_within_the_budget() -> None:
    lengths = [3, 10, 9, 2, 50, 1]
    pairs = [PairIds(ids=[1] * length, segments=[0] * length, truncated_tokens=0) for length in lengths]
    parts = by_length(pairs, 20)
    assert parts == [[4], [1, 2], [0, 3, 5]]
