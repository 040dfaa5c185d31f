"""How an LLM writes queries. The settings name where a key is, never the key: they stand in ``plan.json``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.settings import setting

DOCUMENT_LANGUAGE = "document"
"""In ``LlmSettings.languages``: the language that the document is written in."""

RANGE = re.compile(r"([1-9][0-9]?)-([1-9][0-9]?)")
LANGUAGE = re.compile(r"[a-z]{2,3}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmSettings:
    """Which LLM writes queries, and how many of what kind. Without a model, none does."""

    url: str = setting("", "Base URL of an OpenAI-compatible endpoint, such as http://localhost:8000/v1.")
    model: str = setting("", "Model at --llm-url; without a URL, the folder of a causal language model to run here.")
    key_file: Path | None = setting(None, "File that holds the key of the endpoint.")
    key_variable: str = setting("", "Environment variable that holds the key of the endpoint.")
    documents: int = setting(1_000, "Most documents to ask about, chosen by chance; 0 for all.", least=0)
    per_document: int = setting(1, "Queries for a document, each by another person.", least=1, most=20)
    languages: tuple[str, ...] = setting(
        (DOCUMENT_LANGUAGE,), "ISO 639-1 code of the queries' language, or 'document' for that of the document."
    )
    lengths: tuple[str, ...] = setting(("2-5", "6-12", "13-25"), "Least and most words of a query, such as 6-12.")
    types: tuple[str, ...] = setting((), "Type of query to ask for, by its name in types.txt; all at first.")
    prompts: Path | None = setting(None, "Folder with prompt files that replace those of Shortlist by name.")
    budget_tokens: int = setting(0, "Most tokens of prompts and answers; 0 for no limit.", least=0)
    concurrency: int = setting(8, "Documents to ask an endpoint about at the same time.", least=1, most=1_000)
    retries: int = setting(
        5, "How often to send a request again after no answer, a late one, 429 or 5xx.", least=0, most=100
    )
    attempts: int = setting(2, "How often to ask until the answer has the right form.", least=1, most=10)
    timeout_seconds: float = setting(120.0, "How long one request may take.", least=0.01, most=86_400)
    temperature: float = setting(0.7, "How freely to write; 0 for the likeliest answer.", least=0, most=2)
    max_answer_tokens: int = setting(300, "Most tokens of an answer; a model that reasons needs more.", least=1)
    max_document_characters: int = setting(6_000, "Of a longer document, a part is shown.", least=200)
    extra: str = setting("", "Further fields of a request, as a JSON object.")


def check(settings: LlmSettings) -> None:
    """Checks what the fields' own ranges do not. Raises ``InvalidInput``."""
    if not settings.model:
        raise InvalidInput("the LLM needs a model: its name at the endpoint, or a folder on this machine")
    if settings.key_file is not None and settings.key_variable:
        raise InvalidInput("the key of the LLM comes from a file or from a variable; two are given")
    for name in ("languages", "lengths"):
        if not getattr(settings, name):
            raise InvalidInput(f"{name} of the LLM's queries are missing")
    for language in settings.languages:
        if language != DOCUMENT_LANGUAGE and not LANGUAGE.fullmatch(language):
            raise InvalidInput(f"{language!r} is neither an ISO 639-1 code such as 'de' nor {DOCUMENT_LANGUAGE!r}")
    for length in settings.lengths:
        word_range(length)
    extra_fields(settings)


def word_range(text: str) -> tuple[int, int]:
    """The least and the most words of a range such as "3-6". Raises ``InvalidInput``."""
    match = RANGE.fullmatch(text)
    if match is None or int(match[1]) > int(match[2]):
        raise InvalidInput(f"{text!r} is not a range of words such as '3-6'")
    return int(match[1]), int(match[2])


def extra_fields(settings: LlmSettings) -> Mapping[str, Any]:
    """The further fields of a request. Raises ``InvalidInput``."""
    if not settings.extra:
        return {}
    try:
        fields = json.loads(settings.extra)
    except ValueError as error:
        raise InvalidInput(f"the LLM's extra fields are not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise InvalidInput("the LLM's extra fields are not a JSON object")
    return fields
