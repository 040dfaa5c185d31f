"""Who has an ingest stream: opening sessions, and ending those that lost their name.

Coroutines on the server's event loop; what blocks runs in the thread pool that the composition root hands in.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from dataclasses import dataclass

from shortlist_server.errors import StreamConflict
from shortlist_server.inference.base import NO_MODEL, ModelCatalog
from shortlist_server.pipeline.ingest import IngestSession
from shortlist_server.pipeline.leases import lease
from shortlist_server.pipeline.plan import check_revision
from shortlist_server.storage.base import CollectionStore, Lease, Store

MAX_DOCUMENT_TOKENS = 262_144
"""Most tokens embedded for one document unless the server is told otherwise."""


@dataclass(frozen=True, slots=True)
class _Opening:
    """A session that is asked for; ``number`` counts them."""

    collection: str
    stream: str
    number: int

    def rivals(self, other: _Opening | IngestSession) -> bool:
        """Whether another one is for the same stream; a session without a name has none."""
        name = other.collection if isinstance(other.collection, str) else other.collection.name
        return bool(self.stream) and (name, other.stream) == (self.collection, self.stream)


def _taken(stream: str) -> StreamConflict:
    return StreamConflict(
        f"another client opened the stream '{stream}' and has it now: let it finish, or use another name"
    )


class Ingester:
    """Opens ingest sessions; at most one for each named stream, the newest.

    The newest wins because a client that comes back after a break must not wait until the server notices that the
    former connection is gone. The one that lost is told not to come back by itself.
    """

    def __init__(
        self, store: Store, models: ModelCatalog, threads: Executor, *, max_document_tokens: int = MAX_DOCUMENT_TOKENS
    ) -> None:
        self._store = store
        self._models = models
        self._threads = threads
        self._max_document_tokens = max_document_tokens
        self._sessions: set[IngestSession] = set()
        self._draining = False
        self._opened = 0
        self._opening: set[_Opening] = set()

    async def open(self, collection: str, *, stream: str, dry_run: bool) -> IngestSession:
        """A session that is ready to run. A session that has the same name is ended first, with ``StreamConflict``.

        Raises:
            CollectionNotFound, ModelNotFound, ModelMismatch: the collection cannot be written to.
            StreamConflict: the stream was opened again meanwhile.
        """
        self._opened += 1
        opening = _Opening(collection, stream, self._opened)
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
        store, embedder = held.collection, None
        if store.config.embedder != NO_MODEL:
            embedder = self._models.embedder(store.config.embedder)
            check_revision(store, embedder)
        position = await self._take_over(store, opening) if opening.stream else 0
        session = IngestSession(
            held,
            embedder,
            self._threads,
            stream=opening.stream,
            number=opening.number,
            position=position,
            dry_run=dry_run,
            max_document_tokens=self._max_document_tokens,
        )
        self._sessions.add(session)
        if self._draining:
            session.drain()
        return session

    async def _take_over(self, store: CollectionStore, opening: _Opening) -> int:
        """Ends the older sessions of a name, also those that are opened meanwhile; returns its last durable position.

        Raises:
            StreamConflict: a newer one is open or being opened. It goes by when they came, not by which is quicker.
        """
        while True:
            if self._newer(opening):
                raise _taken(opening.stream)
            for holder in self._holders(opening):
                holder.end(_taken(opening.stream))
            # A session that was ended may have left a commit under way; an empty one comes after it.
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
        """Forgets a session whose ``run`` has ended or will not be used again; its collection may be closed."""
        self._sessions.discard(session)
        session.lease.release()

    def drain(self) -> None:
        """Lets every session finish what it has begun, read nothing more and end; those that are opened later too."""
        self._draining = True
        for session in self._sessions:
            session.drain()
