"""Which rows and negatives each step of a training sees: fixed by the seed before the training begins.

So a training that goes on after a kill sees what it would have seen. Pure functions; any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shortlist_adapt.training.rows import TrainingRows

ABSENT = -1
"""In place of a document, where a row has fewer negatives than the widest row of its batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one step sees.

    Attributes:
        rows: numbers of the rows.
        negatives: for each row, which of its negatives, by their place in the row.
    """

    rows: tuple[int, ...]
    negatives: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Assembled:
    """A batch as the model embeds it: each text once, the longest first, so that little is padded.

    Attributes:
        queries: numbers of the rows' queries, in the order of the rows.
        passages: numbers of the distinct passages.
        places: shape (rows, documents), int64: where the passages of each row are among ``passages``; the positive
            comes first, and ``ABSENT`` stands where there is none.
        related: shape (rows, rows, documents), bool: whether document [j, c] is known to answer query i, or is absent.
    """

    queries: tuple[int, ...]
    passages: tuple[int, ...]
    places: NDArray[np.int64]
    related: NDArray[np.bool_]


def steps_per_epoch(rows: int, size: int) -> int:
    """How many batches of at most ``size`` rows an epoch has."""
    return -(-rows // size)


def schedule(available: Sequence[int], *, size: int, negatives: int, epochs: int, seed: int) -> list[Batch]:
    """The batches of all epochs in order; every epoch has each row once.

    The batches of an epoch differ by at most one row, because a small last batch would have few in-batch negatives.
    Where a row has more negatives than a step takes, each epoch draws anew.

    Args:
        available: how many negatives each row has.
        size: most rows of a batch.
        negatives: most negatives of a row in one step.
    """
    batches = []
    for epoch in range(epochs):
        generator = np.random.default_rng([seed, epoch])
        order = generator.permutation(len(available))
        drawn = [generator.permutation(count)[:negatives].tolist() for count in available]
        for part in np.array_split(order, steps_per_epoch(len(available), size)):
            rows = tuple(part.tolist())
            batches.append(Batch(rows=rows, negatives=tuple(tuple(drawn[row]) for row in rows)))
    return batches


def assemble(table: TrainingRows, batch: Batch) -> Assembled:
    """Puts the texts of a batch together."""
    drawn = [(table.rows[row], places) for row, places in zip(batch.rows, batch.negatives, strict=True)]
    drawn.sort(key=lambda one: -len(table.queries[one[0].query].ids))
    wanted = [[row.positive, *(row.negatives[place] for place in places)] for row, places in drawn]
    passages = sorted({one for line in wanted for one in line}, key=lambda one: (-len(table.passages[one].ids), one))
    place_of = {passage: place for place, passage in enumerate(passages)}
    places = np.full((len(wanted), max(map(len, wanted))), ABSENT, dtype=np.int64)
    for row, line in enumerate(wanted):
        places[row, : len(line)] = [place_of[passage] for passage in line]
    queries = tuple(row.query for row, _ in drawn)
    documents = np.array([table.documents[passage] for passage in passages])[places]
    related = table.answered(np.array(queries)[:, None, None], documents[None]) | (places == ABSENT)[None]
    return Assembled(queries=queries, passages=tuple(passages), places=places, related=related)
