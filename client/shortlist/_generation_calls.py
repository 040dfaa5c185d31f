"""The calls about generations, without a connection; see ``_calls``. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from shortlist import _generation_convert as convert
from shortlist import _generation_types as generations
from shortlist._admin_calls import judged_queries
from shortlist._calls import COLLECTIONS, Call
from shortlist._collection_types import Chunking
from shortlist._convert import chunking_to_proto
from shortlist._errors import InvalidArgument
from shortlist._metadata import checked_integer, checked_text
from shortlist._operation_calls import started
from shortlist._operation_types import Operation
from shortlist.v1 import collection_service_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class NewGeneration:
    """What a reindex builds; the fields mean what the parameters of ``reindex`` mean."""

    embedder: str = ""
    dimension: int = 0
    chunking: Chunking | None = None
    query_instruction: str | None = None


def estimate_reindex(collection: str, new: NewGeneration, *, force: bool) -> Call[generations.ReindexEstimate]:
    """Says what a reindex will need."""
    request = _start_request(collection, new, force=force)
    request.validate_only = True
    return _start(request, lambda response: convert.reindex_estimate(response.estimate))


def start_reindex(collection: str, new: NewGeneration, *, force: bool) -> Call[Operation]:
    """Starts a reindex."""
    request = _start_request(collection, new, force=force)
    return _start(request, started)


def _start_request(collection: str, new: NewGeneration, *, force: bool) -> pb.StartReindexRequest:
    return pb.StartReindexRequest(
        collection=checked_text(collection, "collection"),
        embedder=checked_text(new.embedder or "", "embedder"),
        dimension=checked_integer(new.dimension, "dimension"),
        chunking=None if new.chunking is None else chunking_to_proto(new.chunking, "chunking"),
        query_instruction=None
        if new.query_instruction is None
        else checked_text(new.query_instruction, "query_instruction"),
        force=force,
    )


def _start(request: pb.StartReindexRequest, read: Callable[[Any], Any]) -> Call[Any]:
    # No deadline, because the server embeds a sample of the documents first.
    return Call(f"{COLLECTIONS}/StartReindex", request, pb.StartReindexResponse, read, deadline=False)


def list_generations(collection: str) -> Call[list[generations.Generation]]:
    """Lists the generations of a collection."""
    return Call(
        f"{COLLECTIONS}/ListGenerations",
        pb.ListGenerationsRequest(collection=checked_text(collection, "collection")),
        pb.ListGenerationsResponse,
        lambda response: list(map(convert.generation, response.generations)),
    )


def compare_generations(
    collection: str,
    generation: int,
    queries: Mapping[str, str] | None,
    qrels: Mapping[str, Mapping[str, int]] | None,
    recent_queries: int,
) -> Call[Operation]:
    """Starts to compare two generations, by judged queries or by recent ones."""
    if (queries is None) != (qrels is None):
        raise InvalidArgument("queries and qrels go together", field="qrels" if qrels is None else "queries")
    if queries is not None and not queries:
        # To the server, no queries mean recent ones.
        raise InvalidArgument("is empty; leave it out to compare by recent queries", field="queries")
    request = pb.CompareGenerationsRequest(
        collection=checked_text(collection, "collection"),
        generation=checked_integer(generation, "generation"),
        queries=judged_queries(queries or {}, qrels or {}),
        recent_queries=checked_integer(recent_queries, "recent_queries"),
    )
    return Call(
        f"{COLLECTIONS}/CompareGenerations",
        request,
        pb.CompareGenerationsResponse,
        started,
    )


def switch_generation(collection: str, generation: int) -> Call[generations.GenerationSwitch]:
    """Lets a generation serve."""
    request = pb.SwitchGenerationRequest(
        collection=checked_text(collection, "collection"),
        generation=checked_integer(generation, "generation"),
    )
    return Call(f"{COLLECTIONS}/SwitchGeneration", request, pb.SwitchGenerationResponse, _switched)


def roll_back_generation(collection: str) -> Call[generations.GenerationSwitch]:
    """Lets the former generation serve again."""
    request = pb.RollBackGenerationRequest(collection=checked_text(collection, "collection"))
    return Call(f"{COLLECTIONS}/RollBackGeneration", request, pb.RollBackGenerationResponse, _switched)


def _switched(response: pb.SwitchGenerationResponse | pb.RollBackGenerationResponse) -> generations.GenerationSwitch:
    return generations.GenerationSwitch(
        serving=convert.generation(response.serving), former=convert.generation(response.former)
    )


def drop_generation(collection: str, generation: int) -> Call[None]:
    """Drops a generation."""
    return Call(
        f"{COLLECTIONS}/DropGeneration",
        pb.DropGenerationRequest(
            collection=checked_text(collection, "collection"),
            generation=checked_integer(generation, "generation"),
        ),
        pb.DropGenerationResponse,
        lambda response: None,
    )
