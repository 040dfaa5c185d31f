"""What every source of queries gives: drafts, before duplicates, copies and unfindable ones are dropped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from shortlist_adapt.costs import Cost
from shortlist_adapt.progress import Progress
from shortlist_adapt.records import CorpusDocument, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A query as its source made it; the fields mean what those of ``TrainingQuery`` mean.

    Attributes:
        id: the query's own id; "" where it has none.
        split: the split that the user chose for it; None where the run may choose.
    """

    text: str
    source: str
    positives: Mapping[str, int]
    rejected: tuple[str, ...] = ()
    kind: str = ""
    language: str = ""
    excluded_text: tuple[int, int] | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)
    id: str = ""
    split: Split | None = None


class QuerySource(Protocol):
    """Makes queries from documents.

    A source that is expensive keeps what it made under the run folder's ``cache``, so that a run that was killed goes
    on cheaply. The same documents, settings and seed give the same drafts in the same order.
    """

    @property
    def name(self) -> str:
        """The source's name in ``TrainingQuery.source``."""

    def cost(self, documents: Sequence[CorpusDocument]) -> Cost:
        """What ``drafts`` will cost for these documents."""

    def drafts(self, documents: Sequence[CorpusDocument], progress: Progress) -> Iterator[Draft]:
        """Makes drafts, document by document in the given order; any number for each.

        A source whose budget is spent ends early and says so with ``progress.say``.

        Raises:
            AdaptError: the source cannot go on.
        """

    def figures(self) -> Mapping[str, int]:
        """Counts for the report after ``drafts`` has ended, such as calls, tokens and answers rejected by reason."""
