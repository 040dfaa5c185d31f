"""The documents of a run: exported from the collection once, read by id or in order.

The run keeps the collection as it was at the export; later writes do not reach it. A ``Corpus`` keeps the place of
each document in the file, not its text, so a million documents take some hundred megabytes. Use it from one thread.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from shortlist import Client, Include
from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.folder import RunFolder, fingerprint
from shortlist_adapt.progress import Progress
from shortlist_adapt.records import CorpusDocument, read_line, write_lines

STEP = "corpus"
_PAGE = 500


def export(folder: RunFolder, client: Client, collection: str, progress: Progress) -> Mapping[str, Any]:
    """Writes the collection's documents to the run folder, in the order of their last change, unless that was done.

    A killed export begins anew. Documents without title and text, such as those of callers' vectors alone, are left
    out.

    Returns:
        What was exported: number of documents and of those left out, characters, the commit, and the models, passages
        and instruction of the generation that served at the time.

    Raises:
        InvalidInput: no document has a text.
        ShortlistError: the server failed.
    """
    wanted = fingerprint({"collection": collection})
    if folder.corpus.exists() and (done := folder.figures(STEP, wanted)) is not None:
        return done
    state = client.get_collection(collection)
    progress.begin("reading documents", state.document_count, "documents")
    counts = {"left_out": 0, "characters": 0}

    def documents() -> Iterator[CorpusDocument]:
        seen = set()
        for stored in client.list(collection, include=Include(metadata=False), page_size=_PAGE):
            progress.advance()
            # A document that changes during the export comes a second time, at the end.
            if stored.id in seen:
                continue
            seen.add(stored.id)
            if not stored.title.strip() and not stored.text.strip():
                counts["left_out"] += 1
                continue
            counts["characters"] += len(stored.title) + len(stored.text)
            yield CorpusDocument(id=stored.id, title=stored.title, text=stored.text)

    count = write_lines(folder.corpus, documents())
    if not count:
        raise InvalidInput(f"the collection {collection!r} has no document with a title or a text")
    figures = {
        "collection": collection,
        "documents": count,
        **counts,
        "sequence": state.sequence,
        "generation": state.generation,
        "embedder": state.config.embedder,
        "embedder_revision": state.embedder_revision,
        "reranker": state.config.reranker,
        "passage_tokens": state.config.chunking.max_tokens,
        "overlap_tokens": state.config.chunking.overlap_tokens or 0,
        "dimension": state.config.dimension,
        "instruction": state.config.query_instruction,
    }
    folder.note_done(STEP, wanted, figures)
    return figures


def noted(folder: RunFolder) -> Mapping[str, Any]:
    """What ``export`` noted, whatever the collection; empty before it."""
    try:
        figures = json.loads(folder.state(STEP).read_text(encoding="utf-8"))["figures"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return figures if isinstance(figures, dict) else {}


class Corpus:
    """The documents of ``corpus.jsonl``; close it, or use it in a ``with`` block."""

    def __init__(self, path: Path) -> None:
        """Reads the file once, to find where each document begins.

        Raises:
            InvalidInput: the file is missing or malformed, or ids repeat.
        """
        self._path = path
        self._places: dict[str, tuple[int, int]] = {}
        self._twins: dict[str, tuple[str, ...]] = {}
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise InvalidInput(f"{path.name} cannot be read: {error.strerror}") from error
        try:
            self._index()
        except BaseException:
            self._file.close()
            raise

    def _index(self) -> None:
        first: dict[bytes, str] = {}
        twins: dict[str, list[str]] = {}
        place = 0
        for number, line in enumerate(self._file, start=1):
            document = read_line(self._path, number, line.decode("utf-8", "replace"), CorpusDocument)
            if document.id in self._places:
                raise InvalidInput(f"{self._path.name}, line {number}: the id {document.id!r} appears a second time")
            self._places[document.id] = (place, number)
            place += len(line)
            content = f"{len(document.title)} {document.title}{document.text}".encode("utf-8", "surrogatepass")
            digest = hashlib.blake2b(content, digest_size=16).digest()
            original = first.setdefault(digest, document.id)
            if original != document.id:
                twins.setdefault(original, [original]).append(document.id)
        self._twins = {id: tuple(group) for group in twins.values() for id in group}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, id: object) -> bool:
        return id in self._places

    def __iter__(self) -> Iterator[str]:
        """The ids, in the order of the file."""
        return iter(self._places)

    def __getitem__(self, id: str) -> CorpusDocument:
        """A document; one read of the file. Raises ``KeyError``."""
        place, number = self._places[id]
        self._file.seek(place)
        return read_line(self._path, number, self._file.readline().decode("utf-8", "replace"), CorpusDocument)

    def documents(self) -> Iterator[CorpusDocument]:
        """All documents, in the order of the file."""
        return (self[id] for id in self)

    def twins(self, id: str) -> Sequence[str]:
        """The ids of all documents with the same title and text, this one included, in the order of the file."""
        return self._twins.get(id, (id,))

    def sample(self, count: int, seed: int) -> list[CorpusDocument]:
        """Up to ``count`` documents, chosen by the hash of seed and id, in the order of the file.

        One of several twins stands for all.
        """
        ids = [id for id in self if self.twins(id)[0] == id]
        if count < len(ids):
            chosen = set(sorted(ids, key=lambda one: (draw(seed, "sample", one), one))[:count])
            ids = [id for id in ids if id in chosen]
        return [self[id] for id in ids]

    def with_twins(self, grades: Mapping[str, int]) -> dict[str, int]:
        """The grades with those of the documents' twins; without documents that the corpus does not have."""
        found: dict[str, int] = {}
        for id, grade in grades.items():
            for twin in self.twins(id) if id in self else ():
                found[twin] = max(grade, found.get(twin, grade))
        return found

    def known(self, ids: Iterable[str]) -> tuple[str, ...]:
        """Those of the ids that the corpus has."""
        return tuple(id for id in ids if id in self)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def draw(seed: int, purpose: str, key: str) -> float:
    """A number in [0, 1) that depends on its arguments alone; those of different purposes are independent."""
    digest = hashlib.sha256(f"{seed}\0{purpose}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) / 2**64
