"""A collection's settings as JSON, as its database stores them.

An unknown key is an error: a release that adds a key raises the schema version. One checksum covers all settings, and
each write of a setting updates it in the same transaction. Functions without state.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import sqlite3
from typing import Any

from shortlist_server.domain import (
    Chunking,
    CollectionConfig,
    FusionMethod,
    OverflowPolicy,
    RerankFailurePolicy,
    RerankStage,
    RetrievalMode,
    SearchDefaults,
)
from shortlist_server.storage.rows.checksums import SETTINGS_CHECKSUM, settings_checksum

_ENUMS: dict[str, type[enum.Enum]] = {
    "mode": RetrievalMode,
    "fusion": FusionMethod,
    "rerank_on_failure": RerankFailurePolicy,
    "overflow": OverflowPolicy,
}

_FORMER_VALUES = {"convex": FusionMethod.WEIGHTED_SUM.value}
"""What older databases call a value."""


RaisedEf = tuple[int, int]
"""The raised ``ef`` of searches without and with a filter; 0 where it was not raised."""

NOT_RAISED: RaisedEf = (0, 0)


def dump(config: CollectionConfig) -> str:
    """The JSON text of a collection's settings."""
    return json.dumps(_plain(dataclasses.asdict(config)), ensure_ascii=False)


def load(text: str) -> CollectionConfig:
    """The settings of a JSON text made by ``dump``."""
    values: dict[str, Any] = json.loads(text)
    values["chunking"] = Chunking(**values["chunking"])
    values["search_defaults"] = _load_defaults(values["search_defaults"])
    values["filterable_fields"] = tuple(values["filterable_fields"])
    return CollectionConfig(**_rich(values))


def _load_defaults(values: dict[str, Any]) -> SearchDefaults:
    stages = values.get("rerank_stages")
    if stages is not None:
        values["rerank_stages"] = tuple(RerankStage(**stage) for stage in stages)
    return SearchDefaults(**_rich(values))


def load_raised_ef(text: str | None) -> RaisedEf:
    """The raised ``ef`` values from a JSON list; None means that none was ever raised."""
    if text is None:
        return NOT_RAISED
    unfiltered, filtered = json.loads(text)
    return int(unfiltered), int(filtered)


def save(connection: sqlite3.Connection, name: str, value: str) -> None:
    """Writes one setting and the checksum of all."""
    connection.execute(
        "INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, value),
    )
    if name != SETTINGS_CHECKSUM:
        stored = dict(connection.execute("SELECT name, value FROM settings"))
        save(connection, SETTINGS_CHECKSUM, str(settings_checksum(stored)))


def identify(connection: sqlite3.Connection) -> None:
    """Writes the checksum of all settings, and the collection's identity beside the counters.

    Every commit writes the counters, so another collection's write-ahead log is recognised by the identity it brings.
    """
    stored = dict(connection.execute("SELECT name, value FROM settings"))
    save(connection, SETTINGS_CHECKSUM, str(settings_checksum(stored)))
    connection.execute("UPDATE counters SET uid = ?", (stored.get("uid", ""),))


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, enum.Enum):
            plain[name] = value.value
        elif isinstance(value, dict):
            plain[name] = _plain(value)
        elif name == "rerank_stages" and value is not None:
            plain[name] = [_plain(stage) for stage in value]
        elif value is not None:
            plain[name] = value
    return plain


def _rich(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _ENUMS[name](_FORMER_VALUES.get(value, value)) if name in _ENUMS else value
        for name, value in values.items()
    }
