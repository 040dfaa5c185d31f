"""The interfaces of models, and the values that they take and give.

Engines (``Embedder``, ``Reranker``) block and are thread-safe. Services (``services.py``) wrap them to queue, batch and
prioritise work, and the pipeline calls the services. No torch type crosses this file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shortlist_server.domain import Chunking, Deadline, OverflowPolicy, Vector

NO_DEADLINE = Deadline(math.inf)
"""For work without a deadline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderInfo:
    """What a loaded embedder is.

    Attributes:
        name: its name in the settings.
        revision: hex digest over weights, tokenizer, prompts and pooling, but not the number format. Machines of one
            revision may compute in different formats, whose vectors have a mean cosine of at least
            ``agreement.MIN_COSINE`` to those of float32.
        dimension: size of its full vectors.
        min_dimension: smallest size its vectors may be cut to (MRL); ``dimension`` if they may not be cut.
        max_tokens: its window, special tokens included.
        default_chunking: the passage size that suits it.
        token_vectors: whether it gives token vectors for late interaction.
        takes_instruction: whether queries may carry an instruction.
        query_prompt, passage_prompt: the prompts of queries without an instruction, and of passages; "" for none.
        number_format: what it computes in: int8, float32 or bfloat16.
        number_format_note: why that is not the preferred number format; else "".
        former_revisions: the model's revisions in earlier releases, where the number format was part of them.
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
            length is the token's weight. None if the embedder gives none.
        tokens: tokens that the model read, instruction and special tokens included.
        truncated_tokens: tokens of the query that were cut off.
    """

    vector: Vector
    token_vectors: NDArray[np.float32] | None
    tokens: int
    truncated_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PassageText:
    """A passage to embed: ``document.text[start:end]`` (code points).

    ``content`` is the exact text for the model, with the title in front. ``tokens`` is its length in the model's
    tokens, special tokens included.
    """

    start: int
    end: int
    content: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CutText:
    """A document cut into passages. ``truncated_tokens`` counts tokens that are in no passage (policy TRUNCATE)."""

    passages: Sequence[PassageText]
    truncated_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PassageEmbedding:
    """An embedded passage.

    Attributes:
        vector: shape (dimension,), norm 1.
        token_vectors: packed for late interaction, or None.
        tokens: tokens that the model read.
        truncated_tokens: tokens that were cut off; 0 for a passage that ``cut`` made to fit.
    """

    vector: Vector
    token_vectors: bytes | None
    tokens: int
    truncated_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankerInfo:
    """What a loaded reranker is.

    Attributes:
        revision: digest over weights and tokenizer, but not the number format, as in ``EmbedderInfo``.
        uses_token_vectors: whether it reads ``RerankCandidate.token_vectors`` and ``RerankQuery.token_vectors`` instead
            of texts.
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
    """The query for a reranker; ``instruction`` "" stands for the model's default.

    ``deadline`` is for engines on other machines, as in ``QueryText``.
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
    """What a reranker reads for a candidate: a text, query and special tokens included, or stored token vectors."""

    text: str = ""
    token_vectors: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankScores:
    """Scores of the first ``len(scores)`` candidates, in their order; not of all if time ran out.

    Attributes:
        scores: shape (n,), float32: raw scores; larger is better.
        probabilities: shape (n,), float32 in 0..1, or None.
        truncated_tokens: shape (n,), int32: tokens of each candidate that the model did not read.
        tokens: tokens read in total.
    """

    scores: NDArray[np.float32]
    probabilities: NDArray[np.float32] | None
    truncated_tokens: NDArray[np.int32]
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryText:
    """A query for an engine; ``instruction`` "" stands for the model's default.

    The lanes enforce ``deadline``; engines on other machines pass it on.
    """

    text: str
    instruction: str = ""
    deadline: Deadline = NO_DEADLINE


class Embedder(Protocol):
    """An embedding engine. All methods block. One thread may embed queries while another embeds passages."""

    @property
    def info(self) -> EmbedderInfo:
        """What it is."""

    @property
    def batches_queries(self) -> bool:
        """Whether queries may share a batch; False if that would change their vectors or gain nothing."""

    @property
    def batch_tokens(self) -> int:
        """Size of a padded batch of passages that suits its device, in tokens; 0 for the lane's own size."""

    def cut(self, title: str, text: str, chunking: Chunking, overflow: OverflowPolicy) -> CutText:
        """See ``EmbedderService.cut``."""

    def embed_queries(self, queries: Sequence[QueryText]) -> Sequence[QueryEmbedding]:
        """Embeds queries as one batch: full vectors, and token vectors if it has any. An exception fails the batch."""

    def render_query(self, query: QueryText) -> str:
        """The text that the model reads in ``embed_queries``: with prompt and special tokens, cut to fit."""

    def embed_passages(self, contents: Sequence[str], *, token_vectors: bool) -> Sequence[PassageEmbedding | Exception]:
        """Embeds passage contents as one batch, with full vectors. An exception that is raised fails the batch."""


MayContinue = Callable[[float], bool]
"""A reranker asks it before every batch, with the seconds that the batch should take. On False it returns the scores
that it has. It may ask beforehand for more seconds, to learn whether there is time to spare."""


class Reranker(Protocol):
    """A reranking engine. Its methods block. One thread at a time calls ``score``; any thread calls ``render``."""

    @property
    def info(self) -> RerankerInfo:
        """What it is."""

    def score(
        self, query: RerankQuery, candidates: Sequence[RerankCandidate], may_continue: MayContinue
    ) -> RerankScores:
        """Scores candidates in order until done or told to stop. An exception fails the request."""

    def render(self, query: RerankQuery, candidates: Sequence[RerankCandidate]) -> Sequence[RenderedCandidate]:
        """For each candidate: what the model reads in ``score``, cut to fit."""


class EmbedderService(Protocol):
    """A loaded embedder behind its lanes. Coroutines run on the server's event loop."""

    @property
    def info(self) -> EmbedderInfo:
        """What it is."""

    def cut(self, title: str, text: str, chunking: Chunking, overflow: OverflowPolicy) -> CutText:
        """Cuts a document into passages with the model's own tokenizer. Blocks, CPU-bound; any thread.

        Raises:
            DocumentTooLarge: it does not fit one passage and the policy is ERROR.
        """

    def render_query(self, text: str, *, instruction: str, deadline: Deadline = NO_DEADLINE) -> str:
        """The text that the model reads for a query; see ``Embedder.render_query``. Blocks; any thread."""

    async def embed_query(
        self, text: str, *, instruction: str, dimension: int, deadline: Deadline, fresh: bool = False
    ) -> QueryEmbedding:
        """Embeds a query in the query lane, or takes it from the cache unless it has to be ``fresh``.

        Raises:
            DeadlineExceeded: it passed while the query waited.
            Overloaded: the queue is full.
            InferenceFailed: the model failed on this text.
        """

    async def embed_passages(
        self, passages: Sequence[PassageText], *, dimension: int, token_vectors: bool, background: bool = False
    ) -> Sequence[PassageEmbedding | Exception]:
        """Embeds passages in the ingest lane. An ``InferenceFailed`` stands in the place of an item that failed.

        Args:
            background: let other work of the lane, and of other embedders' ingest lanes, go first.

        Raises:
            Overloaded: the queue is full.
            Unavailable: the model is being unloaded.
        """


class RerankerService(Protocol):
    """A loaded reranker behind its lane."""

    @property
    def info(self) -> RerankerInfo:
        """What it is."""

    async def rerank(
        self, query: RerankQuery, candidates: Sequence[RerankCandidate], deadline: Deadline
    ) -> RerankScores:
        """Scores candidates in order until done or until the deadline.

        Raises:
            DeadlineExceeded: it passed before a single candidate was scored.
            Overloaded: the queue is full.
            InferenceFailed: the model failed.
        """

    def render(self, query: RerankQuery, candidates: Sequence[RerankCandidate]) -> Sequence[RenderedCandidate]:
        """For each candidate: what the model reads. Blocks; any thread."""


class ModelCatalog(Protocol):
    """The models that a server has loaded: those it was started with, and those published since."""

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

    def embedders(self) -> Sequence[EmbedderService]:
        """All embedders, the default first, and of several revisions under one name the current one first."""

    def embedder(self, name: str, revision: str = "") -> EmbedderService:
        """The embedder of that name: in the revision given (a former revision counts as the same), else the current.

        Raises:
            ModelNotFound: no embedder of that name is loaded.
            ModelMismatch: none of that name is loaded in this revision.
        """

    def reranker(self, name: str) -> RerankerService:
        """The reranker of that name. Raises ``ModelNotFound``."""

    def close(self) -> None:
        """Fails queued work with ``Unavailable`` and frees the models. Idempotent."""
