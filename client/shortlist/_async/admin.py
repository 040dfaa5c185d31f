"""A client's calls for those who operate a server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from shortlist import _admin_calls as admin_calls
from shortlist import _dead_letter_calls as dead_letters
from shortlist import _operation_calls as operation_calls
from shortlist._admin_types import (
    Backup,
    CollectionRecall,
    CopyProgress,
    EvaluateProgress,
    EvaluateReport,
    ServerInfo,
    VerifyProgress,
    VerifyReport,
)
from shortlist._async.operations import AsyncOperationCalls
from shortlist._async.pages import AsyncPages
from shortlist._collection_types import Collection, SearchDefaults
from shortlist._ingest_types import Ack, DeadLetter
from shortlist._operation_types import Operation


class AsyncAdminCalls(AsyncOperationCalls):
    """The calls of operators.

    ``verify``, ``backup``, ``restore`` and ``evaluate`` start an operation of the server and wait for its end, as long
    as it takes. Whoever interrupts the wait (Ctrl-C, a cancelled task, a deadline, an error of ``progress``) cancels
    the operation. The forms with ``start_`` return it without waiting: see ``wait_operation`` and ``cancel_operation``.
    """

    async def server_info(self, *, timeout_seconds: float | None = None) -> ServerInfo:
        """Describes the server and the models that it serves."""
        return await self._unary(admin_calls.server_info(), timeout_seconds)

    async def recall(self, collection: str, *, timeout_seconds: float | None = None) -> CollectionRecall:
        """The recall of a collection's searches, as background checks estimate it.

        Raises:
            CollectionNotFound: there is none of that name.
        """
        return await self._unary(admin_calls.recall(collection), timeout_seconds)

    async def verify(
        self,
        collection: str | None = None,
        *,
        sample: int = 200,
        repair: bool = False,
        accept_loss: bool = False,
        progress: Callable[[VerifyProgress], None] | None = None,
        timeout_seconds: float | None = None,
    ) -> list[VerifyReport]:
        """Checks a collection, or all, while searches go on; returns a report for each.

        Args:
            collection: its name; all when None.
            sample: vectors of each segment to search for, 0 to 10,000.
            repair: rebuild from the database what fails a check, then check again.
            accept_loss: with ``repair``, go on without acknowledged commits that a collection lost with its
                write-ahead log; otherwise the report calls such a collection damaged, and it answers ``DataCorrupted``.
            progress: called with each step, in the event loop.
            timeout_seconds: time for the whole of it; none by default.

        Raises:
            CollectionNotFound: there is none of that name.
            InvalidArgument: ``sample`` is out of its range, or ``accept_loss`` is given without ``repair``.
        """
        call = admin_calls.verify(collection, sample=sample, repair=repair, accept_loss=accept_loss)
        return operation_calls.reports_of(await self._start_and_wait(call, progress, timeout_seconds), VerifyReport)

    async def start_verify(
        self,
        collection: str | None = None,
        *,
        sample: int = 200,
        repair: bool = False,
        accept_loss: bool = False,
        timeout_seconds: float | None = None,
    ) -> Operation:
        """Starts what ``verify`` does, and returns the operation at once."""
        call = admin_calls.verify(collection, sample=sample, repair=repair, accept_loss=accept_loss)
        return await self._unary(call, timeout_seconds)

    async def backup(
        self,
        name: str,
        collections: Iterable[str] = (),
        *,
        progress: Callable[[CopyProgress], None] | None = None,
        timeout_seconds: float | None = None,
    ) -> Backup:
        """Makes a backup in the server's backup folder while the server serves; it is checked and synced to disk.

        Args:
            name: its name, a new one: 1 to 64 of a-z, 0-9, "_" and "-".
            collections: what goes into it, each as of one commit; all when empty.
            progress: called with the bytes copied, a few times a second, in the event loop.
            timeout_seconds: time for the whole of it; none by default.

        Raises:
            InvalidArgument: the name is wrong, or taken.
            CollectionNotFound: there is no collection of one of the names.
            DataCorrupted: collections are damaged; the error names all, before anything is copied. See ``verify``.
            OutOfSpace: the backup folder's disk is full; nothing is left there.
            OperationCancelled: somebody else cancelled it; nothing is left there.
        """
        call = admin_calls.backup(name, collections)
        return operation_calls.result_of(await self._start_and_wait(call, progress, timeout_seconds), Backup)

    async def start_backup(
        self, name: str, collections: Iterable[str] = (), *, timeout_seconds: float | None = None
    ) -> Operation:
        """Starts what ``backup`` does, and returns the operation at once."""
        return await self._unary(admin_calls.backup(name, collections), timeout_seconds)

    def list_backups(self, *, page_size: int = 100, timeout_seconds: float | None = None) -> AsyncPages[Backup]:
        """Backups, newest first; the timeout is one page's."""
        return AsyncPages(lambda token: self._unary(admin_calls.list_backups(page_size, token), timeout_seconds))

    async def restore(
        self,
        backup: str,
        collection: str,
        *,
        new_name: str | None = None,
        progress: Callable[[CopyProgress], None] | None = None,
        timeout_seconds: float | None = None,
    ) -> Collection:
        """Makes a collection from one in a backup; when it returns, it serves.

        Args:
            backup: name of the backup.
            collection: name of the collection in it.
            new_name: name of the collection to make; as in the backup when None.
            progress: called with the bytes copied, a few times a second, in the event loop.
            timeout_seconds: time for the whole of it; none by default.

        Raises:
            InvalidArgument: there is no backup of that name.
            CollectionNotFound: it has no such collection.
            CollectionExists: there is a collection of the name to make.
            DataCorrupted: the backup is damaged, or not what it says it is; use another.
        """
        call = admin_calls.restore(backup, collection, new_name)
        return operation_calls.result_of(await self._start_and_wait(call, progress, timeout_seconds), Collection)

    async def start_restore(
        self, backup: str, collection: str, *, new_name: str | None = None, timeout_seconds: float | None = None
    ) -> Operation:
        """Starts what ``restore`` does, and returns the operation at once."""
        return await self._unary(admin_calls.restore(backup, collection, new_name), timeout_seconds)

    async def evaluate(
        self,
        collection: str,
        queries: Mapping[str, str],
        qrels: Mapping[str, Mapping[str, int]],
        *,
        settings: Iterable[SearchDefaults] = (),
        include_queries: bool = False,
        progress: Callable[[EvaluateProgress], None] | None = None,
        timeout_seconds: float | None = None,
    ) -> list[EvaluateReport]:
        """Measures how well a collection ranks, on the live data; a report for each of the settings.

        The server searches once for each query, ranking and setting, one after the other at the priority of ingest.

        Args:
            collection: its name.
            queries: texts by id, 1 to 10,000.
            qrels: by query id, grades by document id: 0 is not relevant, more is better.
            settings: what to measure, each over the collection's defaults, at most 32; the defaults alone when empty.
            include_queries: return each query's measures, too.
            progress: called with the searches done, a few times a second, in the event loop.
            timeout_seconds: time for the whole of it; none by default.

        Raises:
            CollectionNotFound: there is none of that name.
            InvalidArgument: a query has no text or no relevant document, or a setting is out of its range.
        """
        call = admin_calls.evaluate(collection, queries, qrels, settings, include_queries=include_queries)
        return operation_calls.reports_of(await self._start_and_wait(call, progress, timeout_seconds), EvaluateReport)

    async def start_evaluate(
        self,
        collection: str,
        queries: Mapping[str, str],
        qrels: Mapping[str, Mapping[str, int]],
        *,
        settings: Iterable[SearchDefaults] = (),
        include_queries: bool = False,
        timeout_seconds: float | None = None,
    ) -> Operation:
        """Starts what ``evaluate`` does, and returns the operation at once."""
        call = admin_calls.evaluate(collection, queries, qrels, settings, include_queries=include_queries)
        return await self._unary(call, timeout_seconds)

    def list_dead_letters(
        self,
        collection: str,
        *,
        include_document: bool = False,
        page_size: int = 100,
        timeout_seconds: float | None = None,
    ) -> AsyncPages[DeadLetter]:
        """Dead letters, the documents that ingests could not take, oldest failure first; the timeout is one page's.

        Args:
            collection: where they were to go.
            include_document: return the documents themselves, too, where they were kept.
            page_size: dead letters in a page, at most 1,000.
            timeout_seconds: deadline of each page; the client's by default.

        Raises:
            CollectionNotFound: there is none of that name; out of the iteration, as everything else.
        """
        return AsyncPages(
            lambda token: self._unary(
                dead_letters.list_dead_letters(
                    collection, include_document=include_document, page_size=page_size, page_token=token
                ),
                timeout_seconds,
            )
        )

    async def retry_dead_letters(
        self, collection: str, numbers: Iterable[int] | None = None, *, timeout_seconds: float | None = None
    ) -> list[Ack]:
        """Ingests dead letters again; those that succeed are dead letters no more.

        Args:
            collection: where they are to go.
            numbers: which; when None, all that are there now and can be retried.
            timeout_seconds: deadline of each call, which has up to 100 documents; none by default.

        Returns:
            An ack of each document that was tried; its ``index`` is the number. One that failed again is a new
            dead letter with a new number. After an error, call again: what succeeded is not done twice.

        Raises:
            CollectionNotFound: there is none of that name.
            InvalidArgument: a number is none.
        """
        if numbers is None:
            found = self.list_dead_letters(collection, page_size=dead_letters.PAGE_SIZE)
            numbers = [one.number async for one in found if one.retriable]
        acks: list[Ack] = []
        for batch in dead_letters.batches(numbers, dead_letters.RETRY_AT_ONCE):
            answer = await self._unary(dead_letters.retry_dead_letters(collection, batch), timeout_seconds)
            acks += answer
        return acks

    async def delete_dead_letters(
        self, collection: str, numbers: Iterable[int] | None = None, *, timeout_seconds: float | None = None
    ) -> int:
        """Forgets dead letters, by number or all that are there now; returns how many there were.

        Raises:
            CollectionNotFound: there is none of that name.
            InvalidArgument: a number is none.
        """
        if numbers is None:
            found = self.list_dead_letters(
                collection, page_size=dead_letters.PAGE_SIZE, timeout_seconds=timeout_seconds
            )
            numbers = [one.number async for one in found]
        deleted = 0
        for batch in dead_letters.batches(numbers, dead_letters.DELETE_AT_ONCE):
            deleted += await self._unary(dead_letters.delete_dead_letters(collection, batch), timeout_seconds)
        return deleted
