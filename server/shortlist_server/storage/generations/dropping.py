"""Frees the space of dropped generations, while others read and write.

For each generation: its readers finish, for as long as a call may take; its folders go; its rows go, some hundred in a
transaction; free pages go back to the disk, some hundred in a transaction; and last, its empty tables and its row go.
Between two steps is a pause as long as the step, for the writes of others. A step that fails is tried again later, or
at the next opening if rows are damaged. A crash or the closing of the collection ends the work, and the next opening
goes on with it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from shortlist_server.errors import DataCorrupted, Unavailable
from shortlist_server.storage.generations.generation import OpenGeneration
from shortlist_server.storage.layout import SEGMENTS_FOLDER
from shortlist_server.storage.parameters import Parameters
from shortlist_server.storage.rows import generation_changes, generations
from shortlist_server.storage.rows.write_transaction import WriteTransaction
from shortlist_server.storage.rows.writer import Task
from shortlist_server.storage.values import Counters

logger = logging.getLogger(__name__)

_FIRST_AMOUNT = 100
_MOST_ROWS = 250
_MOST_PAGES = 128
_LONGEST_PAUSE_SECONDS = 0.1
_STEP_SECONDS = 0.01
"""How long a step should take before it commits; this sets the number of its rows or pages."""

_RETRY_SECONDS = 30.0


class Dropping:
    """The drops of one open collection that are under way."""

    def __init__(
        self,
        name: str,
        submit: Callable[[Task[Any]], Future[Any]],
        parameters: Parameters,
        *,
        forgotten: Callable[[Counters], None],
    ) -> None:
        """``forgotten`` is called after the last step, with counters that no longer have the generation."""
        self._name = name
        self._submit = submit
        self._parameters = parameters
        self._forgotten = forgotten
        self._lock = threading.Lock()
        self._under_way: set[int] = set()
        self._given_up: set[int] = set()
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether a generation is being dropped."""
        return bool(self._under_way - self._given_up)

    def begin(self, number: int, generation: OpenGeneration | None) -> None:
        """Begins to drop a generation whose mark is durable, unless that is under way. Never blocks.

        ``generation`` is None if it is not open.
        """
        with self._lock:
            if number in self._under_way:
                return
            self._under_way.add(number)
        if generation is None:
            self._delete_rows(number)
            return
        once = _Once(lambda: self._in_thread(lambda: self._remove_folders(number, generation)))
        alarm = self._parameters.clock.after(self._parameters.config.max_deadline_seconds, once)

        def unused() -> None:
            alarm.cancel()
            once()

        generation.retire(unused)

    def close(self) -> None:
        """Begins no further step. Idempotent."""
        self._closed = True

    def _in_thread(self, step: Callable[[], None]) -> None:
        if not self._closed:
            self._parameters.flushing_threads.submit(step)

    def _remove_folders(self, number: int, generation: OpenGeneration) -> None:
        generation.gone = True
        try:
            # A build that still runs would leave a folder behind.
            generation.compaction.close()
            for segment in generation.index.snapshot.segments:
                folder = generation.place.folder / SEGMENTS_FOLDER / segment.row.uid
                self._parameters.files.remove_tree(folder)
            self._parameters.crash_point("drop:folders")
        except Exception as error:
            self._failed(number, error)
        else:
            self._delete_rows(number)

    def _delete_rows(self, number: int, limit: int = _FIRST_AMOUNT) -> None:
        def delete(transaction: WriteTransaction) -> bool:
            return generations.delete_some(transaction.connection, number, limit)

        def go_on(left: bool, fitting: int) -> None:
            if left:
                self._delete_rows(number, min(fitting, _MOST_ROWS))
            else:
                self._give_pages_back(number)

        self._timed(number, delete, limit, "drop:rows", go_on)

    def _give_pages_back(self, number: int, pages: int = _FIRST_AMOUNT) -> None:
        def give_back(transaction: WriteTransaction) -> bool:
            return transaction.reclaim(pages) > 0

        def go_on(left: bool, fitting: int) -> None:
            if left:
                self._give_pages_back(number, min(fitting, _MOST_PAGES))
            else:
                self._forget(number)

        self._timed(number, give_back, pages, "drop:pages", go_on)

    def _timed(
        self,
        number: int,
        work: Callable[[WriteTransaction], bool],
        amount: int,
        point: str,
        go_on: Callable[[bool, int], None],
    ) -> None:
        """Does work in a transaction; then ``go_on`` gets its result and the amount that fits the time of a step."""
        seconds = 0.0
        submitted = time.perf_counter()

        def apply(transaction: WriteTransaction) -> bool:
            nonlocal seconds
            begin = time.perf_counter()
            left = work(transaction)
            seconds = time.perf_counter() - begin
            return left

        def publish(left: bool) -> bool:
            self._parameters.crash_point(point)
            return left

        def done(step: Future[bool]) -> None:
            if (error := step.exception()) is not None:
                self._failed(number, error)
            else:
                fitting = max(1, min(int(amount * _STEP_SECONDS / max(seconds, 1e-6)), 2 * amount))
                # As long as the step took, so a commit that waited for it does not share its transaction with the next.
                pause = min(time.perf_counter() - submitted, _LONGEST_PAUSE_SECONDS)
                self._parameters.clock.after(pause, lambda: go_on(step.result(), fitting))

        self._step(number, Task(apply, publish, frees=True), done)

    def _forget(self, number: int) -> None:
        def apply(transaction: WriteTransaction) -> Counters:
            generation_changes.forget(transaction, number)
            return transaction.counters

        def publish(counters: Counters) -> None:
            self._parameters.crash_point("drop:tables")
            self._forgotten(counters)

        def go_on(step: Future[None]) -> None:
            if (error := step.exception()) is not None:
                self._failed(number, error)
                return
            with self._lock:
                self._under_way.discard(number)
            logger.info("collection '%s': generation %d is gone", self._name, number)

        self._step(number, Task(apply, publish, frees=True), go_on)

    def _step(self, number: int, task: Task[Any], go_on: Callable[[Future[Any]], None]) -> None:
        try:
            self._submit(task).add_done_callback(go_on)
        except Unavailable:
            # The collection was closed; its next opening goes on.
            with self._lock:
                self._under_way.discard(number)

    def _failed(self, number: int, error: BaseException) -> None:
        name = self._name
        if isinstance(error, DataCorrupted):
            self._given_up.add(number)
            logger.error("collection '%s': generation %d stays on the disk, as it is damaged: %s", name, number, error)
            return
        logger.error(
            "collection '%s': dropping generation %d failed, next try in %.0f s: %s",
            name,
            number,
            _RETRY_SECONDS,
            error,
        )
        self._parameters.clock.after(_RETRY_SECONDS, lambda: self._delete_rows(number))


class _Once:
    """Calls a function once, at the first of several occasions, from any thread."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._lock = threading.Lock()

    def __call__(self) -> None:
        if self._lock.acquire(blocking=False):
            self._function()
