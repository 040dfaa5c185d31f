"""Reads documents from JSON lines, CSV, a folder of text files, or standard input.

Readers are lazy: a file of any size is read as it is sent. An unreadable record becomes an ``Unreadable`` in its place,
so it fails alone and later positions stay right. The same input gives the same documents in the same order, which
resuming needs.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shortlist import Document

TEXT_SUFFIXES = {".txt", ".md", ".markdown", ".rst"}
"""Suffixes of the files to read in a folder."""

CSV_FIELD_BYTES = 64 * 1024 * 1024
"""Largest cell of a CSV file; csv's own limit is 128 KiB."""

ID_COLUMNS = ("id", "_id")
"""Columns of the id when none is named; "_id" is BEIR's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns of a record that hold the parts of a document.

    Attributes:
        id: "" for the first of ``ID_COLUMNS`` in the record.
        text: a blank line joins several.
        metadata: which columns; empty: all that are not used otherwise. The object in a column "metadata" is always
            included as it is.
    """

    id: str = ""
    title: str = "title"
    text: tuple[str, ...] = ("text",)
    metadata: tuple[str, ...] = ()
    vector: str = "vector"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that is no document; ``id`` is its place in the source. The ingest fails it as an invalid operation."""

    id: str
    problem: str


Record = Document | Unreadable


def read_documents(source: Path | None, format: str, columns: Columns) -> Iterator[Record]:
    """Reads the documents of a file or folder; ``source`` None is standard input.

    Args:
        format: "jsonl", "csv", "tsv" or "text"; "auto" decides by the file's suffix, and reads standard input as
            JSON lines.
    """
    format = guess_format(source, format)
    if format == "text":
        assert source is not None, "text comes from a file or a folder"
        yield from _read_text(source)
        return
    if source is None:
        yield from _parse(sys.stdin.buffer, format, columns, "stdin")
        return
    with source.open("rb") as file:
        yield from _parse(file, format, columns, source.name)


def guess_format(source: Path | None, format: str) -> str:
    """The format of a source; for "auto" by its suffix."""
    if format != "auto":
        return format
    if source is None:
        return "jsonl"
    if source.is_dir() or source.suffix.lower() in TEXT_SUFFIXES:
        return "text"
    return {".csv": "csv", ".tsv": "tsv"}.get(source.suffix.lower(), "jsonl")


def count_documents(source: Path, format: str) -> int | None:
    """The number of documents in a source; None where counting costs as much as reading."""
    format = guess_format(source, format)
    if format == "text":
        return len(_text_files(source))
    if format != "jsonl":
        return None
    with source.open("rb") as file:
        return sum(1 for line in file if line.strip())


def _parse(lines: Iterable[bytes], format: str, columns: Columns, name: str) -> Iterator[Record]:
    if format == "jsonl":
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _from_json(line, columns, f"{name}:{number}")
        return
    csv.field_size_limit(CSV_FIELD_BYTES)
    text = (_decode(line, first=number == 0) for number, line in enumerate(lines))
    # Strict, because an unclosed quote would turn the rest of the file into one cell.
    rows = csv.DictReader(text, delimiter="\t" if format == "tsv" else ",", strict=True)
    place = f"{name}:1"
    while True:
        try:
            # The first access reads the header.
            if rows.fieldnames is None:
                return
            place = f"{name}:{rows.line_num + 1}"
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield Unreadable(place, f"not CSV: {error}")
            continue
        if None in row or None in row.values():
            yield Unreadable(place, "the row has a different number of cells from the header")
        else:
            yield _document({key: value for key, value in row.items() if value != ""}, columns, place)


def _decode(data: bytes, *, first: bool = True) -> str:
    # Bytes that are not UTF-8 become lone surrogates, which the client refuses in that one document.
    return data.decode("utf-8-sig" if first else "utf-8", "surrogateescape")


def _from_json(line: bytes, columns: Columns, place: str) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Unreadable(place, f"not JSON: {error}")
    if not isinstance(record, dict):
        return Unreadable(place, "not a JSON object")
    return _document(record, columns, place)


def _document(record: dict[str, Any], columns: Columns, place: str) -> Record:
    id_column = columns.id or next((name for name in ID_COLUMNS if name in record), ID_COLUMNS[0])
    if id_column not in record:
        return Unreadable(place, f"the record has no column {id_column!r} for the id; name another with --id-column")
    used = {id_column, columns.title, columns.vector, "metadata", *columns.text}
    metadata = record.get("metadata") or {}
    if not isinstance(metadata, dict):
        return Unreadable(place, "the metadata is not an object")
    names = columns.metadata or tuple(name for name in record if name not in used)
    id, vector = record[id_column], record.get(columns.vector)
    if isinstance(vector, str):
        try:
            vector = json.loads(vector)
        except ValueError:
            return Unreadable(place, "the vector is not a JSON list of numbers")
    return Document(
        # Numbers are common as ids in files, and have one spelling.
        id=str(id) if isinstance(id, int) else id,
        title=record.get(columns.title) or "",
        text=_joined(record, columns.text),
        metadata={**metadata, **{name: record[name] for name in names if name in record}},
        vector=vector,
    )


def _joined(record: dict[str, Any], names: tuple[str, ...]) -> Any:
    if len(names) == 1:
        return record.get(names[0]) or ""
    return "\n\n".join(str(record[name]) for name in names if record.get(name))


def _text_files(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    return sorted(
        path
        for path in source.rglob("*")
        if path.suffix.lower() in TEXT_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
    )


def _read_text(source: Path) -> Iterator[Record]:
    for path in _text_files(source):
        id = path.relative_to(source).as_posix() if source.is_dir() else path.name
        try:
            text = _decode(path.read_bytes())
        except OSError as error:
            yield Unreadable(id, f"cannot be read: {error.strerror}")
            continue
        yield Document(id=id, title=_heading(text) or path.stem, text=text, metadata={"path": id})


def _heading(text: str) -> str:
    """The first line, when it is a Markdown heading."""
    first = text.lstrip().partition("\n")[0].strip()
    return first.lstrip("#").strip() if first.startswith("#") else ""
