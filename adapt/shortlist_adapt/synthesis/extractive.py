"""Queries cut out of documents, without any model: titles, headings, first sentences, other sentences, docstrings.

What is cut out is hidden from training (``excluded_text``, or the title of a title query), so that the model must find
the rest by its meaning. Parts that are too short, too long or that stand in many documents make no queries. The choice
of sentences is by hash of the seed and the document. Any thread.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from shortlist_adapt.corpus import draw
from shortlist_adapt.costs import Cost
from shortlist_adapt.hiding import TITLE, without
from shortlist_adapt.progress import Progress
from shortlist_adapt.records import CorpusDocument
from shortlist_adapt.synthesis.settings import ExtractiveSource
from shortlist_adapt.synthesis.source import Draft
from shortlist_adapt.texts import sentences, words_of

MIN_TITLE_WORDS = 2
MIN_SENTENCE_WORDS = 5
MAX_WORDS = 40
"""A longer part is no query that a person would type."""

MIN_REST_WORDS = 12
"""Fewest words that a document must keep when the query is hidden."""

SECONDS_PER_DOCUMENT = 0.0005

Span = tuple[int, int]

_MARKDOWN = re.compile(r"^#{1,6}[ \t]+(?P<heading>\S.*?)[ \t]*#*$", re.MULTILINE)
_UNDERLINED = re.compile(r"^(?P<heading>\S.*)\n(?P<line>[=\-~^\"'`*+#])(?P=line){2,}[ \t]*$", re.MULTILINE)
_QUALIFIED_NAME = re.compile(r"(?:class |def |function )?[A-Za-z_]\w*(?:(?:\.|::|->)\w+)*(?:\(.*\))?")
_DOCSTRING_FIELD = re.compile(
    r"^[ \t]*(?::(?:param|return|returns|raises|rtype)\b|@(?:param|return|throws)\b|(?:Args|Returns|Raises|Yields|"
    r"Parameters|Examples?)[ \t]*:?[ \t]*$|>>> )",
    re.MULTILINE,
)


_SIGNATURE = re.compile(r"\s*(?:(?:async )?def|class)\b[^\n]*\n\s*|\s*[\w.]+\([^\n]*\)(?: ?->[^\n]*)?\n\s*")
"""A first line that is code; the summary of a docstring comes after it."""

_LABEL = re.compile(r"(?:[A-Z]{3,}(?:,| AND)? )+(?=[A-Z][a-z]|[A-Z] [a-z])")
"""What structured abstracts begin a part with, such as "DESIGN AND SETTING"; nobody types it."""


class ExtractiveQueries:
    """One extractive source; a ``QuerySource``."""

    def __init__(self, source: ExtractiveSource, *, per_document: int, seed: int) -> None:
        self._source: ExtractiveSource = source
        self._per_document = per_document
        self._seed = seed
        self._made = 0

    @property
    def name(self) -> str:
        """See ``QuerySource``."""
        return self._source

    def cost(self, documents: Sequence[CorpusDocument]) -> Cost:
        """See ``QuerySource``."""
        return Cost(seconds=SECONDS_PER_DOCUMENT * len(documents))

    def drafts(self, documents: Sequence[CorpusDocument], progress: Progress) -> Iterator[Draft]:
        """See ``QuerySource``."""
        find = _FINDERS[self._source]
        progress.begin(f"cutting queries ({self._source})", len(documents), "documents")
        for document in documents:
            progress.advance()
            parts = [part for part in find(document) if _keeps_enough(document, self._source, part)]
            for span in self._choice(document, parts):
                text = document.title if span is None else document.text[slice(*self._heading(document, span))]
                label = _LABEL.match(text)
                self._made += 1
                yield Draft(
                    text=" ".join(text[label.end() if label else 0 :].split()),
                    source=self._source,
                    positives={document.id: 1},
                    excluded_text=span,
                    provenance={"document": document.id},
                )

    def figures(self) -> Mapping[str, int]:
        """See ``QuerySource``."""
        return {"made": self._made}

    def _choice(self, document: CorpusDocument, parts: Sequence[Span | None]) -> list[Span | None]:
        """Up to ``per_document`` of the parts, in the order of the text."""
        keyed = [(draw(self._seed, self._source, f"{document.id}\0{part}"), index) for index, part in enumerate(parts)]
        return [parts[index] for index in sorted(index for _, index in sorted(keyed)[: self._per_document])]

    def _heading(self, document: CorpusDocument, span: Span) -> Span:
        """The words of a heading within its line or lines; any other part as it is."""
        if self._source != "heading":
            return span
        for pattern in (_MARKDOWN, _UNDERLINED):
            if found := pattern.match(document.text, *span):
                return found.span("heading")
        return span


def _titles(document: CorpusDocument) -> Iterator[Span | None]:
    is_name = _QUALIFIED_NAME.fullmatch(document.title.strip())
    if not is_name and MIN_TITLE_WORDS <= len(words_of(document.title)) <= MAX_WORDS:
        yield None


def _headings(document: CorpusDocument) -> Iterator[Span | None]:
    for pattern in (_MARKDOWN, _UNDERLINED):
        for found in pattern.finditer(document.text):
            if MIN_TITLE_WORDS <= len(words_of(found["heading"])) <= MAX_WORDS:
                yield found.span()


def _first_sentences(document: CorpusDocument) -> Iterator[Span | None]:
    if not _is_docstring(document):
        yield from _proper(document.text, list(sentences(document.text))[:1])


def _later_sentences(document: CorpusDocument) -> Iterator[Span | None]:
    yield from _proper(document.text, list(sentences(document.text))[1:])


def _summaries(document: CorpusDocument) -> Iterator[Span | None]:
    if not _is_docstring(document):
        return
    signature = _SIGNATURE.match(document.text)
    start = signature.end() if signature else 0
    for first, last in list(sentences(document.text[start:]))[:1]:
        yield from _proper(document.text, [(start + first, start + last)], least=3)


_FINDERS: Mapping[str, Callable[[CorpusDocument], Iterator[Span | None]]] = {
    TITLE: _titles,
    "heading": _headings,
    "first-sentence": _first_sentences,
    "cloze": _later_sentences,
    "docstring": _summaries,
}
"""For each source the parts of a document, as ranges of the text; None stands for the title."""


def _proper(text: str, spans: Sequence[Span], *, least: int = MIN_SENTENCE_WORDS) -> Iterator[Span]:
    """The sentences of a fitting length that are mostly words, and no headings, code or tables."""
    for start, end in spans:
        part = text[start:end]
        letters = sum(character.isalpha() or character.isspace() for character in part)
        if (
            least <= len(words_of(part)) <= MAX_WORDS
            and letters >= 0.75 * len(part)
            and not _MARKDOWN.match(part)
            and not part.startswith((">>> ", "|", "```", "    "))
        ):
            yield start, end


def _is_docstring(document: CorpusDocument) -> bool:
    return bool(_QUALIFIED_NAME.fullmatch(document.title.strip()) or _DOCSTRING_FIELD.search(document.text))


def _keeps_enough(document: CorpusDocument, source: str, span: Span | None) -> bool:
    rest = document.text if span is None else without(document.text, span)
    return len(words_of(rest)) >= MIN_REST_WORDS
