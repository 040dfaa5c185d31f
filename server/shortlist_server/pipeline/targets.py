"""The generations that a window of writes is for, and the passages that a document gets in each.

Pure functions of the store's list of generations, which is in memory; any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from shortlist_server.domain import NO_MODEL, Chunking, Generation, GenerationState, NewPassage, OverflowPolicy
from shortlist_server.errors import DocumentTooLarge, InvalidArgument, ShortlistError
from shortlist_server.inference.base import CutText, EmbedderService, ModelCatalog, PassageEmbedding
from shortlist_server.inference.services import shorten
from shortlist_server.pipeline.models import find_embedder
from shortlist_server.storage.base import CollectionStore


class Work(NamedTuple):
    """The work that generations with the same passages share; it is done once for all of them."""

    embedder: EmbedderService
    chunking: Chunking
    overflow: OverflowPolicy

    def cut(self, title: str, text: str, max_document_tokens: int) -> CutText:
        """Cuts a document. Blocking.

        Raises:
            DocumentTooLarge: it has too many tokens, or does not fit one passage and the policy is ERROR.
        """
        cut = self.embedder.cut(title, text, self.chunking, self.overflow)
        tokens = sum(passage.tokens for passage in cut.passages)
        if tokens > max_document_tokens:
            raise DocumentTooLarge(
                f"the document has {tokens} tokens in {len(cut.passages)} passages, but may have at most "
                f"{max_document_tokens}: split it",
                field="document.text",
                metadata={"limit": str(max_document_tokens)},
            )
        return cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A generation that takes documents.

    Attributes:
        work: how it makes passages; None where clients make its vectors.
        takes_vectors: whether clients' vectors belong to it.
    """

    number: int
    state: GenerationState
    dimension: int
    work: Work | None
    takes_vectors: bool

    @property
    def serves(self) -> bool:
        """Whether searches use it, so that no document may lack it."""
        return self.state is GenerationState.SERVING


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """The generations that take documents now.

    Attributes:
        serving: the one that serves.
        others: the others that exist (being built, former) and whose models are loaded.
        missing: the numbers of those whose models are not loaded, each with the error.
    """

    serving: Target
    others: Sequence[Target]
    missing: Sequence[tuple[int, ShortlistError]]

    @property
    def all(self) -> Sequence[Target]:
        """All of them, the serving one first."""
        return (self.serving, *self.others)

    @property
    def vector_owner(self) -> Target:
        """The one that clients' vectors are for: the one without an embedder if there is one, else the serving one."""
        return next(target for target in self.all if target.takes_vectors)


def targets(collection: CollectionStore, models: ModelCatalog) -> Targets:
    """The generations that take documents now.

    Raises:
        ModelNotFound, ModelMismatch: the model of the serving generation is not loaded.
    """
    live = [one for one in collection.generations() if one.state is not GenerationState.DROPPING and not one.problem]
    live.sort(key=lambda one: one.state is not GenerationState.SERVING)
    owner = next((one.number for one in live if one.config.embedder == NO_MODEL), live[0].number)
    serving = target_of(collection, live[0], models, takes_vectors=live[0].number == owner)
    others, missing = [], []
    for one in live[1:]:
        try:
            others.append(target_of(collection, one, models, takes_vectors=one.number == owner))
        except ShortlistError as error:
            missing.append((one.number, error))
    return Targets(serving=serving, others=others, missing=missing)


def target_of(
    collection: CollectionStore, generation: Generation, models: ModelCatalog, *, takes_vectors: bool = False
) -> Target:
    """One generation as a target.

    Raises:
        ModelNotFound, ModelMismatch: its model is not loaded.
    """
    config = generation.config
    work = None
    if config.embedder != NO_MODEL:
        embedder = find_embedder(collection.name, config, models)
        work = Work(embedder, config.chunking, collection.config.overflow)
    return Target(
        number=generation.number,
        state=generation.state,
        dimension=config.dimension,
        work=work,
        takes_vectors=takes_vectors,
    )


def new_passages(cut: CutText, embeddings: Sequence[PassageEmbedding], dimension: int) -> list[NewPassage]:
    """The passages of a document in a generation of that dimension, from their embeddings in the same order."""
    return [
        NewPassage(
            start=text.start,
            end=text.end,
            vector=shorten(embedding.vector, dimension),
            tokens=embedding.tokens,
            token_vectors=embedding.token_vectors,
        )
        for text, embedding in zip(cut.passages, embeddings, strict=True)
    ]


def refuses(error: ShortlistError) -> bool:
    """Whether a generation refuses the document for good. Otherwise its model failed, and a retry may succeed."""
    return isinstance(error, InvalidArgument)
