"""The steps of a build: read some documents, cut them, embed them, and make the rows.

``read`` blocks; ``embed`` is a coroutine on the server's event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from shortlist_server.domain import BuiltDocument, DeadLetter, StoredDocument
from shortlist_server.errors import InferenceFailed, InvalidArgument, Overloaded, ShortlistError, Unavailable
from shortlist_server.inference.base import CutText, PassageEmbedding, PassageText
from shortlist_server.pipeline.targets import Target, Work, new_passages, refuses
from shortlist_server.storage.base import CollectionStore

PORTION_BYTES = 64 * 1024
"""Text of one portion: about as many tokens as a window of ingest has. A larger document is a portion of its own."""

PORTION_DOCUMENTS = 1024

PROBE_SECONDS = 60.0

_RETRY_SECONDS = 0.1
_PROBE = PassageText(start=0, end=0, content="a probe of the model", tokens=8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Portion:
    """Documents that a generation lacks, as cut for it.

    Attributes:
        cuts: for each document its passages, or why the generation refuses it.
        cursor: the cursor of the generation once it has them.
    """

    documents: Sequence[StoredDocument]
    cuts: Sequence[CutText | ShortlistError]
    cursor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A portion that is ready to be written."""

    documents: Sequence[BuiltDocument]
    failures: Sequence[DeadLetter]
    tokens: int
    cursor: int


def stream_of(number: int) -> str:
    """The stream of the dead letters of a generation's build."""
    return f"reindex/{number}"


def read(collection: CollectionStore, target: Target, after: int | None, max_document_tokens: int) -> Portion:
    """Reads and cuts the next documents; none where nothing is left. Blocking.

    Args:
        after: the cursor of the portion before; None to begin where the generation is.

    Raises:
        ShortlistError: the model cannot cut now; another attempt may succeed.
    """
    documents, cursor = collection.documents_to_build(target.number, PORTION_DOCUMENTS, PORTION_BYTES, after=after)
    cuts: list[CutText | ShortlistError] = []
    for document in documents:
        try:
            cuts.append(_cut(document, target.work, max_document_tokens))
        except ShortlistError as error:
            if not refuses(error):
                raise
            cuts.append(error)
    return Portion(documents=documents, cuts=cuts, cursor=cursor)


def _cut(document: StoredDocument, work: Work | None, max_document_tokens: int) -> CutText:
    if work is None:
        return CutText(passages=(), truncated_tokens=0)
    if not document.title and not document.text and document.passage_count:
        raise InvalidArgument(
            "the document has no text to embed; its vector came from a client, and belongs to another model"
        )
    return work.cut(document.title, document.text, max_document_tokens)


async def embed(portion: Portion, target: Target) -> Built:
    """Embeds a portion behind all other work.

    A document that the model cannot read, while it reads others, is refused.

    Raises:
        ShortlistError: the model fails.
    """
    built, failures, tokens = [], [], 0
    embeddings = iter(await _embeddings(portion, target))
    failed = False
    for document, cut in zip(portion.documents, portion.cuts, strict=True):
        error = cut if isinstance(cut, ShortlistError) else None
        passages: Sequence[PassageEmbedding] = ()
        if not isinstance(cut, ShortlistError):
            own = [next(embeddings) for _ in cut.passages]
            passages = [one for one in own if isinstance(one, PassageEmbedding)]
            error = next((_as_error(one) for one in own if isinstance(one, Exception)), None)
            failed = failed or error is not None
        if error is None and not isinstance(cut, ShortlistError):
            built.append(BuiltDocument(key=document.key, passages=new_passages(cut, passages, target.dimension)))
            tokens += sum(one.tokens for one in passages)
        elif error is not None:
            if not refuses(error) and not isinstance(error, InferenceFailed):
                raise error
            built.append(BuiltDocument(key=document.key, passages=()))
            failures.append(_dead_letter(document, error, target.number))
    if failed and tokens == 0:
        await probe(target)  # Not one document worked: is it the documents, or the model?
    return Built(documents=built, failures=failures, tokens=tokens, cursor=portion.cursor)


async def probe(target: Target) -> None:
    """Raises a ``ShortlistError`` unless the generation's model works, and answers within ``PROBE_SECONDS``."""
    if target.work is not None:
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                # Not behind all other work, which would say nothing about the model.
                (result,) = await _patiently(target.work, [_PROBE], target.dimension, background=False)
        except TimeoutError as error:
            raise Unavailable(f"the model did not answer within {PROBE_SECONDS:g} s") from error
        if isinstance(result, Exception):
            raise _as_error(result)


async def _embeddings(portion: Portion, target: Target) -> Sequence[PassageEmbedding | Exception]:
    passages = [one for cut in portion.cuts if isinstance(cut, CutText) for one in cut.passages]
    if target.work is None or not passages:
        return ()
    return await _patiently(target.work, passages, target.dimension)


async def _patiently(
    work: Work, passages: Sequence[PassageText], dimension: int, *, background: bool = True
) -> Sequence[PassageEmbedding | Exception]:
    while True:
        try:
            return await work.embedder.embed_passages(
                passages, dimension=dimension, token_vectors=work.embedder.info.token_vectors, background=background
            )
        except Overloaded as error:
            await asyncio.sleep(error.retry_after_seconds or _RETRY_SECONDS)


def _dead_letter(document: StoredDocument, error: ShortlistError, number: int) -> DeadLetter:
    return DeadLetter(
        id=document.id,
        stream=stream_of(number),
        position=document.key,
        time_seconds=time.time(),
        reason=error.reason,
        message=error.message,
        field=error.field,
        retryable=error.retryable,
        document=None,
    )


def _as_error(error: Exception) -> ShortlistError:
    return error if isinstance(error, ShortlistError) else InferenceFailed(f"the model failed: {error}")
