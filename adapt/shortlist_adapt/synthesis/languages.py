"""In which language a query is, for the counts of the report.

Short texts are guesses: a keyword may be a word of several languages, so uncertain ones stay unknown. Any thread.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from shortlist_adapt.texts import words_of

MIN_WORDS = 3
MIN_CERTAINTY = 0.8


def language_of(text: str) -> str:
    """The ISO 639-1 code of a text's language; "" where it is too short or uncertain."""
    if len(words_of(text)) < MIN_WORDS and text.isascii():
        return ""
    code, certainty = _identify()(text)
    return code if certainty >= MIN_CERTAINTY else ""


@cache
def _identify() -> Callable[[str], tuple[str, float]]:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def identify(text: str) -> tuple[str, float]:
        code, certainty = identifier.classify(text)
        return str(code), float(certainty)

    return identify
