"""What one model does for a window of writes: cut its documents, embed them, and give each its passages.

A batch belongs to the event loop, but for ``cut``, which blocks and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from shortlist_server.domain import Document, GenerationState
from shortlist_server.errors import InferenceFailed, ShortlistError
from shortlist_server.inference.base import CutText, PassageEmbedding, PassageText
from shortlist_server.pipeline.operations import AckStatus, Prepared
from shortlist_server.pipeline.targets import Target, Targets, Work, new_passages, refuses


@dataclass(slots=True)
class Batch:
    """The documents of a window that one model embeds, for all generations that have the same passages."""

    work: Work
    targets: list[Target] = field(default_factory=list)
    items: list[Prepared] = field(default_factory=list)

    @property
    def serves(self) -> bool:
        """Whether the serving generation is among its generations."""
        return any(target.serves for target in self.targets)

    @property
    def dimension(self) -> int:
        """The largest dimension that its generations need."""
        return max(target.dimension for target in self.targets)

    def cut(
        self, max_document_tokens: int, *, given_up: Callable[[], bool] = lambda: False
    ) -> list[CutText | ShortlistError]:
        """Each document as cut, or why it is refused. Blocking, CPU-bound.

        Args:
            given_up: asked before each document; once it is true, the rest is left.

        Raises:
            Exception: the model of a generation that does not serve failed. That of the serving one fails documents.
        """
        outcomes: list[CutText | ShortlistError] = []
        for item in self.items:
            change = item.operation.change
            assert isinstance(change, Document)
            if given_up():
                break
            try:
                outcomes.append(self.work.cut(change.title, change.text, max_document_tokens))
            except ShortlistError as error:
                if not self.serves and not refuses(error):
                    raise
                outcomes.append(error)
        return outcomes

    def take(self, outcomes: Sequence[CutText | ShortlistError]) -> None:
        """Takes over what ``cut`` returned.

        A document fails if the serving generation or the one being built refuses it. It has no passages in the former
        one if that refuses it, and none yet in any other whose model failed.
        """
        for item, outcome in zip(self.items, outcomes, strict=True):
            for target in self._lacking(item):
                if isinstance(outcome, CutText):
                    item.cuts[target.number] = outcome
                elif target.serves or (refuses(outcome) and target.state is GenerationState.BUILDING):
                    item.settle(AckStatus.FAILED, error=outcome)
                    break
                elif refuses(outcome):
                    item.passages[target.number] = ()
        self.items = [item for item in self.items if item.document is not None and self.numbers(item)]

    def numbers(self, item: Prepared) -> list[Target]:
        """The generations for which it embeds a document; known once it was cut."""
        return [target for target in self.targets if target.number in item.cuts]

    def passages(self) -> list[PassageText]:
        """The passages of all documents, in order."""
        return [passage for item in self.items for passage in self._passages_of(item)]

    def spread(self, embedded: Sequence[PassageEmbedding | Exception]) -> list[ShortlistError]:
        """Gives each document its passages. Returns an error for each document that the model could not embed.

        Such a document fails if the generation serves; else it has no passages there, which the build makes up.
        """
        following = iter(embedded)
        errors: list[ShortlistError] = []
        for item in self.items:
            own = [next(following) for _ in self._passages_of(item)]
            good = [one for one in own if isinstance(one, PassageEmbedding)]
            error = next((_as_error(one) for one in own if isinstance(one, Exception)), None)
            for target in self.numbers(item):
                if error is None:
                    item.passages[target.number] = new_passages(item.cuts[target.number], good, target.dimension)
                elif target.serves:
                    item.settle(AckStatus.FAILED, error=error)
            if error is not None:
                errors.append(error)
        return errors

    def _lacking(self, item: Prepared) -> list[Target]:
        return [target for target in self.targets if target.number not in item.passages]

    def _passages_of(self, item: Prepared) -> Sequence[PassageText]:
        return item.cuts[self.numbers(item)[0].number].passages


def batches(found: Targets, items: Sequence[Prepared]) -> list[Batch]:
    """The batches of a window, each with the documents that lack passages in its generations; none without any."""
    by_work: dict[Work, Batch] = {}
    for target in found.all:
        if target.work is not None:
            by_work.setdefault(target.work, Batch(target.work)).targets.append(target)
    for batch in by_work.values():
        numbers = {target.number for target in batch.targets}
        batch.items = [item for item in items if item.document is not None and numbers - item.passages.keys()]
    return [batch for batch in by_work.values() if batch.items]


def _as_error(error: Exception) -> ShortlistError:
    return error if isinstance(error, ShortlistError) else InferenceFailed(str(error))
