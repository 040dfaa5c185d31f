"""Many searches of the served collection, in batches, with the answers kept on disk.

A search asks for the first stage alone, so that its hits have all scores from which negatives are chosen: a hybrid
search knows the exact cosine of every candidate. An answer that was kept is not asked for again: a killed run goes on
where it was. Call from one thread; batches run in threads of their own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from shortlist import Client, Hit, Include, Overloaded, SearchQuery, SearchResult, ShortlistError
from shortlist_adapt.folder import RunFolder, fingerprint
from shortlist_adapt.progress import Progress

T = TypeVar("T")

BATCH = 16
"""Searches in a call."""

DEPTH = 100
"""Hits of a search, unless a step is set otherwise. Steps that ask for as many share their answers."""

CALLS = 2
"""Calls at once; the server divides its cores among the searches of one."""

RETRY_SECONDS = 0.5
MOST_RETRIES = 60

SEARCHES_PER_SECOND = 40.0
"""For estimates: what two cores answer, measured with MiniLM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A document that a search found.

    Attributes:
        id: the document.
        score: the fused score, 0 to 1.
        cosine: exact cosine of query and best passage; None where the stage did not score it.
        dense_rank, lexical_rank: from 1 in each stage's ranking; 0 where the document is not in it.
        passages: the passages that matched, best first, as (start, end) in the document's text, in code points.
    """

    id: str
    score: float
    cosine: float | None
    dense_rank: int
    lexical_rank: int
    passages: tuple[tuple[int, int], ...] = ()


def answers_path(folder: RunFolder, exported: Mapping[str, Any], limit: int) -> Path:
    """The file of the answers for a collection as it was exported; another state of it has another file."""
    state = {name: exported[name] for name in ("collection", "sequence", "generation", "embedder_revision")}
    return folder.cache / "searches" / f"{fingerprint({**state, 'limit': limit})[:16]}.jsonl"


def kept_texts(path: Path) -> set[str]:
    """The texts whose answers a file of answers has."""
    return {text for text, _ in _kept(path)}


class Searches:
    """The answers of one kind of search of one collection, by the text of the query; kept in a file, not in memory."""

    def __init__(self, client: Client, collection: str, path: Path, *, limit: int = DEPTH) -> None:
        """Reads which answers are kept.

        Args:
            client: a client of the server.
            collection: the collection.
            path: the file of answers, from ``answers_path``; made when missing.
            limit: hits of a search, 1 to 1,000.
        """
        self._client, self._collection, self._path, self._limit = client, collection, path, limit
        self._places: dict[str, int] = dict(_kept(path))

    def ask(self, texts: Sequence[str], progress: Progress) -> None:
        """Searches for those of the texts whose answers are not kept.

        Raises:
            ShortlistError: a search failed. The answers before it are kept.
        """
        missing = [text for text in dict.fromkeys(texts) if text not in self._places]
        if not missing:
            return
        progress.begin("searching", len(missing), "searches")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file, ThreadPoolExecutor(CALLS) as threads:
            # A killed run may have left half a line, which the next answer must not continue.
            file.write(b"\n")
            for asked in _batches(_batches(missing, BATCH), CALLS):
                for batch, answers in zip(asked, threads.map(self._ask, asked), strict=True):
                    for text, found in zip(batch, answers, strict=True):
                        place = file.tell()
                        file.write(_line(text, found))
                        self._places[text] = place
                    progress.advance(len(batch))
                file.flush()

    def __getitem__(self, text: str) -> tuple[Found, ...]:
        """The hits of a text that was asked for, best first; one read of the file."""
        with self._path.open("rb") as file:
            file.seek(self._places[text])
            return tuple(_hit(values) for values in json.loads(file.readline())["hits"])

    def _ask(self, texts: Sequence[str]) -> list[tuple[Found, ...]]:
        waiting = dict(enumerate(texts))
        answers: dict[int, tuple[Found, ...]] = {}
        for attempt in range(MOST_RETRIES + 1):
            pause = 0.0
            for index, result in zip(list(waiting), self._call(list(waiting.values())), strict=True):
                if isinstance(result, SearchResult):
                    answers[index] = tuple(map(_found, result))
                    del waiting[index]
                elif isinstance(result, Overloaded) and attempt < MOST_RETRIES:
                    pause = max(pause, result.retry_after_seconds or RETRY_SECONDS)
                else:
                    raise result
            if not waiting:
                break
            time.sleep(pause)
        return [answers[index] for index in range(len(texts))]

    def _call(self, texts: Sequence[str]) -> Sequence[SearchResult | ShortlistError]:
        try:
            return self._client.batch_search(map(self._query, texts))
        except Overloaded as error:
            return [error] * len(texts)

    def _query(self, text: str) -> SearchQuery:
        return SearchQuery(
            collection=self._collection,
            text=text,
            limit=self._limit,
            rerank=False,
            include=Include(text=False, metadata=False, passages=True),
        )


def _found(hit: Hit) -> Found:
    return Found(
        id=hit.id,
        score=hit.score,
        cosine=None if hit.dense is None else hit.dense.score,
        dense_rank=0 if hit.dense is None else hit.dense.rank,
        lexical_rank=0 if hit.lexical is None else hit.lexical.rank,
        passages=tuple((one.passage.start, one.passage.end) for one in hit.passages),
    )


def _line(text: str, found: Sequence[Found]) -> bytes:
    hits = [[one.id, one.score, one.cosine, one.dense_rank, one.lexical_rank, one.passages] for one in found]
    return (json.dumps({"text": text, "hits": hits}, ensure_ascii=False, separators=(",", ":")) + "\n").encode()


def _hit(values: Sequence[Any]) -> Found:
    id, score, cosine, dense_rank, lexical_rank, passages = values
    return Found(
        id=id,
        score=score,
        cosine=cosine,
        dense_rank=dense_rank,
        lexical_rank=lexical_rank,
        passages=tuple((start, end) for start, end in passages),
    )


def _kept(path: Path) -> Iterator[tuple[str, int]]:
    """The texts of the file with the places of their lines, without what a kill left of the last one."""
    if not path.exists():
        return
    place = 0
    with path.open("rb") as file:
        for line in file:
            try:
                row = json.loads(line)
                list(map(_hit, row["hits"]))
                yield row["text"], place
            except (ValueError, KeyError, TypeError):
                pass
            place += len(line)


def _batches(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
