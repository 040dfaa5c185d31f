"""Batches: a function of the seed alone, each text once, and known answers never negatives."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from shortlist_adapt.training.batches import ABSENT, Batch, assemble, schedule, steps_per_epoch
from shortlist_adapt.training.rows import Row, TrainingRows
from shortlist_adapt.training.served_texts import Tokens


@pytest.mark.parametrize(("rows", "size"), [(1, 4), (4, 4), (5, 4), (33, 8), (7, 100)])
def test_every_epoch_has_each_row_once_in_batches_of_like_size(rows: int, size: int) -> None:
    batches = schedule([3] * rows, size=size, negatives=2, epochs=3, seed=5)
    steps = steps_per_epoch(rows, size)
    assert len(batches) == 3 * steps
    for epoch in range(3):
        part = batches[epoch * steps : (epoch + 1) * steps]
        assert Counter(row for batch in part for row in batch.rows) == Counter(range(rows))
        sizes = [len(batch.rows) for batch in part]
        assert max(sizes) <= size
        assert max(sizes) - min(sizes) <= 1


def test_the_seed_decides_and_epochs_differ() -> None:
    def made(seed: int) -> list[Batch]:
        return schedule([6] * 20, size=4, negatives=2, epochs=2, seed=seed)

    assert made(1) == made(1)
    assert made(1) != made(2)
    assert made(1)[:5] != made(1)[5:]
    # More epochs do not change those before them.
    assert schedule([6] * 20, size=4, negatives=2, epochs=4, seed=1)[:10] == made(1)


def test_negatives_are_drawn_anew_and_never_twice_in_a_step() -> None:
    available = [0, 1, 2, 9]
    seen = set()
    for batch in schedule(available, size=4, negatives=2, epochs=30, seed=0):
        for row, negatives in zip(batch.rows, batch.negatives, strict=True):
            assert len(set(negatives)) == len(negatives) == min(available[row], 2)
            assert all(place < available[row] for place in negatives)
            seen |= set(negatives) if row == 3 else set()
    assert seen == set(range(9))


def table() -> TrainingRows:
    """Three queries over four documents of six passages; query 0 and 2 share the answer, document 1."""
    lengths = [5, 9, 3, 7, 4, 8]
    answers = sorted(query * 4 + document for query, document in [(0, 1), (1, 2), (2, 1), (2, 3)])
    return TrainingRows(
        rows=(
            Row(query=0, positive=1, negatives=(2, 3)),
            Row(query=1, positive=3, negatives=(0,)),
            Row(query=2, positive=2, negatives=(0, 5, 4)),
        ),
        queries=tuple(Tokens(ids=[1] * length) for length in (2, 6, 4)),
        passages=tuple(Tokens(ids=[1] * length) for length in lengths),
        documents=(0, 1, 1, 2, 3, 0),
        document_count=4,
        answers=np.array(answers),
    )


def test_a_batch_has_each_passage_once_and_the_longest_first() -> None:
    rows = table()
    made = assemble(rows, Batch(rows=(0, 1, 2), negatives=((0,), (0,), (0, 2))))
    assert made.queries == (1, 2, 0)
    assert made.passages == (1, 3, 0, 4, 2)
    assert made.places.tolist() == [[1, 2, ABSENT], [4, 2, 3], [0, 4, ABSENT]]


def test_related_are_known_answers_and_what_is_absent() -> None:
    rows = table()
    made = assemble(rows, Batch(rows=(0, 1, 2), negatives=((0,), (0,), (0, 2))))
    known = {(0, 1), (1, 2), (2, 1), (2, 3)}
    for i, query in enumerate(made.queries):
        for j in range(3):
            for c in range(3):
                place = made.places[j, c]
                expected = place == ABSENT or (query, rows.documents[made.passages[place]]) in known
                assert made.related[i, j, c] == expected
