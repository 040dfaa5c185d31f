"""The forms of both answers: their JSON schemas, and how an answer's text becomes a value or is found malformed.

Models put a chain of thought, a greeting or a code fence around the object that they were asked for. The reader
looks for the object, then holds it to the schema. Pure functions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shortlist_adapt.synthesis.llm.drawing import Draw
from shortlist_adapt.synthesis.llm.prompts import Choice

THOUGHT = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
SPACE = re.compile(r"\s+")
MAX_SHOWN = 200
MAX_OBJECTS = 50
"""Braces tried as the beginning of the object, so that a text of braces costs little."""


class Malformed(Exception):
    """The answer does not have the form that was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What the first step chose.

    Attributes:
        gives_orders: the model says that the document gives orders to models.
    """

    character: Choice
    type: Choice
    level: Choice
    gives_orders: bool


def configuration_schema(draw: Draw, levels: Sequence[Choice]) -> Mapping[str, Any]:
    """The JSON schema of the first answer: only what was offered may be chosen."""
    return _object(
        {
            "character": {"type": "string", "enum": [choice.name for choice in draw.characters]},
            "type": {"type": "string", "enum": [choice.name for choice in draw.types]},
            "difficulty": {"type": "string", "enum": [choice.name for choice in levels]},
            "gives_orders": {"type": "boolean"},
        }
    )


def read_configuration(text: str, draw: Draw, levels: Sequence[Choice]) -> Configuration:
    """The first step's choice. Raises ``Malformed``."""
    found = _read(text, ("character", "type", "difficulty"))
    gives_orders = found.get("gives_orders", False)
    if not isinstance(gives_orders, bool):
        raise Malformed(f"gives_orders is {_shown(gives_orders)}, not true or false")
    return Configuration(
        character=_chosen(found, "character", draw.characters),
        type=_chosen(found, "type", draw.types),
        level=_chosen(found, "difficulty", levels),
        gives_orders=gives_orders,
    )


def query_schema() -> Mapping[str, Any]:
    """The JSON schema of the second answer."""
    return _object({"query": {"type": "string"}})


def read_query(text: str) -> str:
    """The query, its white space made single. Raises ``Malformed``."""
    query = _read(text, ("query",))["query"]
    if not isinstance(query, str):
        raise Malformed(f"the query is {_shown(query)}, not a text")
    # Half a surrogate pair, which JSON can hold, cannot be written to a file.
    return SPACE.sub(" ", query).strip().encode("utf-8", errors="ignore").decode("utf-8")


def _object(properties: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _read(text: str, names: Sequence[str]) -> Mapping[str, Any]:
    """The first JSON object in a text that has all these names."""
    text = THOUGHT.sub("", text)
    decoder = json.JSONDecoder()
    place = text.find("{")
    for _ in range(MAX_OBJECTS):
        if place < 0:
            break
        try:
            found, _ = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict) and all(name in found for name in names):
            return found
        place = text.find("{", place + 1)
    raise Malformed(f"no JSON object with {', '.join(names)} in {_shown(text)}")


def _chosen(found: Mapping[str, Any], name: str, choices: Sequence[Choice]) -> Choice:
    value = found[name]
    if isinstance(value, str):
        # Some models answer with the whole line of the list.
        wanted = value.partition(":")[0].strip().casefold()
        for choice in choices:
            if choice.name.casefold() == wanted:
                return choice
    raise Malformed(f"{name} is {_shown(value)}, which was not offered")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
