"""What an operation is: the work it does, how it reports, and how it looks from outside.

A ``Work`` is what somebody asks for. The work reports to its ``Control``. An ``Operation`` is a view of it at one
moment. Nothing here knows the types of progress and results.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeVar

from shortlist_server.domain import Cancellation
from shortlist_server.errors import ShortlistError

T = TypeVar("T")


class State(enum.Enum):
    """The state of an operation; the values are the proto's names."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def ended(self) -> bool:
        """Whether the operation will never change again."""
        return self in (State.SUCCEEDED, State.FAILED, State.CANCELLED)


class Kind(enum.Enum):
    """What an operation does; the values are the proto's names."""

    VERIFY = "VERIFY"
    BACKUP = "BACKUP"
    RESTORE = "RESTORE"
    EVALUATE = "EVALUATE"
    REINDEX = "REINDEX"
    COMPARE_GENERATIONS = "COMPARE_GENERATIONS"
    PUBLISH_MODEL = "PUBLISH_MODEL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An operation at one moment.

    Attributes:
        id: the work's own, else chosen at random.
        number: counts the operations of this server from 1, in the order in which they were started.
        collection: the one that it works on, or makes; "" where there are several.
        collections: all that it reads or writes; ("*",) for all collections.
        progress: the latest that the work reported; None before the first.
        result: what the work returned; None unless it succeeded.
        error: what the work raised; None unless it failed or was cancelled.
        create_seconds, update_seconds, end_seconds: since the epoch; ``end_seconds`` is None before the end.
    """

    id: str
    number: int
    kind: Kind
    collection: str
    collections: tuple[str, ...]
    state: State
    create_seconds: float
    update_seconds: float
    end_seconds: float | None = None
    progress: object = None
    result: object = None
    error: ShortlistError | None = None


class Control:
    """The means of a running work to report progress, and to learn that it should stop. Any thread."""

    def __init__(self, told: Callable[[], None]) -> None:
        """``told`` is called in the thread that reports progress."""
        self.cancellation = Cancellation()
        self.progress: object = None
        self.paused = False
        self._told = told

    def report_progress(self, progress: object, *, paused: bool = False) -> None:
        """Reports progress; cheap, and may be called for every step. Only the latest is kept.

        Args:
            paused: whether the work does nothing until it is resumed.
        """
        self.progress = progress
        self.paused = paused
        self._told()

    async def in_thread(self, threads: Executor, function: Callable[[], T]) -> T:
        """Runs blocking work. Returns only when it has stopped, even if the waiting task is cancelled meanwhile.

        Otherwise an operation could be called ended while its thread still writes files.
        """
        running = asyncio.get_running_loop().run_in_executor(threads, function)
        while not running.done():
            try:
                await asyncio.wait({running})
            except asyncio.CancelledError:
                self.cancellation.cancel()
        return running.result()

    async def interruptible(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine, and cancels it together with the operation.

        Raises:
            OperationCancelled: the operation was cancelled.
        """
        loop = asyncio.get_running_loop()
        task = loop.create_task(work)

        def cancel() -> None:
            loop.call_soon_threadsafe(task.cancel)

        try:
            with self.cancellation.calling(cancel):
                return await task
        except asyncio.CancelledError:
            self.cancellation.check()
            raise
        finally:
            task.cancel()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pauses:
    """Pauses and resumes a work; both return when that is durable, and may be repeated."""

    pause: Callable[[], Awaitable[object]]
    resume: Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What an operation is to do.

    Attributes:
        collection: the one that it works on, or makes; "" where there are several.
        collections: all that it reads or writes; ("*",) for all collections.
        run: does it and returns the result. It may raise ``OperationCancelled`` once ``Control.cancellation`` says so,
            and must have undone by then what it promises to undo.
        turns: works with the same semaphore run so many at a time; the others wait as PENDING. None: no limit.
        id: the operation's id, for a work that goes on under the same name after a restart; "": a new one. No
            unfinished operation may have it.
        pauses: how it is paused and resumed; None where it cannot be. A work that pauses says so in its progress.
        survives: whether it goes on after a restart of the server, which therefore does not cancel it when it stops.
        paused: whether it is paused when it begins.
        held_bytes: size of what it keeps in memory of its request until it ends.
    """

    kind: Kind
    collection: str
    collections: Sequence[str]
    run: Callable[[Control], Awaitable[object]]
    turns: asyncio.Semaphore | None
    id: str = ""
    pauses: Pauses | None = None
    survives: bool = False
    paused: bool = False
    held_bytes: int = 0
