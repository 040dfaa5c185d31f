"""Queries that the user has: judged ones in the formats of BEIR and TREC, and clicks as CSV."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.records import Split
from shortlist_adapt.synthesis.settings import SynthesisSettings
from shortlist_adapt.synthesis.source import Draft
from shortlist_adapt.texts import normal
from shortlist_cli.evaluation.beir import InvalidDataset, Judged, load_judged, load_split

JUDGED = "judged"
CLICKS = "clicks"

_QUERY_COLUMNS = ("query", "query_text", "text")
_DOCUMENT_COLUMNS = ("document_id", "document", "doc_id", "id")
_COUNT_COLUMNS = ("clicks", "count")


def judged_queries(settings: SynthesisSettings) -> Iterator[Draft]:
    """The judged queries that the settings name, in the order of the files.

    Raises:
        InvalidInput: a file is missing or malformed, or the options contradict each other.
    """
    if (settings.qrels is None) != (settings.queries is None):
        raise InvalidInput("--qrels and --queries go together")
    try:
        for folder in settings.judged:
            yield from _drafts(load_split(folder, settings.judged_split), None)
            if settings.held_out_split:
                yield from _drafts(load_split(folder, settings.held_out_split), Split.HELD_OUT)
        if settings.qrels is not None and settings.queries is not None:
            yield from _drafts(load_judged(settings.queries, settings.qrels), None)
    except InvalidDataset as error:
        raise InvalidInput(str(error)) from error


def _drafts(judged: Judged, split: Split | None) -> Iterator[Draft]:
    for query, text in judged.queries.items():
        grades = judged.qrels[query]
        yield Draft(
            id=query,
            text=text,
            source=JUDGED,
            positives={document: grade for document, grade in grades.items() if grade > 0},
            rejected=tuple(document for document, grade in grades.items() if grade <= 0),
            split=split,
            provenance={"judgements": judged.name},
        )


def clicked_queries(settings: SynthesisSettings) -> Iterator[Draft]:
    """The queries of the click logs, each with the documents that were clicked often enough.

    A row of the CSV is a query and a document; a column ``clicks`` may count them. Queries of equal normal form count
    as one, with the most frequent of their texts. A document with at least half the clicks of the most clicked one has
    grade 2, others 1.

    Raises:
        InvalidInput: a file is missing or malformed.
    """
    texts: dict[str, Counter[str]] = {}
    clicks: dict[str, Counter[str]] = {}
    for path in settings.clicks:
        for text, document, count in _clicks(path):
            key = normal(text)
            texts.setdefault(key, Counter())[text] += count
            clicks.setdefault(key, Counter())[document] += count
    for key, counted in clicks.items():
        most = max(counted.values())
        positives = {
            document: 2 if 2 * count >= most else 1
            for document, count in counted.items()
            if count >= settings.min_clicks
        }
        if positives:
            yield Draft(
                text=texts[key].most_common(1)[0][0],
                source=CLICKS,
                positives=positives,
                provenance={"clicks": str(counted.total())},
            )


def _clicks(path: Path) -> Iterator[tuple[str, str, int]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            names = rows.fieldnames or []
            query, document = _column(path, names, _QUERY_COLUMNS), _column(path, names, _DOCUMENT_COLUMNS)
            count = next((name for name in _COUNT_COLUMNS if name in names), None)
            for row in rows:
                at = f"{path.name}, line {rows.line_num}"
                text, id, times = row[query], row[document], row[count] if count else "1"
                if not text or not text.strip() or not id:
                    raise InvalidInput(f"{at}: the query or the document is missing")
                if not times or not times.isascii() or not times.isdigit():
                    raise InvalidInput(f"{at}: {times!r} is not a number of clicks")
                yield " ".join(text.split()), id, int(times)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"{path.name} cannot be read: {error}") from error


def _column(path: Path, names: object, wanted: tuple[str, ...]) -> str:
    assert isinstance(names, list)
    for name in wanted:
        if name in names:
            return name
    raise InvalidInput(f"{path.name}: the first line names no column {wanted[0]}")
