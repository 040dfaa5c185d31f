"""The records of a run folder's files, and how they are read and written as JSON Lines.

Files are UTF-8 with one JSON object in each line, keys in the order of the fields. The same records give the same
bytes. Pure functions and small values; any thread.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, Union

from shortlist_adapt.errors import InvalidInput

T = TypeVar("T", "CorpusDocument", "TrainingQuery", "TrainingPair", "Shortlist")

Record = Union["CorpusDocument", "TrainingQuery", "TrainingPair", "Shortlist"]


_TUPLES = ("rejected", "negative_ids", "negatives", "excluded_text", "document_ids", "passages", "fused")


class Split(enum.StrEnum):
    """What a query is for. A query belongs to one split in the whole run."""

    TRAIN = "train"
    DEVELOPMENT = "development"
    HELD_OUT = "held-out"


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusDocument:
    """A document of the collection as it was when the run began."""

    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingQuery:
    """A query and the documents that answer it.

    Attributes:
        id: unique in the run; ``query_id`` makes one for queries that have none.
        source: where it comes from: "judged", "clicks", "llm", "title", "heading", "first-sentence", "cloze",
            "docstring".
        positives: grade, above 0, of each document that answers it, by document id.
        rejected: documents known not to answer it (judged 0 or less); useful as hard negatives.
        kind: its type, such as "keyword" or "question"; "" where not known.
        language: ISO 639-1 code; "" where not known.
        excluded_text: the part of its document that the query was cut from, as (start, end) in the document's text;
            None where it was not cut out. Training hides it from the positive passage.
        provenance: what made it: model, prompt's file and hash, seed, persona, difficulty.
    """

    id: str
    text: str
    source: str
    split: Split
    positives: Mapping[str, int]
    rejected: tuple[str, ...] = ()
    kind: str = ""
    language: str = ""
    excluded_text: tuple[int, int] | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPair:
    """A query, one passage that answers it, and passages that do not.

    The passages are contents as the server's embedder and reranker read them: the title, a line break, and the text.

    Attributes:
        positive_id: the positive's document, which the loss uses to recognise the same document in a batch.
        negative_ids: the negatives' documents, as many as ``negatives``.
        grade: the positive's grade.
    """

    query_id: str
    query: str
    source: str
    split: Split
    positive_id: str
    positive: str
    negative_ids: tuple[str, ...]
    negatives: tuple[str, ...]
    grade: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortlist:
    """The best of the first stage for a query, on which a reranker is measured.

    The three tuples are aligned, best document first. An answer that the first stage did not find is not among them.

    Attributes:
        positives: grade, above 0, of each document that answers the query, by document id.
        document_ids: the documents.
        passages: the passage of each document as a reranker reads it: the title, a line break, and the text.
        fused: the fused score of each document, by which the first stage ordered them.
    """

    query_id: str
    query: str
    split: Split
    positives: Mapping[str, int]
    document_ids: tuple[str, ...]
    passages: tuple[str, ...]
    fused: tuple[float, ...]


def query_id(source: str, document: str, text: str) -> str:
    """A stable id for a query that was made from a document: the source and 16 hexadecimal digits."""
    digest = hashlib.sha256("\0".join((source, document, text)).encode()).hexdigest()
    return f"{source}-{digest[:16]}"


def to_line(record: Record) -> str:
    """The record as one line of JSON with its line break."""
    return json.dumps(dataclasses.asdict(record), ensure_ascii=False, separators=(",", ":")) + "\n"


def write_lines(path: Path, records: Iterable[Record]) -> int:
    """Replaces a file in one step; returns the number of records. A kill leaves the former file."""
    partial = path.with_name(path.name + ".partial")
    count = 0
    with partial.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(to_line(record))
            count += 1
    partial.replace(path)
    return count


def read_lines(path: Path, kind: type[T]) -> Iterator[T]:
    """Reads the records of a file.

    Raises:
        InvalidInput: the file is missing, or a line is not a record of this kind.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield read_line(path, number, line, kind)
    except OSError as error:
        raise InvalidInput(f"{path.name} cannot be read: {error.strerror}") from error


def read_line(path: Path, number: int, line: str, kind: type[T]) -> T:
    """The record of one line; the path and the line's number, from 1, are for the message of ``InvalidInput``."""
    try:
        values: dict[str, Any] = json.loads(line)
        if "split" in values:
            values["split"] = Split(values["split"])
        for name in _TUPLES:
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        return kind(**values)
    except (TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(f"{path.name}, line {number}: not a {kind.__name__} ({error})") from error
