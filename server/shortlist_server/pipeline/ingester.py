"""Which session owns an ingest stream: opens sessions, and ends a session when a newer one takes its stream.

Coroutines on the server's event loop; blocking work runs in the composition root's thread pool.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from dataclasses import dataclass

from shortlist_server.errors import StreamConflict
from shortlist_server.inference.base import ModelCatalog
from shortlist_server.pipeline.ingest import IngestSession
from shortlist_server.pipeline.leases import lease
from shortlist_server.pipeline.preparation import Preparation
from shortlist_server.pipeline.setbacks import Setbacks
from shortlist_server.pipeline.stream_owners import StreamOwners
from shortlist_server.pipeline.targets import targets
from shortlist_server.storage.base import CollectionStore, Lease, Store

MAX_DOCUMENT_TOKENS = 262_144
"""Default for the most tokens embedded for one document."""


@dataclass(frozen=True, slots=True)
class _Opening:
    """A request for a session; ``number`` counts the requests, ``run_id`` tells clients apart."""

    collection: str
    stream: str
    number: int
    run_id: str

    def rivals(self, other: _Opening | IngestSession) -> bool:
        """Whether another one is for the same stream; an unnamed stream has no rivals."""
        name = other.collection if isinstance(other.collection, str) else other.collection.name
        return bool(self.stream) and (name, other.stream) == (self.collection, self.stream)


def _taken(stream: str) -> StreamConflict:
    return StreamConflict(
        f"another client opened the stream '{stream}' and owns it now: let it finish, or use another name"
    )


class Ingester:
    """Opens ingest sessions, at most one for each named stream: the newest.

    The newest client wins because one that returns after a break should not wait until the server notices that the old
    connection is gone. The error of the session that lost tells its client not to reconnect by itself. A client whose
    connection was broken at that moment gets the error when it reconnects.
    """

    def __init__(
        self,
        store: Store,
        models: ModelCatalog,
        threads: Executor,
        setbacks: Setbacks | None = None,
        *,
        aside_threads: Executor | None = None,
        max_document_tokens: int = MAX_DOCUMENT_TOKENS,
    ) -> None:
        """Makes an ingester without sessions.

        Args:
            setbacks: are told of the generations that writes leave out; None if nobody listens.
            aside_threads: cut documents for generations that do not serve, whose models may hang; None: ``threads``.
        """
        self._store = store
        self._models = models
        self._threads = threads
        self._aside_threads = aside_threads or threads
        self._setbacks = setbacks or Setbacks()
        self._max_document_tokens = max_document_tokens
        self._sessions: set[IngestSession] = set()
        self._draining = False
        self._opened = 0
        self._opening: set[_Opening] = set()
        self._owners = StreamOwners()

    async def open(self, collection: str, *, stream: str, dry_run: bool, run_id: str = "") -> IngestSession:
        """A session that is ready to run. Before that, a session of the same stream ends with ``StreamConflict``.

        Args:
            run_id: the same for all connections of one client; "": a client of its own.

        Raises:
            CollectionNotFound, ModelNotFound, ModelMismatch: the collection takes no documents now.
            StreamConflict: another client opened the stream meanwhile, or since this one had it.
        """
        self._opened += 1
        opening = _Opening(collection, stream, self._opened, run_id)
        self._opening.add(opening)
        try:
            return await self._open(opening, dry_run=dry_run)
        finally:
            self._opening.discard(opening)

    async def _open(self, opening: _Opening, *, dry_run: bool) -> IngestSession:
        held = await lease(self._store, opening.collection, self._threads)
        try:
            return await self._session(held, opening, dry_run=dry_run)
        except BaseException:
            held.release()
            raise

    async def _session(self, held: Lease[CollectionStore], opening: _Opening, *, dry_run: bool) -> IngestSession:
        store = held.collection
        targets(store, self._models)  # Refuses now what would fail at the first document.
        position = await self._take_over(store, opening) if opening.stream else 0
        preparation = Preparation(
            store,
            self._models,
            self._threads,
            self._aside_threads,
            self._setbacks,
            stream=opening.stream,
            dry_run=dry_run,
            max_document_tokens=self._max_document_tokens,
        )
        session = IngestSession(
            held, preparation, stream=opening.stream, number=opening.number, position=position, dry_run=dry_run
        )
        self._sessions.add(session)
        if opening.stream:
            self._owners.opened(opening.collection, opening.stream, opening.run_id)
        if self._draining:
            session.drain()
        return session

    async def _take_over(self, store: CollectionStore, opening: _Opening) -> int:
        """Ends all older sessions of a stream, including those opened meanwhile; returns its last durable position.

        Raises:
            StreamConflict: a newer session is open or being opened, or the client lost the stream before. The order of
                requests counts, not their speed.
        """
        while True:
            if self._newer(opening) or self._owners.lost(opening.collection, opening.stream, opening.run_id):
                raise _taken(opening.stream)
            for holder in self._holders(opening):
                holder.end(_taken(opening.stream))
            # An ended session may have left a commit in progress; this empty one waits for it.
            await asyncio.wrap_future(store.commit(()))
            position = await asyncio.get_running_loop().run_in_executor(
                self._threads, store.stream_position, opening.stream
            )
            if not self._holders(opening) and not self._newer(opening):
                return position

    def _newer(self, opening: _Opening) -> bool:
        others: list[_Opening | IngestSession] = [*self._holders(opening), *filter(opening.rivals, self._opening)]
        return any(other.number > opening.number for other in others)

    def _holders(self, opening: _Opening) -> list[IngestSession]:
        return [session for session in self._sessions if opening.rivals(session) and not session.ended]

    def close(self, session: IngestSession) -> None:
        """Forgets a session whose ``run`` has ended or is not needed, and releases its collection."""
        self._sessions.discard(session)
        session.lease.release()

    def drain(self) -> None:
        """Lets every session, also one opened later, finish what it has begun, read nothing more, and end."""
        self._draining = True
        for session in self._sessions:
            session.drain()
