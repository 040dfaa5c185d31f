"""The checkpoint file: how far an ingest got, so that another process can go on.

A small JSON file, replaced atomically and synced; a killed process leaves the old one or the new one. One run writes
it, from one thread.
"""

from __future__ import annotations

import dataclasses
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shortlist._errors import ResumeMismatch
from shortlist._ingest_types import Ack, AckStatus, IngestSummary
from shortlist._status import error_of_reason

FORMAT = 2
"""Version of the file's layout."""

MAX_FAILURES = 1000
"""Failed acks that are kept with their reasons; further ones are only counted."""


@dataclass(slots=True, kw_only=True)
class Progress:
    """The running totals of an ingest; mutable, of one run.

    Attributes:
        settled: operations from the start whose acks the caller has.
        ids: checksum of their ids, in order.
        unread_failed: failures among them that the caller was not shown.
    """

    settled: int = 0
    ids: int = 0
    unread_failed: int = 0
    counts: dict[AckStatus, int] = field(default_factory=lambda: dict.fromkeys(AckStatus, 0))
    failures: list[Ack] = field(default_factory=list)
    tokens: int = 0
    truncated_tokens: int = 0
    passages: int = 0
    estimated_seconds: float = 0.0

    def settle(self, ack: Ack, *, read: bool) -> None:
        """Counts an ack that the caller now has."""
        self.settled = ack.index + 1
        self.ids = checksum(self.ids, ack.id)
        self.counts[ack.status] += 1
        self.tokens += ack.tokens
        self.truncated_tokens += ack.truncated_tokens
        self.passages += ack.passages
        self.estimated_seconds += ack.estimated_seconds
        if ack.error is not None:
            self.unread_failed += not read
            if len(self.failures) < MAX_FAILURES:
                self.failures.append(ack)


def checksum(before: int, id: str) -> int:
    """The checksum of one more id."""
    return zlib.crc32(id.encode("utf-8", "surrogatepass") + b"\0", before)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The content of the file.

    Attributes:
        base: the stream's position before the first operation.
        durable_position: the last position that the server said is durable.
    """

    collection: str
    stream: str
    base: int
    durable_position: int
    progress: Progress

    def save(self, path: Path) -> None:
        """Replaces the file, synced."""
        data = {
            "format": FORMAT,
            "collection": self.collection,
            "stream": self.stream,
            "base": self.base,
            "durable_position": self.durable_position,
            **dataclasses.asdict(dataclasses.replace(self.progress, failures=[])),
            "failures": [_failure_to_json(ack) for ack in self.progress.failures],
        }
        temporary = path.with_name(f"{path.name}.new")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(data, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    @staticmethod
    def load(path: Path) -> Checkpoint | None:
        """The checkpoint in a file; None when there is no file.

        Raises:
            ResumeMismatch: the file is not a checkpoint of this release's format.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        try:
            data = json.loads(text)
            if data.pop("format") != FORMAT:
                raise ValueError("another format")
            return _from_json(data)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ResumeMismatch(
                f"{path} is not a checkpoint of this release; remove it to start from the beginning",
                summary=IngestSummary(),
            ) from error


def _from_json(data: dict[str, Any]) -> Checkpoint:
    return Checkpoint(
        collection=str(data.pop("collection")),
        stream=str(data.pop("stream")),
        base=int(data.pop("base")),
        durable_position=int(data.pop("durable_position")),
        progress=Progress(
            counts={status: int(data["counts"].get(status, 0)) for status in AckStatus},
            failures=[_failure_from_json(item) for item in data["failures"]],
            **{key: value for key, value in data.items() if key not in ("counts", "failures")},
        ),
    )


def _failure_to_json(ack: Ack) -> dict[str, Any]:
    assert ack.error is not None
    return {
        "index": ack.index,
        "id": ack.id,
        "reason": ack.error.reason,
        "message": ack.error.message,
        "field": ack.error.field,
        "retryable": ack.error.retryable,
        "metadata": ack.error.metadata,
    }


def _failure_from_json(item: Mapping[str, Any]) -> Ack:
    error = error_of_reason(item["reason"], item["message"], field=item["field"], metadata=item["metadata"])
    error.retryable = bool(item["retryable"])
    return Ack(index=int(item["index"]), id=str(item["id"]), status=AckStatus.FAILED, error=error)
