"""Values that the packages of the store pass to each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from shortlist_server.domain import GenerationConfig, GenerationState


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRow:
    """A generation as it is in the database.

    The row of the serving generation stores neither its cursor nor its counts: it lacks no document, and the counters
    of the collection have its passages. Here both are filled in.

    Attributes:
        cursor: every document with a key up to it has its passages in the generation, or was refused by it.
        documents: documents up to the cursor, and those above it that have passages already.
        passages: live passages.
        done_tokens: tokens that the build has embedded.
        failed: documents that became dead letters of the build.
        paused: why the build is paused; "" while it may run.
        problem: a sentence that says why the generation cannot be used, and is no longer written; "" where it can.
    """

    number: int
    state: GenerationState
    config: GenerationConfig
    create_time_seconds: float
    serve_time_seconds: float = 0.0
    cursor: int = 0
    documents: int = 0
    passages: int = 0
    done_tokens: int = 0
    failed: int = 0
    paused: str = ""
    paused_by_user: bool = False
    problem: str = ""

    @property
    def is_live(self) -> bool:
        """Whether commits write to it."""
        return self.state is not GenerationState.DROPPING and not self.problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """How much a generation holds, as of a sequence."""

    sequence: int
    documents: int
    passages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """The counters, from which all numbers are assigned, and the generations.

    Attributes:
        last_generation: the number given to a generation last.
        generations: all of them, by number.
    """

    sequence: int
    next_key: int
    next_passage_id: int
    documents: int
    commits: int
    ids_checksum: int
    last_generation: int
    generations: tuple[GenerationRow, ...]

    @property
    def serving(self) -> GenerationRow:
        """The generation that serves."""
        return next(row for row in self.generations if row.state is GenerationState.SERVING)

    @property
    def live(self) -> Iterator[GenerationRow]:
        """The generations that commits write to."""
        return (row for row in self.generations if row.is_live)

    def find(self, number: int) -> GenerationRow | None:
        """The generation of that number, if it exists."""
        return next((row for row in self.generations if row.number == number), None)

    def is_complete(self, row: GenerationRow) -> bool:
        """Whether a generation lacks no document."""
        return row.is_live and row.cursor >= self.next_key - 1

    def totals(self, row: GenerationRow) -> Totals:
        """What a generation holds now."""
        return Totals(sequence=self.sequence, documents=row.documents, passages=row.passages)

    def with_rows(self, *changed: GenerationRow) -> Counters:
        """These counters with some generations changed or added."""
        rows = {row.number: row for row in (*self.generations, *changed)}
        return replace(self, generations=tuple(rows[number] for number in sorted(rows)))

    def without(self, number: int) -> Counters:
        """These counters without a generation."""
        return replace(self, generations=tuple(row for row in self.generations if row.number != number))


@dataclass(slots=True, kw_only=True, eq=False)
class PassageChange:
    """The passages of one generation that a change added and removed.

    Attributes:
        removed: shape (r,), int64: passage ids of the passages that are gone.
        passage_ids, keys: shape (n,), int64: the new passages; the passage ids ascend.
        vectors: n arrays of shape (dimension,), float32.
        token_bytes: bytes of the token vectors of the new passages.
    """

    removed: list[int] = field(default_factory=list)
    passage_ids: list[int] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    vectors: list[NDArray[np.float32]] = field(default_factory=list)
    token_bytes: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class Effect:
    """What a change did; the dense indexes in memory follow it.

    Attributes:
        counters: the counters after the change.
        removed_keys: documents that were deleted or replaced.
        passages: by the number of the generation.
    """

    counters: Counters
    removed_keys: list[int] = field(default_factory=list)
    passages: dict[int, PassageChange] = field(default_factory=dict)


class SegmentOutdated(Exception):
    """The segments that a new one replaces have changed since its build began. Never reaches a caller."""


class GenerationDamaged(Exception):
    """A write met damage in a generation that does not serve. The writer sets it apart and writes again.

    Attributes:
        number: the generation's.
        problem: a sentence.
    """

    def __init__(self, number: int, problem: str) -> None:
        super().__init__(problem)
        self.number = number
        self.problem = problem


class GenerationDropped(SegmentOutdated):
    """The generation of a new segment is being dropped. Never reaches a caller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRow:
    """A segment's row in the database. It holds passages with ``low < passage_id <= high`` that were live at its build.

    Attributes:
        generation: whose passages they are.
    """

    uid: str
    generation: int = 1
    low: int
    high: int
    passages: int
    checksum: str
