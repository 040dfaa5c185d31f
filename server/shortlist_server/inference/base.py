"""What the rest of the server may ask of models.

Engines (``Embedder``, ``Reranker``) are blocking and thread-safe; they are wrapped by services (``services.py``) that
queue, batch and prioritise work, and those are what the pipeline calls. No torch type crosses this file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shortlist_server.domain import Chunking, Deadline, OverflowPolicy, Vector

NO_MODEL = "none"
"""The embedder name of a collection of client-made vectors, and the reranker name for no second stage."""

NO_DEADLINE = Deadline(math.inf)
"""Of work that nobody waits for by a certain time."""

LATE_INTERACTION = "late-interaction"
"""The reranker that scores the embedder's own token vectors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderInfo:
    """What a loaded embedder is.

    Attributes:
        name: as the server was told to call it.
        revision: hex digest over weights, tokenizer, prompts and pooling. The number format is not part of it:
            machines of one revision may run different ones, whose vectors have a mean cosine of at least
            ``agreement.MIN_COSINE`` to those of float32.
        dimension: size of its full vectors.
        min_dimension: smallest size its vectors may be cut to (MRL); equal to ``dimension`` where they may not.
        max_tokens: its window, special tokens included.
        default_chunking: the passage size that suits it.
        token_vectors: whether it gives token vectors for late interaction.
        takes_instruction: whether queries may carry an instruction.
        query_prompt, passage_prompt: what it puts in front of queries without an instruction, and of passages; "" for
            nothing.
        number_format: what it computes in: int8, float32 or bfloat16.
        number_format_note: why that is not the one that was to be taken; else "".
        former_revisions: what earlier releases, which counted the number format in, called the same model.
    """

    name: str
    revision: str
    dimension: int
    min_dimension: int
    max_tokens: int
    default_chunking: Chunking
    token_vectors: bool
    takes_instruction: bool
    query_prompt: str = ""
    passage_prompt: str = ""
    number_format: str = "float32"
    number_format_note: str = ""
    former_revisions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryEmbedding:
    """An embedded query.

    Attributes:
        vector: shape (dimension,), norm 1.
        token_vectors: shape (n, width), float32: the query's own tokens, without special tokens and prompt. A row's
            length is the token's weight. None when the embedder has none.
        tokens: tokens the model saw, instruction and special tokens included.
        truncated_tokens: tokens of the query that were cut off.
    """

    vector: Vector
    token_vectors: NDArray[np.float32] | None
    tokens: int
    truncated_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PassageText:
    """A passage to embed: ``document.text[start:end]`` (code points).

    ``content`` is the exact text for the model, title in front; ``tokens`` its length in the model's tokens, special
    tokens included.
    """

    start: int
    end: int
    content: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CutText:
    """A document cut into passages. ``truncated_tokens``: tokens of the text in no passage (policy TRUNCATE)."""

    passages: Sequence[PassageText]
    truncated_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PassageEmbedding:
    """An embedded passage.

    Attributes:
        vector: shape (dimension,), norm 1.
        token_vectors: packed for late interaction, or None.
        tokens: tokens the model saw.
        truncated_tokens: tokens that were cut off; none of a passage that was cut to fit.
    """

    vector: Vector
    token_vectors: bytes | None
    tokens: int
    truncated_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankerInfo:
    """What a loaded reranker is.

    Attributes:
        revision: digest over weights and tokenizer; as in ``EmbedderInfo``, the number format is not part of it.
        uses_token_vectors: it reads ``RerankCandidate.token_vectors`` and ``RerankQuery.token_vectors``, not texts.
        default_weight: weight of its score in the final score unless the request says otherwise.
        default_depth: how many documents it reranks unless the request says otherwise.
        number_format, number_format_note: as in ``EmbedderInfo``.
    """

    name: str
    revision: str
    uses_token_vectors: bool
    takes_instruction: bool
    default_weight: float
    default_depth: int
    number_format: str = "float32"
    number_format_note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankQuery:
    """The query as a reranker sees it; ``instruction`` "" for the model's default.

    ``deadline`` is for engines elsewhere, as in ``QueryText``.
    """

    text: str
    instruction: str = ""
    token_vectors: NDArray[np.float32] | None = None
    deadline: Deadline = NO_DEADLINE


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankCandidate:
    """A passage to score: its text with the title in front, or its packed token vectors."""

    text: str = ""
    token_vectors: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedCandidate:
    """What a reranker reads of a candidate: one text, query and special tokens included, or stored token vectors."""

    text: str = ""
    token_vectors: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankScores:
    """Scores of the first ``len(scores)`` candidates, in their order; fewer than asked when time ran out.

    Attributes:
        scores: shape (n,), float32: raw scores, larger is better.
        probabilities: shape (n,), float32 in 0..1, or None.
        truncated_tokens: shape (n,), int32: tokens of each candidate the model did not see.
        tokens: tokens read in all.
    """

    scores: NDArray[np.float32]
    probabilities: NDArray[np.float32] | None
    truncated_tokens: NDArray[np.int32]
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryText:
    """A query for an engine; ``instruction`` "" for the model's default.

    ``deadline``: when its caller is gone, which lanes see to; an engine that asks another machine passes it on.
    """

    text: str
    instruction: str = ""
    deadline: Deadline = NO_DEADLINE


class Embedder(Protocol):
    """An embedding engine. All methods block; one thread may embed queries while another embeds passages."""

    @property
    def info(self) -> EmbedderInfo:
        """What it is."""

    @property
    def batches_queries(self) -> bool:
        """Whether queries share a batch; False where that would change their vectors or gain nothing."""

    @property
    def batch_tokens(self) -> int:
        """Tokens of a padded batch of passages that suit the device it runs on; 0: the lane's own size does."""

    def cut(self, title: str, text: str, chunking: Chunking, overflow: OverflowPolicy) -> CutText:
        """See ``EmbedderService.cut``."""

    def embed_queries(self, queries: Sequence[QueryText]) -> Sequence[QueryEmbedding]:
        """Embeds queries as one batch: full vectors, token vectors where it has them. An exception fails the batch."""

    def render_query(self, query: QueryText) -> str:
        """The text that ``embed_queries`` has the model read: behind its prompt, with special tokens, cut to fit."""

    def embed_passages(self, contents: Sequence[str], *, token_vectors: bool) -> Sequence[PassageEmbedding | Exception]:
        """Embeds the contents of passages as one batch: full vectors. An exception raised fails the batch."""


MayGoOn = Callable[[float], bool]
"""Asked by a reranker before every batch, with the seconds it expects that to take; False: answer what you have."""


class Reranker(Protocol):
    """A reranking engine. Blocking; ``score`` is called by one thread at a time, ``render`` by any."""

    @property
    def info(self) -> RerankerInfo:
        """What it is."""

    def score(self, query: RerankQuery, candidates: Sequence[RerankCandidate], may_go_on: MayGoOn) -> RerankScores:
        """Scores candidates in order until done or told to stop. Any exception fails the request."""

    def render(self, query: RerankQuery, candidates: Sequence[RerankCandidate]) -> Sequence[RenderedCandidate]:
        """For each candidate what ``score`` has the model read, cut to fit."""


class EmbedderService(Protocol):
    """A loaded embedder behind its scheduler. Coroutines run on the server's event loop."""

    @property
    def info(self) -> EmbedderInfo:
        """What it is."""

    def cut(self, title: str, text: str, chunking: Chunking, overflow: OverflowPolicy) -> CutText:
        """Cuts a document into passages by the model's own tokenizer. Blocking, CPU-bound, any thread.

        Raises:
            DocumentTooLarge: it does not fit one passage and the policy is ERROR.
        """

    def render_query(self, text: str, *, instruction: str, deadline: Deadline = NO_DEADLINE) -> str:
        """The text that the model reads for a query; see ``Embedder.render_query``. Blocking, any thread."""

    async def embed_query(self, text: str, *, instruction: str, dimension: int, deadline: Deadline) -> QueryEmbedding:
        """Embeds a query in the query lane.

        Raises:
            DeadlineExceeded: it passed while the query waited.
            Overloaded: the queue is full.
            InferenceFailed: the model failed on this text.
        """

    async def embed_passages(
        self, passages: Sequence[PassageText], *, dimension: int, token_vectors: bool
    ) -> Sequence[PassageEmbedding | Exception]:
        """Embeds passages in the ingest lane; an item that fails is an ``InferenceFailed`` in its place."""


class RerankerService(Protocol):
    """A loaded reranker behind its scheduler."""

    @property
    def info(self) -> RerankerInfo:
        """What it is."""

    async def rerank(
        self, query: RerankQuery, candidates: Sequence[RerankCandidate], deadline: Deadline
    ) -> RerankScores:
        """Scores candidates in order until done or the deadline; scores what it can.

        Raises:
            DeadlineExceeded: it passed before a single candidate was scored.
            Overloaded: the queue is full.
            InferenceFailed: the model failed.
        """

    def render(self, query: RerankQuery, candidates: Sequence[RerankCandidate]) -> Sequence[RenderedCandidate]:
        """For each candidate what the model reads. Blocking, any thread."""


class ModelCatalog(Protocol):
    """The models a server was started with."""

    @property
    def default_embedder(self) -> str:
        """Name of the embedder for collections that name none."""

    @property
    def default_reranker(self) -> str:
        """Name of the reranker for collections that name none."""

    @property
    def embedder_names(self) -> Sequence[str]:
        """Names of all embedders, the default first."""

    @property
    def reranker_names(self) -> Sequence[str]:
        """Names of all rerankers, the default first."""

    def embedder(self, name: str) -> EmbedderService:
        """The embedder of that name. Raises ``ModelNotFound``."""

    def reranker(self, name: str) -> RerankerService:
        """The reranker of that name. Raises ``ModelNotFound``."""

    def close(self) -> None:
        """Fails queued work with ``Unavailable`` and frees the models. Idempotent."""
