"""A lane: a bounded queue, and the threads that run its items in batches.

Each model has a lane for queries and one for ingest, each with its own threads, so a query waits only for other
queries. Background work, as of a reindex, waits for the lane's other work and for that of lanes with the same
``Precedence``. Invariants: every future that a lane hands out is completed, whatever the work raises; cancelled and
overdue items are dropped before they run; a failing batch is halved until the item at fault is alone, which also
shrinks a batch that ran out of memory. Any thread may call ``submit`` and ``close``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from shortlist_server.domain import Deadline
from shortlist_server.errors import DeadlineExceeded, InferenceFailed, Overloaded, ShortlistError, Unavailable
from shortlist_server.inference.precedence import Precedence
from shortlist_server.inference.processors import lower_priority
from shortlist_server.observe.lanes import LaneWatch, Origin

Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)
_RATE_WEIGHT = 0.2
_MIN_RETRY_SECONDS, _MAX_RETRY_SECONDS = 0.1, 30.0
_JOIN_SECONDS = 10.0
_YIELD_SECONDS = 0.01
"""Time between two looks at whether the lanes that go first are done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneLimits:
    """Sizes of a lane, in units of cost: tokens, or requests.

    Attributes:
        batch_cost: largest batch, as items x the cost of its largest item, which is the cost of a padded batch.
        batch_items: most items of a batch.
        window_batches: how many batches' worth of items leave the queue at a time, to be sorted by cost and cut.
        queue_cost: how much may wait, and as much again of background work. An empty queue takes even a larger
            submission.
        threads: how many batches run side by side.
        niceness: added to the threads' OS priority value; above 0, they yield to others.
    """

    batch_cost: int
    batch_items: int
    window_batches: int
    queue_cost: int
    threads: int = 1
    niceness: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work(Generic[Item, Result]):
    item: Item
    cost: int
    deadline: Deadline
    future: Future[Result]
    origin: Origin | None


@dataclass(slots=True)
class _Queue(Generic[Item, Result]):
    """Work that waits, first come, first served."""

    waiting: deque[_Work[Item, Result]] = field(default_factory=deque)
    cost: int = 0

    def put(self, work: Sequence[_Work[Item, Result]], cost: int) -> None:
        self.waiting.extend(work)
        self.cost += cost

    def take(self, most: int) -> list[_Work[Item, Result]]:
        """The next work in order, up to so much cost, and at least one item if any waits."""
        taken: list[_Work[Item, Result]] = []
        cost = 0
        while self.waiting and (not taken or cost + self.waiting[0].cost <= most):
            taken.append(self.waiting.popleft())
            cost += taken[-1].cost
        self.cost -= cost
        return taken


class Lane(Generic[Item, Result]):
    """Runs submitted items in batches on threads of its own.

    Args:
        name: the name of the threads.
        run: maps a batch to its results, one for each item. It may raise anything, and may return an exception in
            place of a result.
        watch: is told what waits and what runs; None for no metrics and traces.
        precedence: shared with the lanes whose foreground work goes before this one's background work.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[Item]], Sequence[Result | Exception]],
        limits: LaneLimits,
        watch: LaneWatch | None = None,
        precedence: Precedence | None = None,
    ) -> None:
        self._name = name
        self._run = run
        self._limits = limits
        self._precedence = precedence or Precedence()
        self._foreground: _Queue[Item, Result] = _Queue()
        self._background: _Queue[Item, Result] = _Queue()
        self._cost_per_second = 0.0
        self._closed = False
        self._changed = threading.Condition()
        self._watch = watch
        if watch is not None:
            watch.watch_queue(lambda: (len(self._foreground.waiting) + len(self._background.waiting), self.queued_cost))
        self._threads = [
            threading.Thread(target=self._serve, name=f"{name}-{number}", daemon=True)
            for number in range(limits.threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def queued_cost(self) -> int:
        """Cost of the items that wait."""
        return self._foreground.cost + self._background.cost

    def submit(
        self, items: Sequence[tuple[Item, int]], deadline: Deadline, *, background: bool = False
    ) -> list[Future[Result]]:
        """Queues all items, each with its cost, or none of them; ``background`` ones wait for all others.

        Raises:
            Overloaded: the queue is full; its ``retry_after_seconds`` is an estimate from the lane's recent speed.
            Unavailable: the lane is closed.
        """
        origin = None if self._watch is None else self._watch.origin()
        work: list[_Work[Item, Result]] = [
            _Work(item=item, cost=max(cost, 1), deadline=deadline, future=Future(), origin=origin)
            for item, cost in items
        ]
        cost = sum(piece.cost for piece in work)
        with self._changed:
            if self._closed:
                raise Unavailable("the model is being unloaded")
            queue = self._background if background else self._foreground
            if queue.waiting and queue.cost + cost > self._limits.queue_cost:
                raise Overloaded(
                    f"too much work is waiting in {self._name!r}", retry_after_seconds=self._retry_after_seconds()
                )
            queue.put(work, cost)
            if not background:
                self._precedence.begin(len(work))
            self._changed.notify()
        return [piece.future for piece in work]

    def close(self) -> None:
        """Fails waiting work with ``Unavailable``, lets running batches finish and ends the threads. Idempotent."""
        with self._changed:
            self._closed = True
            first, later = (queue.take(queue.cost) for queue in (self._foreground, self._background))
            self._precedence.end(len(first))
            self._changed.notify_all()
        for piece in (*first, *later):
            _fail(piece, Unavailable("the model is being unloaded"))
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(_JOIN_SECONDS)

    def _retry_after_seconds(self) -> float:
        seconds = self._foreground.cost / self._cost_per_second if self._cost_per_second > 0 else 1.0
        return min(max(seconds, _MIN_RETRY_SECONDS), _MAX_RETRY_SECONDS)

    def _serve(self) -> None:
        lower_priority(self._limits.niceness)
        later: deque[Sequence[_Work[Item, Result]]] = deque()
        while True:
            window = self._take_foreground(wait=not later)
            for batch in cut_batches(window, self._limits):
                try:
                    self._guard(batch)
                finally:
                    self._precedence.end(len(batch))
            if window:
                continue
            if self._closed and not later:
                return
            if not later:
                later.extend(cut_batches(self._take_background(), self._limits))
            if later:
                began = time.monotonic()
                self._guard(later.popleft())
                self._precedence.background_ran(time.monotonic() - began)

    def _guard(self, batch: Sequence[_Work[Item, Result]]) -> None:
        try:
            self._run_batch(batch)
        except BaseException as error:
            # Whatever happened, the callers must be told and the thread must live on.
            logger.exception("%s: a batch failed outside the model", self._name)
            for piece in batch:
                _fail(piece, InferenceFailed(f"the batch failed: {type(error).__name__}"))

    def _take_foreground(self, *, wait: bool) -> list[_Work[Item, Result]]:
        """The next foreground items, in order. None once the lane is closed, or when background work may run.

        Args:
            wait: whether this thread has no background batch in hand, and may wait until there is work of either kind.
        """
        with self._changed:
            while not self._foreground.waiting and not self._closed:
                if wait and not self._background.waiting:
                    self._changed.wait()
                elif self._precedence.background_may_run():
                    break
                else:
                    self._changed.wait(_YIELD_SECONDS)
            return self._foreground.take(self._window_cost)

    def _take_background(self) -> list[_Work[Item, Result]]:
        with self._changed:
            return self._background.take(self._window_cost)

    @property
    def _window_cost(self) -> int:
        return self._limits.batch_cost * self._limits.window_batches

    def _run_batch(self, batch: Sequence[_Work[Item, Result]]) -> None:
        started = time.monotonic()
        if self._watch is not None:
            self._watch.taken(_origins(batch), started)
        live = [piece for piece in batch if self._begin(piece)]
        if not live:
            return
        futures = [piece.future for piece in live]
        with nullcontext() if self._watch is None else self._watch.running(_origins(live), futures):
            self._run_live(live)
        rate = sum(piece.cost for piece in live) / max(time.monotonic() - started, 1e-6)
        known = self._cost_per_second
        self._cost_per_second = rate if known == 0 else known + _RATE_WEIGHT * (rate - known)

    def _begin(self, piece: _Work[Item, Result]) -> bool:
        if self._closed:
            _fail(piece, Unavailable("the model is being unloaded"))
            return False
        if not piece.future.set_running_or_notify_cancel():
            return False
        if piece.deadline.passed():
            piece.future.set_exception(DeadlineExceeded("the deadline passed while the work waited for the model"))
            return False
        return True

    def _run_live(self, live: Sequence[_Work[Item, Result]]) -> None:
        try:
            results = self._run([piece.item for piece in live])
            if len(results) != len(live):
                raise RuntimeError(f"{len(results)} results for {len(live)} items")
        except Exception as error:
            if len(live) > 1 and not isinstance(error, Unavailable | Overloaded | DeadlineExceeded):
                logger.warning("%s: a batch of %d items failed and is halved: %r", self._name, len(live), error)
                middle = len(live) // 2
                self._run_live(live[:middle])
                self._run_live(live[middle:])
            else:
                if not isinstance(error, ShortlistError):
                    logger.exception("%s: the model failed on one item", self._name)
                for piece in live:
                    piece.future.set_exception(_as_error(error))
            return
        for piece, result in zip(live, results, strict=True):
            if isinstance(result, Exception):
                piece.future.set_exception(_as_error(result))
            else:
                piece.future.set_result(result)


def cut_batches(window: Sequence[_Work[Item, Result]], limits: LaneLimits) -> Iterator[Sequence[_Work[Item, Result]]]:
    """Batches of items of similar cost, small items first. Each is within the limits, or a single item."""
    ordered = sorted(window, key=lambda piece: piece.cost)
    batch: list[_Work[Item, Result]] = []
    for piece in ordered:
        # Costs ascend, so the newest item is the largest, and the padded batch costs that much for each item.
        if batch and (len(batch) >= limits.batch_items or piece.cost * (len(batch) + 1) > limits.batch_cost):
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch


def _origins(batch: Sequence[_Work[Item, Result]]) -> list[Origin]:
    return [piece.origin for piece in batch if piece.origin is not None]


def _as_error(error: Exception) -> ShortlistError:
    if isinstance(error, ShortlistError):
        return error
    failure = InferenceFailed(f"the model failed on this input: {type(error).__name__}")
    failure.__cause__ = error
    return failure


def _fail(piece: _Work[Item, Result], error: ShortlistError) -> None:
    if not piece.future.done() and (piece.future.running() or piece.future.set_running_or_notify_cancel()):
        piece.future.set_exception(error)
