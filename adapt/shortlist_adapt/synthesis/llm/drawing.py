"""Choices drawn from a seed: documents, the part that is shown, people, types, lengths and languages.

Each draw depends on the seed and on the document alone, never on the order of work. A run that is killed and run again
therefore asks the same. Pure functions.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from shortlist_adapt.records import CorpusDocument
from shortlist_adapt.synthesis.llm.prompts import Choice, PromptFiles
from shortlist_adapt.synthesis.llm.settings import LlmSettings, word_range

PEOPLE_BY_WORDS = 3
"""People offered because their description shares words with the document."""

PEOPLE_BY_CHANCE = 2
"""People offered besides, so that the unexpected ones search too."""

TYPES_OFFERED = 3
"""Types offered at a time: an LLM with all types before it writes mostly questions of fact."""

WORD = re.compile(r"[^\W\d_]{3,}")
BREAK = re.compile(r"\n\s*\n|(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """What is drawn for one query of a document.

    Attributes:
        words: least and most words of the query.
    """

    characters: tuple[Choice, ...]
    types: tuple[Choice, ...]
    language: str
    words: tuple[int, int]


def sample(documents: Sequence[CorpusDocument], count: int, seed: int) -> list[CorpusDocument]:
    """``count`` documents chosen by chance, or all for 0, in the given order."""
    if not count or count >= len(documents):
        return list(documents)
    chosen = {document.id for document in shuffled(documents, seed)[:count]}
    return [document for document in documents if document.id in chosen]


def shuffled(documents: Sequence[CorpusDocument], seed: int) -> list[CorpusDocument]:
    """The documents in an order of chance, which one more document leaves as it is."""
    return sorted(documents, key=lambda document: (_digest(seed, "document", document.id), document.id))


def number(seed: int, *parts: object) -> int:
    """A number from 0 to 2**31 - 1 that depends on all parts: the seed of a request."""
    return int.from_bytes(_digest(seed, *parts)[:4], "big") >> 1


def excerpt(text: str, limit: int, seed: int) -> str:
    """The text, or a part of at most ``limit`` characters that begins and ends between sentences where it can."""
    text = text.strip()
    if len(text) <= limit:
        return text
    starts = [0, *(match.end() for match in BREAK.finditer(text) if match.end() <= len(text) - limit)]
    start = random.Random(seed).choice(starts)  # noqa: S311 - a reproducible choice, no secret
    part = text[start : start + limit]
    ends = [match.start() for match in BREAK.finditer(part)]
    return part[: ends[-1]].rstrip() if ends and ends[-1] > limit // 2 else part.rstrip()


class Drawing:
    """Draws for documents. Knows the lists; safe for any thread."""

    def __init__(self, files: PromptFiles, settings: LlmSettings, seed: int) -> None:
        """Weighs the words of all people's descriptions once."""
        self._files = files
        self._settings = settings
        self._seed = seed
        self._words = [frozenset(_words(choice.line())) for choice in files.characters]
        counts = Counter(word for words in self._words for word in words)
        self._weights = {word: math.log(len(self._words) / count) for word, count in counts.items()}

    def draw(self, document: CorpusDocument, index: int) -> Draw:
        """What is drawn for the document's query number ``index``."""
        chance = random.Random(number(self._seed, "draw", document.id, index))  # noqa: S311 - reproducible
        kinds = self._files.types
        low, high = word_range(chance.choice(self._settings.lengths))
        return Draw(
            characters=self._people(f"{document.title}\n{document.text}", index, chance),
            types=tuple(chance.sample(kinds, min(TYPES_OFFERED, len(kinds)))),
            language=chance.choice(self._settings.languages),
            words=(low, high),
        )

    def _people(self, text: str, index: int, chance: random.Random) -> tuple[Choice, ...]:
        """People for the document. Later queries of the same document get the next best."""
        words = frozenset(_words(text))
        weighed = [sum(self._weights[word] for word in own & words) for own in self._words]
        order = sorted(range(len(weighed)), key=lambda place: (-weighed[place], place))
        fitting = [place for place in order if weighed[place] > 0]
        begin = index * PEOPLE_BY_WORDS
        chosen = fitting[begin : begin + PEOPLE_BY_WORDS]
        others = [place for place in range(len(weighed)) if place not in chosen]
        missing = PEOPLE_BY_WORDS + PEOPLE_BY_CHANCE - len(chosen)
        chosen += chance.sample(others, min(missing, len(others)))
        chance.shuffle(chosen)
        return tuple(self._files.characters[place] for place in chosen)


def _words(text: str) -> Sequence[str]:
    return [match.group().casefold() for match in WORD.finditer(text)]


def _digest(*parts: object) -> bytes:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
