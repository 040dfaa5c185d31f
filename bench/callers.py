"""Callers that search a collection, and a writer that changes it, for benchmarks of a server at work."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from shortlist import Client, Deletion, Document, ShortlistError

EXTRA = "extra-"
"""Prefix of the ids of documents that a writer adds, and deletes at its end."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A search that was answered: its begin and end in seconds of ``perf_counter``, and what its report says."""

    begin: float
    end: float
    generation: int
    embedder: str
    degraded: bool
    ids: tuple[str, ...]

    @property
    def ms(self) -> float:
        """Its time in milliseconds."""
        return (self.end - self.begin) * 1000


class Callers:
    """Threads that search on a schedule, each with a client of its own, for the length of a ``with`` block.

    Attributes:
        answers: the searches that were answered.
        failures: the others, by the name of their error.
    """

    def __init__(
        self,
        target: str,
        collection: str,
        texts: Sequence[str],
        *,
        callers: int,
        per_second: float,
        generation: int = 0,
    ) -> None:
        """Starts nothing yet; ``per_second`` is the searches of all callers together."""
        self.answers: list[Answer] = []
        self.failures: Counter[str] = Counter()
        self._target, self._collection, self._generation = target, collection, generation
        # Every query text is new, so that the server's embedding cache answers none.
        self._texts = (f"{text} {number}" for number, text in enumerate(itertools.cycle(texts)))
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._pause = callers / per_second
        self._threads = [threading.Thread(target=self._search, args=(i / callers,)) for i in range(callers)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def between(self, begin: float, end: float) -> list[Answer]:
        """The searches that ran at some moment between two times of ``perf_counter``."""
        return [answer for answer in self.answers if answer.end >= begin and answer.begin <= end]

    def _search(self, place: float) -> None:
        due = time.perf_counter() + place * self._pause
        with Client(self._target) as client:
            client.get_collection(self._collection)
            while not self._over.wait(max(0.0, due - time.perf_counter())):
                # A late caller does not catch up: its next search would measure the first one's delay again.
                due = max(due, time.perf_counter()) + self._pause
                with self._lock:
                    text = next(self._texts)
                begin = time.perf_counter()
                try:
                    result = client.search(self._collection, text, generation=self._generation)
                except ShortlistError as error:
                    with self._lock:
                        self.failures[f"{type(error).__name__}: {error}"] += 1
                    continue
                report = result.report
                answer = Answer(
                    begin,
                    time.perf_counter(),
                    report.generation,
                    report.embedder.name if report.embedder else "",
                    report.degraded,
                    tuple(hit.id for hit in result),
                )
                with self._lock:
                    self.answers.append(answer)


class Writer:
    """A stream that changes documents, adds others, and at the end of a ``with`` block takes all of it back.

    Attributes:
        acks: operations that the server has, by status.
        failures: the others, by the name of their error.
    """

    def __init__(self, target: str, collection: str, originals: Sequence[Document], *, per_second: float) -> None:
        """Starts nothing yet; ``originals`` are stored documents that may be changed for a while."""
        self.acks: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self._target, self._collection, self._originals = target, collection, originals
        self._per_second = per_second
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _write(self) -> None:
        try:
            with Client(self._target) as client:
                for ack in client.ingest(self._collection, self._operations()):
                    self.acks[str(ack.status)] += 1
                    if ack.error is not None:
                        self.failures[f"{type(ack.error).__name__}: {ack.error}"] += 1
        except ShortlistError as error:
            self.failures[f"{type(error).__name__}: {error}"] += 1

    def _operations(self) -> Iterator[Document | Deletion]:
        changed: dict[str, Document] = {}
        extras = []
        for number, original in enumerate(itertools.cycle(self._originals)):
            if self._over.wait(1 / self._per_second):
                break
            text = f"{original.text} change {number}"
            if number % 4 == 3:
                extras.append(f"{EXTRA}{number}")
                yield Document(id=extras[-1], title=original.title, text=text)
            else:
                changed[original.id] = original
                yield Document(id=original.id, title=original.title, text=text)
        yield from changed.values()
        yield from map(Deletion, extras)
