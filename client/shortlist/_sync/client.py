# Made by scripts/unasync.py from _async/client.py; change that file.
"""The client.

One client holds one connection. It may be used from any thread, but not after a fork.

``base`` has the connection, ``admin`` the calls of operators. The modules ``_..._calls`` make requests and read
answers, ``_status`` makes errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from os import PathLike

from shortlist import _collection_calls as collection_calls
from shortlist import _document_calls as document_calls
from shortlist import _search_calls as search_calls
from shortlist._collection_types import (
    Candidates,
    Collection,
    CollectionConfig,
    Fusion,
    Rerank,
    RerankStage,
    RetrievalMode,
    SearchDefaults,
)
from shortlist._document_types import DeleteResult, Include, StoredDocument, Vector
from shortlist._errors import ShortlistError
from shortlist._filters import Filter
from shortlist._ingest_run import IngestOptions
from shortlist._ingest_types import IngestSummary
from shortlist._search_types import SearchResult
from shortlist._sync.ingest import Ingest, Operations
from shortlist._sync.models import ModelCalls
from shortlist._sync.pages import Pages

# ``list`` is a method of the clients, so their annotations cannot use it as a type.
BatchResults = list[SearchResult | ShortlistError]
FoundDocuments = list[StoredDocument | None]


class Client(ModelCalls):
    """A connection to a Shortlist server; close it, or use it in a ``with`` block.

    Every method raises a ``ShortlistError``: ``ServerUnavailable`` when no server answers (after a few repetitions, but
    for an ingest and the health checks), ``DeadlineExceeded`` when the time is over, ``Overloaded`` when the server is
    full, ``Unauthenticated`` and ``PermissionDenied`` about the API key, ``ClientClosed``, ``UsedAfterFork``. Each
    method names its further errors. Making a client does not connect: the first call does, ``wait_until_ready`` waits
    for it.
    """

    def create_collection(
        self, collection: str, config: CollectionConfig | None = None, *, timeout_seconds: float | None = None
    ) -> Collection:
        """Makes a collection.

        Raises:
            CollectionExists: there is one of that name.
            InvalidArgument: the name (1 to 64 of a-z, 0-9, "_" and "-") or a setting is wrong.
            ModelNotFound: the server has not loaded the embedder or the reranker.
        """
        return self._unary(collection_calls.create_collection(collection, config), timeout_seconds)

    def get_collection(self, collection: str, *, timeout_seconds: float | None = None) -> Collection:
        """Returns a collection, its settings and its size.

        Raises:
            CollectionNotFound: there is none of that name.
        """
        return self._unary(collection_calls.get_collection(collection), timeout_seconds)

    def list_collections(self, *, page_size: int = 100, timeout_seconds: float | None = None) -> Pages[Collection]:
        """Collections by name; the timeout is one page's."""
        return Pages(lambda token: self._unary(collection_calls.list_collections(page_size, token), timeout_seconds))

    def update_collection(
        self,
        collection: str,
        search_defaults: SearchDefaults,
        *,
        update_mask: Iterable[str] = (),
        etag: str = "",
        timeout_seconds: float | None = None,
    ) -> Collection:
        """Changes the presets of a collection's searches; what is unset goes back to the server's defaults.

        Args:
            collection: its name.
            search_defaults: the new presets.
            update_mask: what changes, as in "search_defaults.rerank.weight"; all of the presets when empty.
            etag: the etag of the ``Collection`` that you changed; fails if it changed since; "" skips the check.
            timeout_seconds: deadline of the call; the client's by default.

        Raises:
            CollectionNotFound: there is none of that name.
            InvalidArgument: a setting is out of its range, or the mask names an unknown field.
            EtagMismatch: the collection's settings changed since the etag was read.
        """
        call = collection_calls.update_collection(collection, search_defaults, update_mask, etag)
        return self._unary(call, timeout_seconds)

    def delete_collection(self, collection: str, *, timeout_seconds: float | None = None) -> None:
        """Removes a collection and all its documents; there is no undo.

        Raises:
            CollectionNotFound: there is none of that name.
        """
        self._unary(collection_calls.delete_collection(collection), timeout_seconds)

    def search(
        self,
        collection: str,
        text: str | None = None,
        *,
        vector: Vector | None = None,
        limit: int = 10,
        offset: int = 0,
        filter: Filter | None = None,
        mode: RetrievalMode | None = None,
        instruction: str | None = None,
        rerank: bool | Rerank | Sequence[RerankStage] | None = None,
        candidates: Candidates | None = None,
        fusion: Fusion | None = None,
        include: Include | None = None,
        min_score: float | None = None,
        min_sequence: int | None = None,
        explain: bool = False,
        explain_texts: bool = False,
        generation: int = 0,
        timeout_seconds: float | None = None,
    ) -> SearchResult:
        """Retrieves, then reranks, in one call.

        Args:
            collection: where to search.
            text: what to search for; a text, a vector, or both.
            vector: embedding of the query, shape (dimension,); replaces that of the text in the dense stage.
            limit: hits to return, 1 to 1,000 together with ``offset``; 10 when 0.
            offset: hits to skip.
            filter: only documents that pass are considered; made with ``Field``.
            mode: "hybrid", "dense" or "lexical"; hybrid where there is a text.
            instruction: task for embedders that take one; the collection's by default.
            rerank: whether to rerank, or how, or in which stages; the collection's settings by default.
            candidates: how many documents each index gives.
            fusion: how the two rankings become one.
            include: what to return of each document; text and metadata by default.
            min_score: leave out hits with a lower final score, 0 to 1.
            min_sequence: answer from a state that includes this commit (read your writes); waits for it.
            explain: return what each stage did with every candidate, as the result's ``explanation``.
            explain_texts: explain, with the exact texts that the models read; an API key needs the scope admin for it.
            generation: number of the generation to search, as a canary; the one that serves when 0.
            timeout_seconds: deadline of the call; the client's by default.

        Raises:
            InvalidArgument: nothing to search for, or a value out of its range; ``field`` names it.
            InvalidFilter: the filter is too deep or too large.
            InvalidVector: the vector does not have the collection's dimension.
            CollectionNotFound: there is none of that name.
            ModelMismatch: the server's embedder is not the one the vectors were made with.
            SequenceNotReached: the commit asked for did not come in time.
            GenerationNotFound: the collection has no generation of that number.
            PermissionDenied: the key may not see the texts that models read.
        """
        query = search_calls.SearchQuery(
            collection=collection,
            text=text,
            vector=vector,
            limit=limit,
            offset=offset,
            filter=filter,
            mode=mode,
            instruction=instruction,
            rerank=rerank,
            candidates=candidates,
            fusion=fusion,
            include=include,
            min_score=min_score,
            min_sequence=min_sequence,
            explain=explain,
            explain_texts=explain_texts,
            generation=generation,
        )
        return self._unary(search_calls.search(query), timeout_seconds)

    def batch_search(
        self, queries: Iterable[search_calls.SearchQuery], *, timeout_seconds: float | None = None
    ) -> BatchResults:
        """Runs 1 to 100 searches in one call; each succeeds or fails alone.

        Returns, for each query in order, its result or the error that ``search`` would have raised.
        """
        return self._unary(search_calls.batch_search(queries), timeout_seconds)

    def get(
        self,
        collection: str,
        ids: Iterable[str],
        *,
        include: Include | None = None,
        timeout_seconds: float | None = None,
    ) -> FoundDocuments:
        """Documents by their 1 to 1,000 ids, in that order; None where there is none.

        Raises:
            CollectionNotFound: there is none of that name.
        """
        return self._unary(document_calls.get(collection, ids, include), timeout_seconds)

    def delete(
        self,
        collection: str,
        ids: Iterable[str] | None = None,
        *,
        filter: Filter | None = None,
        timeout_seconds: float | None = None,
    ) -> DeleteResult:
        """Deletes documents by 1 to 10,000 ids, or those that pass a filter; durable when it returns.

        Raises:
            CollectionNotFound: there is none of that name.
            InvalidArgument: neither or both of ``ids`` and ``filter`` were given.
        """
        return self._unary(document_calls.delete(collection, ids, filter), timeout_seconds)

    def list(
        self,
        collection: str,
        *,
        filter: Filter | None = None,
        include: Include | None = None,
        page_size: int = 100,
        timeout_seconds: float | None = None,
    ) -> Pages[StoredDocument]:
        """Documents in the order of their last change; the timeout is one page's.

        Raises:
            CollectionNotFound: there is none of that name; raised while iterating, like every error.
        """
        return Pages(
            lambda token: self._unary(
                document_calls.list_documents(collection, filter, include, page_size, token), timeout_seconds
            )
        )

    def count(self, collection: str, *, filter: Filter | None = None, timeout_seconds: float | None = None) -> int:
        """Number of documents, or of those that pass a filter.

        Raises:
            CollectionNotFound: there is none of that name.
        """
        return self._unary(document_calls.count(collection, filter), timeout_seconds)

    def ingest(
        self,
        collection: str,
        operations: Operations,
        *,
        stream: str | None = None,
        resume: bool = False,
        checkpoint: str | PathLike[str] | None = None,
        dry_run: bool = False,
        progress: Callable[[IngestSummary], None] | None = None,
        reconnect_seconds: float = 300.0,
    ) -> Ingest:
        """Puts and deletes documents; goes on by itself across broken connections and restarts of the server.

        Nothing is sent until the run is used: iterate over it for the acks, or call ``finish()``.

        Args:
            collection: where to put them; it must exist.
            operations: documents (or mappings with the same keys) and deletions, read as the server takes them,
                in the calling thread; any length.
            stream: name of the stream, 1 to 128 bytes, at most one run at a time; a random one by default. With a name
                used before, the stream continues after its last position.
            resume: with ``stream``: the operations are all that were ever sent under the name, from the first; those
                the server has are skipped.
            checkpoint: file that keeps the place, so that the same call in another process goes on where this one was
                killed; gone when the run is complete. ``operations`` must then be the same, from the start.
            dry_run: validate and estimate; write nothing.
            progress: called with the summary after each batch of acks, in the calling thread.
            reconnect_seconds: how long the server may be away, without one ack, before the run gives up.

        Raises: nothing here; see ``Ingest``.
        """
        options = IngestOptions(
            collection=collection,
            stream=stream,
            resume=resume,
            checkpoint=checkpoint,
            dry_run=dry_run,
            progress=progress,
            reconnect_seconds=reconnect_seconds,
        )
        return Ingest(self._connection, self._channel.grpc, operations, options)
