"""Generations of a collection: the parts that depend on its embedder."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from shortlist_server.domain.collections import LATE_INTERACTION, NO_MODEL, Chunking, CollectionConfig
from shortlist_server.domain.documents import NewPassage


class GenerationState(enum.Enum):
    """The state of a generation."""

    BUILDING = "building"
    SERVING = "serving"
    FORMER = "former"
    DROPPING = "dropping"


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """The settings that make the passages and vectors of a generation.

    Attributes:
        embedder: name of the embedder; "none" where clients supply all vectors.
        embedder_revision: revision of the model; "" with embedder "none".
        dimension: size of every vector.
        chunking: size of passages.
        query_instruction: the instruction put before queries; "" for the model's default.
        number_format: what the embedder computed in when the generation was made: int8, float32 or bfloat16; "" where
            that is not known.
    """

    embedder: str
    embedder_revision: str
    dimension: int
    chunking: Chunking
    query_instruction: str = ""
    number_format: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildProgress:
    """The progress of a generation's build.

    Attributes:
        done_documents: documents up to the cursor, those with passages from writes included.
        total_documents: live documents of the collection.
        done_tokens: tokens that the build has embedded.
        failed_documents: documents that became dead letters of the build.
        paused: a sentence that says why the build is paused; "" while it may run.
        paused_by_user: whether a caller paused it; else a failure did.
        complete: whether every document is in the generation, or refused by it.
    """

    done_documents: int
    total_documents: int
    done_tokens: int
    failed_documents: int
    paused: str
    paused_by_user: bool
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A generation at one moment.

    Attributes:
        number: identifies it in the collection; from 1, increasing, never reused.
        serve_time_seconds: when it last began to serve, in seconds since the epoch; 0 if it never did.
        disk_bytes: its segments, and an estimate for its rows.
        problem: a sentence that says why it cannot be used; empty where it can. Drop it, and build it again.
    """

    number: int
    state: GenerationState
    config: GenerationConfig
    create_time_seconds: float
    serve_time_seconds: float
    passage_count: int
    disk_bytes: int
    progress: BuildProgress
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltDocument:
    """A stored document's passages for a generation, made by its build; none if the generation refused the document."""

    key: int
    passages: Sequence[NewPassage]


def models_of(config: CollectionConfig, generations: Sequence[Generation]) -> set[str]:
    """Names of the models that a collection needs: of its generations, and those that its settings name."""
    live = [one.config.embedder for one in generations if one.state is not GenerationState.DROPPING]
    defaults = config.search_defaults
    stages = [stage.model for stage in defaults.rerank_stages or ()]
    named = {config.embedder, config.reranker, defaults.reranker, *stages, *live} - {NO_MODEL, LATE_INTERACTION}
    return {model for model in named if model}
