"""Evaluation folders in the format of the BEIR benchmark (https://github.com/beir-cellar/beir), and their parts.

A folder has ``corpus.jsonl`` (objects with ``_id``, ``title``, ``text``), ``queries.jsonl`` (``_id``, ``text``) and for
each split ``qrels/SPLIT.tsv`` (query, document, grade; the first line may be a heading). Qrels may also be in TREC's
format (query, anything, document, grade, separated by blanks).

Files are UTF-8, with or without a byte order mark. Everything is checked before anything is measured. The corpus is
read twice instead of being kept in memory: once to check it, once to send it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shortlist import Document

MAX_GRADE = 1_000_000
"""Largest absolute grade: the memory that trec_eval needs for an ideal ranking grows with the grade."""


class InvalidDataset(Exception):
    """The folder is not a valid dataset. The message names the file, the line where there is one, and the fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Queries with the documents that are known to answer them.

    Attributes:
        name: their name in a report.
        queries: text of every judged query, by id, in the order of the file.
        qrels: grade of each judged document, by query id and document id; grades of 0 and less mean not relevant.
    """

    name: str
    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset(Judged):
    """A checked folder and split.

    Attributes:
        folder: path of the folder.
        document_count: number of documents in the corpus.
        judged_but_missing: number of judged documents that the corpus lacks; no search can find them.
    """

    folder: Path
    document_count: int
    judged_but_missing: int

    def documents(self) -> Iterator[Document]:
        """Reads the corpus again, in the order of the file."""
        for _, row in _rows(self.folder / "corpus.jsonl"):
            yield Document(id=str(row["_id"]), title=row.get("title") or "", text=row.get("text") or "")


def load_dataset(folder: Path, split: str) -> Dataset:
    """Reads and checks a folder; takes about a second for every 50 MB of corpus.

    Raises:
        InvalidDataset: a file is missing or malformed, ids repeat, or the split judges queries that do not exist.
    """
    if not folder.is_dir():
        raise InvalidDataset(f"{folder} is not a folder")
    judged = load_split(folder, split)
    document_ids = set(_texts(folder / "corpus.jsonl", ("title", "text")))
    documents = {document for grades in judged.qrels.values() for document in grades}
    return Dataset(
        name=judged.name,
        folder=folder,
        document_count=len(document_ids),
        queries=judged.queries,
        qrels=judged.qrels,
        judged_but_missing=len(documents - document_ids),
    )


def load_split(folder: Path, split: str) -> Judged:
    """The queries and qrels of a split of a folder, without its corpus.

    Raises:
        InvalidDataset: as ``load_dataset``.
    """
    path = folder / "qrels" / f"{split}.tsv"
    if not path.is_file():
        splits = sorted(other.stem for other in path.parent.glob("*.tsv"))
        there = f"; there are: {', '.join(splits)}" if splits else ""
        raise InvalidDataset(f"qrels/{path.name} is missing in {folder}{there}")
    return load_judged(folder / "queries.jsonl", path, name=f"{folder.resolve().name}/{split}")


def load_judged(queries_path: Path, qrels_path: Path, *, name: str | None = None) -> Judged:
    """Reads queries (JSON Lines, or ids and texts in a .tsv file) and qrels (tab-separated, or TREC's).

    Raises:
        InvalidDataset: a file is missing or malformed, ids repeat, or the qrels judge queries that do not exist.
    """
    qrels = _read_qrels(qrels_path)
    texts = _texts(queries_path, ("text",))
    unknown = [query for query in qrels if query not in texts]
    if unknown:
        raise InvalidDataset(
            f"{_short(qrels_path)} judges {len(unknown)} queries that are not in {queries_path.name}, "
            f"for example {unknown[0]!r}"
        )
    empty = [query for query in qrels if not texts[query].strip()]
    if empty:
        raise InvalidDataset(f"{queries_path.name}: query {empty[0]!r} has no text")
    return Judged(
        name=name or qrels_path.stem,
        queries={query: text for query, text in texts.items() if query in qrels},
        qrels=qrels,
    )


def _texts(path: Path, fields: tuple[str, ...]) -> dict[str, str]:
    """Checks ``fields`` of every row; returns the text by id for a single field, and empty texts for several."""
    texts: dict[str, str] = {}
    keep = len(fields) == 1
    for number, row in _rows(path):
        identifier = row.get("_id")
        if not isinstance(identifier, str | int) or isinstance(identifier, bool) or identifier == "":
            raise InvalidDataset(f"{path.name}, line {number}: the field _id is missing or is not a string")
        for field in fields:
            if not isinstance(row.get(field, ""), str | None):
                raise InvalidDataset(f"{path.name}, line {number}: the field {field} is not a string")
        if str(identifier) in texts:
            raise InvalidDataset(f"{path.name}, line {number}: the _id {identifier!r} appears a second time")
        texts[str(identifier)] = (row.get(fields[-1]) or "") if keep else ""
    if not texts:
        raise InvalidDataset(f"{path.name} is empty")
    return texts


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers, from 1, and objects of a file; blank lines are skipped.

    A line is a JSON object, or an id, a tab and a text where the file's name ends in ".tsv", as TREC gives its queries.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                if path.suffix == ".tsv":
                    identifier, _, text = line.rstrip("\n").partition("\t")
                    yield number, {"_id": identifier, "text": text}
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise InvalidDataset(f"{path.name}, line {number}: not JSON ({error})") from error
                if not isinstance(row, dict):
                    raise InvalidDataset(f"{path.name}, line {number}: not a JSON object")
                yield number, row
    except FileNotFoundError as error:
        raise InvalidDataset(f"{path.name} is missing in {path.parent}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidDataset(f"{path.name} cannot be read: {error}") from error


def _read_qrels(path: Path) -> dict[str, dict[str, int]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidDataset(f"{_short(path)} cannot be read: {error}") from error
    qrels: dict[str, dict[str, int]] = {}
    # Not splitlines(): it also splits at other Unicode line ends, which an id may contain.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        at = f"{_short(path)}, line {number}"
        row = line.split("\t")
        if len(row) == 1 or len(row) == 4:
            row = line.split()
        if number == 1 and len(row) == 3 and not _is_number(row[2]):
            continue
        try:
            query, *_, document, written = row
            grade = int(written)
            if len(row) not in {3, 4} or not query or not document:
                raise ValueError
        except ValueError as error:
            raise InvalidDataset(
                f"{at}: not a query id, a document id and a whole number, separated by tabs"
            ) from error
        if abs(grade) > MAX_GRADE:
            raise InvalidDataset(f"{at}: the grade {written} is beyond {MAX_GRADE}")
        if qrels.setdefault(query, {}).setdefault(document, grade) != grade:
            raise InvalidDataset(f"{at}: {document!r} has another grade for {query!r} in an earlier line")
    if not any(grade > 0 for grades in qrels.values() for grade in grades.values()):
        raise InvalidDataset(f"{_short(path)} judges no document as relevant")
    return qrels


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _short(path: Path) -> str:
    return "/".join(path.parts[-2:])
