"""A collection's settings as JSON, the form they have in its database.

Unknown keys are an error rather than ignored: a newer release that adds one raises the schema version. Pure functions.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from typing import Any

from shortlist_server.domain import (
    Chunking,
    CollectionConfig,
    FusionMethod,
    OverflowPolicy,
    RerankFailurePolicy,
    RetrievalMode,
    SearchDefaults,
)

_ENUMS: dict[str, type[enum.Enum]] = {
    "mode": RetrievalMode,
    "fusion": FusionMethod,
    "rerank_on_failure": RerankFailurePolicy,
    "overflow": OverflowPolicy,
}


RaisedEf = tuple[int, int]
"""What the breadth of searches without and with a filter was raised to; 0 where it was not."""

NOT_RAISED: RaisedEf = (0, 0)


def dump(config: CollectionConfig) -> str:
    """The JSON text of a collection's settings."""
    return json.dumps(_plain(dataclasses.asdict(config)), ensure_ascii=False)


def load(text: str) -> CollectionConfig:
    """The settings of a JSON text made by ``dump``."""
    values: dict[str, Any] = json.loads(text)
    values["chunking"] = Chunking(**values["chunking"])
    values["search_defaults"] = SearchDefaults(**_rich(values["search_defaults"]))
    values["filterable_fields"] = tuple(values["filterable_fields"])
    return CollectionConfig(**_rich(values))


def load_raised_ef(text: str | None) -> RaisedEf:
    """The raised breadths of a JSON list; None where there never was one."""
    if text is None:
        return NOT_RAISED
    unfiltered, filtered = json.loads(text)
    return int(unfiltered), int(filtered)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, enum.Enum):
            plain[name] = value.value
        elif isinstance(value, dict):
            plain[name] = _plain(value)
        elif value is not None:
            plain[name] = value
    return plain


def _rich(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _ENUMS[name](value) if name in _ENUMS else value for name, value in values.items()}
