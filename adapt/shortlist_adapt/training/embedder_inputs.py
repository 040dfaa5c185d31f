"""Reads a run's pairs as rows to train on; of long texts the model itself chooses the passages.

One thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shortlist_adapt.folder import RunFolder
from shortlist_adapt.progress import Progress
from shortlist_adapt.records import CorpusDocument, TrainingPair, TrainingQuery, read_lines
from shortlist_adapt.training.rows import Choice, TrainingRows, make_rows
from shortlist_adapt.training.served_texts import ServedTexts

_AT_ONCE = 256
"""Choices between two reports of progress."""


def read_rows(folder: RunFolder, texts: ServedTexts, model: Any, part_tokens: int, progress: Progress) -> TrainingRows:
    """The rows of the pairs for training.

    Args:
        model: a sentence-transformers model, as it is before training.
        part_tokens: most tokens that go through it at once.

    Raises:
        InvalidInput: a file is missing or malformed, or nothing is left to train on.
    """

    def choose(choices: Sequence[Choice]) -> list[int]:
        progress.begin("choosing passages", len(choices), "texts")
        chosen: list[int] = []
        for begin in range(0, len(choices), _AT_ONCE):
            part = choices[begin : begin + _AT_ONCE]
            chosen += nearest(part, texts, model, part_tokens)
            progress.advance(len(part))
        return chosen

    pairs = list(read_lines(folder.pairs, TrainingPair))
    ids = {one for pair in pairs for one in (pair.positive_id, *pair.negative_ids)}
    titles = {one.id: one.title for one in read_lines(folder.corpus, CorpusDocument) if one.id in ids}
    positives = {one.id: tuple(one.positives) for one in read_lines(folder.queries, TrainingQuery)}
    return make_rows(pairs, texts, titles=titles, positives=positives, choose=choose)


def nearest(choices: Sequence[Choice], texts: ServedTexts, model: Any, part_tokens: int) -> list[int]:
    """The place of the passage nearest to its query, for each choice."""
    from shortlist_adapt.training.contrastive import embed

    queries = list(dict.fromkeys(choice.query for choice in choices))
    pieces = list(dict.fromkeys(piece for choice in choices for piece in choice.pieces))
    query_vectors = dict(zip(queries, embed(model, texts.queries(queries), part_tokens=part_tokens), strict=True))
    piece_vectors = dict(zip(pieces, embed(model, texts.passages(pieces), part_tokens=part_tokens), strict=True))
    found = []
    for choice in choices:
        scores = [float(query_vectors[choice.query] @ piece_vectors[piece]) for piece in choice.pieces]
        found.append(scores.index(max(scores)))
    return found
