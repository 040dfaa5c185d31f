"""Texts compared and cut: normal forms, shared runs of words, sentences.

Pure functions; any thread. Offsets are in code points, ends exclusive.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

RUN_WORDS = 5
"""Words of the runs by which ``copied_share`` recognises a copy."""

_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
"""Kana and ideographs, which are written without blanks: each counts as a word."""

_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")

_SENTENCE_END = re.compile(
    r"(?<=[.!?])(?P<close>[\"')\]]*)\s+(?=[\"'(\[]?[A-ZÀ-ÞА-Я0-9])|(?<=[\u3002\uff01\uff1f])|\n\s*\n"
)
"""Where a sentence may end: a stop before a blank and a capital or a digit, an ideographic stop, an empty line."""

_NOT_AN_END = re.compile(
    r"\b(?:e\.g|i\.e|cf|vs|etc|al|approx|resp|Cf|Figs?|No|Dr|Mrs?|Ms|Prof|St|[A-Z])\.$",
)
"""Abbreviations and initials, whose stop ends no sentence."""


def normal(text: str) -> str:
    """The text's words in lower case with single blanks; texts of equal normal forms count as duplicates.

    A text without any word is its own normal form but for blanks at its ends.
    """
    words = words_of(text)
    return " ".join(words) if words else text.strip()


def words_of(text: str) -> list[str]:
    """The words in lower case, compatibility forms unified (NFKC)."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def copied_share(query: str, text: str) -> float:
    """The share of the query's runs of five words that the text has too, 0 to 1.

    A query shorter than a run is compared as a whole, from two words on; a single word never counts as copied.
    """
    words = words_of(query)
    if len(words) < 2:
        return 0.0
    length = min(RUN_WORDS, len(words))
    runs = {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}
    other = words_of(text)
    there = {tuple(other[start : start + length]) for start in range(len(other) - length + 1)}
    return len(runs & there) / len(runs)


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """The sentences as (start, end), without the blanks around them."""
    start = 0
    for found in _SENTENCE_END.finditer(text):
        if found["close"] == "" and "\n\n" not in found.group() and _NOT_AN_END.search(text[start : found.start()]):
            continue
        end = found.start() if found["close"] is None else found.end("close")
        yield from _trimmed(text, start, end)
        start = found.end()
    yield from _trimmed(text, start, len(text))


def _trimmed(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    part = text[start:end]
    if part.strip():
        yield start + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip())
