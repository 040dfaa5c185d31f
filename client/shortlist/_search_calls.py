"""The calls that search, without a connection; see ``_calls``. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shortlist import _collection_types as collections
from shortlist import _convert as convert
from shortlist import _document_types as documents
from shortlist import _search_types as searches
from shortlist._calls import Call, filter_to_proto
from shortlist._errors import InvalidArgument, ShortlistError
from shortlist._filters import Filter
from shortlist._metadata import checked_integer, checked_text
from shortlist._search_convert import search_result
from shortlist._status import from_item_error
from shortlist.v1 import search_pb2
from shortlist.v1 import search_service_pb2 as search_service

SEARCH = "shortlist.v1.SearchService"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchQuery:
    """One search of a ``batch_search``; the fields mean what the parameters of ``search`` mean."""

    collection: str
    text: str | None = None
    vector: documents.Vector | None = None
    limit: int = 10
    offset: int = 0
    filter: Filter | None = None
    mode: collections.RetrievalMode | None = None
    instruction: str | None = None
    rerank: bool | collections.Rerank | Sequence[collections.RerankStage] | None = None
    candidates: collections.Candidates | None = None
    fusion: collections.Fusion | None = None
    include: documents.Include | None = None
    min_score: float | None = None
    min_sequence: int | None = None
    explain: bool = False
    explain_texts: bool = False
    generation: int = 0


def search(query: SearchQuery) -> Call[searches.SearchResult]:
    """Runs one search."""
    return Call(
        f"{SEARCH}/Search",
        _search_request(query),
        search_service.SearchResponse,
        search_result,
    )


def batch_search(queries: Iterable[SearchQuery]) -> Call[list[searches.SearchResult | ShortlistError]]:
    """Runs several searches; each succeeds or fails alone."""
    request = search_service.BatchSearchRequest(requests=map(_search_request, queries))
    return Call(f"{SEARCH}/BatchSearch", request, search_service.BatchSearchResponse, _batch_results)


def _batch_results(
    response: search_service.BatchSearchResponse,
) -> list[searches.SearchResult | ShortlistError]:
    return [
        from_item_error(result.error) if result.WhichOneof("result") == "error" else search_result(result.response)
        for result in response.results
    ]


def _rerank(given: bool | collections.Rerank | Sequence[collections.RerankStage] | None) -> collections.Rerank | None:
    if given is None or isinstance(given, collections.Rerank):
        return given
    if isinstance(given, bool):
        return collections.Rerank(enabled=given)
    if isinstance(given, collections.RerankStage):
        raise InvalidArgument("takes a Rerank, a list of stages, or a bool, not one stage alone", field="rerank")
    return collections.Rerank(stages=tuple(given))


def _search_request(query: SearchQuery) -> search_service.SearchRequest:
    rerank = _rerank(query.rerank)
    proto = search_pb2.Query()
    if query.text is not None:
        proto.text = checked_text(query.text, "query.text")
    if query.vector is not None:
        proto.vector.extend(convert.checked_vector(query.vector, "query.vector"))
    return search_service.SearchRequest(
        collection=checked_text(query.collection, "collection"),
        query=proto,
        limit=checked_integer(query.limit, "limit"),
        offset=checked_integer(query.offset, "offset"),
        instruction=checked_text(query.instruction or "", "instruction"),
        mode=convert.mode_to_proto(query.mode),
        candidates=None if query.candidates is None else convert.candidates_to_proto(query.candidates),
        fusion=None if query.fusion is None else convert.fusion_to_proto(query.fusion),
        filter=filter_to_proto(query.filter),
        rerank=None if rerank is None else convert.rerank_to_proto(rerank),
        include=convert.include_to_proto(query.include),
        min_score=query.min_score,
        min_sequence=checked_integer(query.min_sequence, "min_sequence", 64),
        explain=query.explain,
        explain_texts=query.explain_texts,
        generation=checked_integer(query.generation, "generation"),
    )
