"""Long-running operations, as values. Frozen, safe to share between threads. ``_operation_convert`` makes them.

The operations of an ingest, a put or a deletion each, are something else: see ``_ingest_operations``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from shortlist._admin_types import Backup, CopyProgress, EvaluateProgress, EvaluateReport, VerifyProgress, VerifyReport
from shortlist._collection_types import Collection
from shortlist._errors import ShortlistError
from shortlist._generation_types import Generation, GenerationComparison, ReindexProgress
from shortlist._model_types import PublishedModel, PublishProgress

OperationKind = Literal["verify", "backup", "restore", "evaluate", "reindex", "compare_generations", "publish_model"]

OperationState = Literal["pending", "running", "paused", "cancelling", "succeeded", "failed", "cancelled"]

OperationProgress = VerifyProgress | CopyProgress | EvaluateProgress | ReindexProgress | PublishProgress

OperationResult = (
    tuple[VerifyReport, ...]
    | Backup
    | Collection
    | tuple[EvaluateReport, ...]
    | Generation
    | GenerationComparison
    | PublishedModel
)

ENDED = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """Work of a server that takes longer than a call, as it was at one moment.

    Attributes:
        name: "operations/" and an id that the server chose.
        kind: what it does.
        collection: what it works on, or makes; "" where there are several.
        state: "pending": it waits for others to end; "paused": only a reindex can pause.
        create_time, update_time, end_time: in UTC; ``end_time`` is None before the end.
        progress: the latest; None before the first step.
        result: its result, when it has succeeded: the reports of a verification or an evaluation, the backup, the
            restored collection, the generation that a reindex built, the comparison, or the published model. None in a
            list.
        error: why it failed, or that it was cancelled.
    """

    name: str
    kind: OperationKind
    collection: str
    state: OperationState
    create_time: datetime
    update_time: datetime
    end_time: datetime | None = None
    progress: OperationProgress | None = None
    result: OperationResult | None = None
    error: ShortlistError | None = None

    @property
    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.state in ENDED
