"""The operations of a server: those that run, those that wait, and those that ended a while ago.

All of it is in memory. A restart forgets the operations, except those whose work survives: these start again under the
same id. An operation belongs to no call, so it goes on when its caller goes away.
Coroutines on the server's event loop; works report from any thread.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import nullcontext, suppress

from shortlist_server.errors import (
    OperationCancelled,
    OperationNotFound,
    OperationNotPausable,
    Overloaded,
    ShortlistError,
    Unavailable,
)
from shortlist_server.observe.logs import request_id
from shortlist_server.operations.operation import Control, Operation, Pauses, State, Work

logger = logging.getLogger(__name__)

KEPT = 1000
"""Ended operations that are kept. The caller who has most of them loses one first, the one that ended first."""

KEPT_BYTES = 64 * 1024 * 1024
"""Bytes of all kept results together; the same holds for them. The newest is kept whatever its size."""

HELD_BYTES = 64 * 1024 * 1024
"""Bytes that operations which run or wait may hold of their requests; the only one may hold any number."""

KEPT_SECONDS = 24 * 3600.0
"""Time for which an ended operation is kept."""

RETRY_SECONDS = 5.0
"""When to repeat a start that was refused; operations take seconds to hours."""

PROGRESS_SECONDS = 0.2
"""Shortest time between two views of a running operation that one watcher gets."""


class _Entry:
    """An operation and what follows it."""

    def __init__(self, number: int, work: Work, caller: str) -> None:
        self.id = work.id or secrets.token_hex(16)
        self.number = number
        # Not the work itself: it refers to its whole request, which would stay in memory as long as the entry.
        self.kind, self.collection, self.collections = work.kind, work.collection, tuple(work.collections)
        self.pauses, self.survives, self.held_bytes = work.pauses, work.survives, work.held_bytes
        self.caller = caller
        self.state = State.PENDING
        self.create_seconds = self.update_seconds = time.time()
        self.end_seconds: float | None = None
        self.result: object = None
        self.result_bytes = 0
        self.error: ShortlistError | None = None
        self.ended = asyncio.Event()
        self.changed = asyncio.Event()
        self.version = 0
        self.task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._noted = False
        self.control = Control(self._told)
        self.control.paused = work.paused

    def view(self) -> Operation:
        """The operation now."""
        return Operation(
            id=self.id,
            number=self.number,
            kind=self.kind,
            collection=self.collection,
            collections=self.collections,
            state=self.state,
            create_seconds=self.create_seconds,
            update_seconds=self.update_seconds,
            end_seconds=self.end_seconds,
            progress=self.control.progress,
            result=self.result,
            error=self.error,
        )

    def note(self, state: State | None = None) -> None:
        """Notes a change, of the state or of the progress, and wakes whoever waits for one."""
        self._noted = False
        if self.state.ended:
            return  # Progress that arrives late.
        self.state = state or self.state
        if self.state in (State.RUNNING, State.PAUSED):
            self.state = State.PAUSED if self.control.paused else State.RUNNING
        self.update_seconds = time.time()
        self.version += 1
        # A new event each time: a waiter that comes later waits for the next change.
        self.changed.set()
        self.changed = asyncio.Event()
        if self.state.ended:
            self.end_seconds = self.update_seconds
            self.ended.set()

    def pause(self, *, paused: bool) -> None:
        """Notes that the work was told to pause, or to go on."""
        self.control.paused = paused
        self.note()

    def _told(self) -> None:
        # Works report progress faster than anybody reads it, so one wake-up at a time is under way.
        if not self._noted:
            self._noted = True
            self._loop.call_soon_threadsafe(self.note)


class OperationRegistry:
    """Starts, finds, follows and cancels operations."""

    def __init__(self, *, most: int, size_of: Callable[[object], int] = lambda result: 0) -> None:
        """Nothing runs yet.

        Args:
            most: operations that may run or wait at once; one caller may have half of them. Those whose work survives
                are counted apart.
            size_of: bytes that a result takes while it is kept.
        """
        self._most = most
        self._most_of_caller = max(1, most // 2)
        self._size_of = size_of
        self._unfinished: dict[str, _Entry] = {}
        # In the order in which they ended.
        self._kept: OrderedDict[str, _Entry] = OrderedDict()
        self._kept_bytes = 0
        self._started = 0
        self._ended: Counter[tuple[str, str]] = Counter()
        self._stopping = False

    @property
    def unfinished(self) -> int:
        """How many operations run or wait. Any thread."""
        return len(self._unfinished)

    @property
    def ended(self) -> dict[tuple[str, str], int]:
        """How many operations have ended since the start, by kind and state, in lower case. Any thread."""
        return dict(self._ended)

    def check_room(self, caller: str, *, survives: bool = False) -> None:
        """Checks that ``start`` would accept a work now; ``survives`` is that of the work.

        Raises:
            Overloaded: too many operations run or wait.
            Unavailable: the server is stopping.
        """
        if self._stopping:
            raise Unavailable("the server is stopping; repeat the call", retry_after_seconds=RETRY_SECONDS)
        # Apart, because a reindex may be paused for days, and nobody could make a backup meanwhile.
        alike = [entry for entry in self._unfinished.values() if entry.survives is survives]
        own = sum(entry.caller == caller for entry in alike)
        kinds = "reindexes" if survives else "operations"
        for count, most, whose in (
            (len(alike), self._most, f"{kinds} run or wait"),
            (own, self._most_of_caller, f"of your {kinds} run or wait"),
        ):
            if count >= most:
                raise Overloaded(
                    f"{count} {whose}, which is the limit (max_operations); wait for one, or cancel one",
                    retry_after_seconds=RETRY_SECONDS,
                    metadata={"setting": "max_operations", "limit": str(most)},
                )

    def start(self, work: Work, *, caller: str, accepted: bool = False) -> Operation:
        """Starts an operation; it runs as soon as its turn comes.

        Args:
            caller: who asks; counts against the share of one caller.
            accepted: start it even if too many run, because ``check_room`` accepted it, or a restart interrupted it.

        Raises:
            Overloaded: too many operations run or wait.
            Unavailable: the server is stopping.
        """
        if not accepted:
            self.check_room(caller, survives=work.survives)
            self._check_bytes(work.held_bytes)
        self._started += 1
        entry = _Entry(self._started, work, caller)
        if (before := self._kept.pop(entry.id, None)) is not None:
            self._kept_bytes -= before.result_bytes
        self._unfinished[entry.id] = entry
        entry.task = asyncio.create_task(self._run(entry, work), name=f"operation {entry.id}")
        return entry.view()

    def get(self, id: str) -> Operation:
        """An operation as it is now. Raises ``OperationNotFound``."""
        return self._find(id).view()

    def all(self) -> list[Operation]:
        """All operations, the newest first."""
        self._forget()
        entries = [*self._unfinished.values(), *self._kept.values()]
        return [entry.view() for entry in sorted(entries, key=lambda entry: -entry.number)]

    def cancel(self, id: str) -> Operation:
        """Tells an operation to stop; one that waits for its turn ends at once. Returns it as it is then. Idempotent.

        Raises:
            OperationNotFound: there is none of that name.
        """
        entry = self._find(id)
        self._cancel(entry)
        return entry.view()

    async def pause(self, id: str) -> Operation:
        """Pauses an operation. Returns it as it is then. Idempotent; does nothing to one that is ending or has ended.

        Raises:
            OperationNotFound: there is none of that name.
            OperationNotPausable: its kind cannot pause.
        """
        entry, pauses = self._pausable(id)
        if entry.state in (State.PENDING, State.RUNNING, State.PAUSED):
            await pauses.pause()
            entry.pause(paused=True)
        return entry.view()

    async def resume(self, id: str) -> Operation:
        """Lets a paused operation go on; otherwise as ``pause``."""
        entry, pauses = self._pausable(id)
        if entry.state in (State.PENDING, State.RUNNING, State.PAUSED):
            await pauses.resume()
            entry.pause(paused=False)
        return entry.view()

    async def watch(self, id: str) -> AsyncGenerator[Operation, None]:
        """Yields the operation now, then after changes, until it has ended. It goes on when nobody listens.

        Raises:
            OperationNotFound: there is none of that name.
            Unavailable: the server stops, and the operation goes on when it runs again.
        """
        entry = self._find(id)
        while True:
            view, version, changed = entry.view(), entry.version, entry.changed
            if self._stopping and entry.survives and not view.state.ended:
                raise Unavailable(
                    "the server is stopping; the operation goes on under the same name when it runs again",
                    retry_after_seconds=RETRY_SECONDS,
                )
            yield view
            # Not the entry's state, which may have changed while the view was read.
            if view.state.ended:
                return
            if entry.version == version:
                await changed.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(PROGRESS_SECONDS):
                    await entry.ended.wait()

    async def stop(self, grace_seconds: float | None) -> None:
        """Refuses new operations, cancels all and waits until they have ended, at most for the time given. Idempotent.

        None: waits without a limit.
        """
        self._stopping = True
        for entry in list(self._unfinished.values()):
            if not entry.survives:
                self._cancel(entry)
            elif entry.task is not None:
                entry.task.cancel()
                entry.note()
        tasks = [entry.task for entry in self._unfinished.values() if entry.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=grace_seconds)

    def _cancel(self, entry: _Entry) -> None:
        if entry.state is State.PENDING:
            assert entry.task is not None
            entry.task.cancel()
            self._end(entry, State.CANCELLED, OperationCancelled("the operation was cancelled before it began"))
        elif entry.state in (State.RUNNING, State.PAUSED):
            entry.note(State.CANCELLING)
            entry.control.cancellation.cancel()

    async def _run(self, entry: _Entry, work: Work) -> None:
        try:
            async with work.turns or nullcontext():
                entry.note(State.RUNNING)
                result = await work.run(entry.control)
        except asyncio.CancelledError:
            # Cancelled while it waited for its turn, and ended by ``_cancel``; or it goes on after a restart.
            if not entry.state.ended and not self._stopping:
                raise
        except OperationCancelled as error:
            self._end(entry, State.CANCELLED, error)
        except Exception as error:
            if self._stopping and work.survives:
                return  # What it needs stops with the server.
            self._end(entry, State.FAILED, self._shown(entry, error))
        else:
            # Even if it was told to stop meanwhile: it was done before it could stop.
            entry.result, entry.result_bytes = result, self._size_of(result)
            self._end(entry, State.SUCCEEDED, None)

    def _shown(self, entry: _Entry, error: Exception) -> ShortlistError:
        """The error to keep of a failed operation; an unexpected one goes only to the log."""
        # The base class itself stands for unforeseen faults.
        if isinstance(error, ShortlistError) and type(error) is not ShortlistError:
            return error
        logger.error("operation %s failed", entry.id, exc_info=error)
        return ShortlistError("unexpected fault", metadata={"request_id": request_id.get()})

    def _end(self, entry: _Entry, state: State, error: ShortlistError | None) -> None:
        if error is not None:
            # Tracebacks would keep all values of the work in memory.
            error.__traceback__ = error.__cause__ = error.__context__ = None
        entry.error = error
        entry.note(state)
        del self._unfinished[entry.id]
        self._kept[entry.id] = entry
        self._kept_bytes += entry.result_bytes
        self._forget()
        kind = entry.kind.name.lower()
        self._ended[kind, state.name.lower()] += 1
        logger.info(
            "operation %s (%s of %s) %s after %.1f s",
            entry.id,
            kind,
            f"collection '{entry.collection}'" if entry.collection else "several collections",
            state.name.lower(),
            entry.update_seconds - entry.create_seconds,
        )

    def _pausable(self, id: str) -> tuple[_Entry, Pauses]:
        entry = self._find(id)
        if entry.pauses is None:
            raise OperationNotPausable(
                f"an operation of kind '{entry.kind.name.lower()}' cannot pause: cancel it, or let it end"
            )
        return entry, entry.pauses

    def _check_bytes(self, more: int) -> None:
        held = sum(entry.held_bytes for entry in self._unfinished.values())
        if more and held and held + more > HELD_BYTES:
            raise Overloaded(
                f"the operations that run or wait hold {held} bytes of their requests, and may hold {HELD_BYTES}; wait"
                " for one, or cancel one",
                retry_after_seconds=RETRY_SECONDS,
                metadata={"setting": "max_operation_bytes", "limit": str(HELD_BYTES)},
            )

    def _find(self, id: str) -> _Entry:
        self._forget()
        entry = self._unfinished.get(id) or self._kept.get(id)
        if entry is None:
            raise not_found(id)
        return entry

    def _forget(self) -> None:
        """Forgets ended operations that are too old, too many, or too large."""
        oldest = time.time() - KEPT_SECONDS
        while self._kept and ((first := next(iter(self._kept.values()))).end_seconds or 0.0) < oldest:
            self._drop(first)
        while len(self._kept) > KEPT:
            self._drop(self._first_of_greatest(lambda entry: 1))
        newest = next(reversed(self._kept.values()), None)
        while newest is not None and self._kept_bytes > max(KEPT_BYTES, newest.result_bytes):
            self._drop(self._first_of_greatest(lambda entry: entry.result_bytes))

    def _first_of_greatest(self, size: Callable[[_Entry], int]) -> _Entry:
        """Of the caller who has most, the operation of any size that ended first; not the newest of all."""
        *older, _ = self._kept.values()
        sizes: Counter[str] = Counter()
        for entry in older:
            sizes[entry.caller] += size(entry)
        (greatest, _), *_ = sizes.most_common(1)
        return next(entry for entry in older if entry.caller == greatest and size(entry))

    def _drop(self, entry: _Entry) -> None:
        del self._kept[entry.id]
        self._kept_bytes -= entry.result_bytes


def not_found(id: str) -> OperationNotFound:
    """The error of an operation that is not there, or that the caller may not see."""
    return OperationNotFound(
        f"there is no operation 'operations/{id}': it ended and was forgotten, or the server was restarted since",
        metadata={"operation": f"operations/{id}"},
    )
