"""Languages of queries."""

import pytest

from shortlist_adapt.synthesis.languages import language_of


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Which animals feed their young on milk?", "en"),
        ("Welche Tiere säugen ihre Jungen mit Milch?", "de"),
        ("Quels animaux nourrissent leurs petits avec du lait ?", "fr"),
        ("\u3069\u306e\u52d5\u7269\u304c\u5b50\u3069\u3082\u3092\u4e73\u3067\u80b2\u3066\u307e\u3059\u304b", "ja"),
        ("json.dumps", ""),
        ("", ""),
    ],
)
def test_a_language_is_named_where_the_text_tells_it(text: str, language: str) -> None:
    assert language_of(text) == language
