"""A collection's settings as JSON, the form they have in its database.

Unknown keys are an error rather than ignored: a newer release that adds one raises the schema version. The settings
have one checksum, which whoever writes a setting writes anew in the same transaction. Functions without state.
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
"""What the ``ef`` of searches without and with a filter was raised to; 0 where it was not."""

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
    """The raised ``ef`` values of a JSON list; None where there never was one."""
    if text is None:
        return NOT_RAISED
    unfiltered, filtered = json.loads(text)
    return int(unfiltered), int(filtered)


def save(connection: sqlite3.Connection, name: str, value: str) -> None:
    """Writes one setting, and the checksum of all."""
    connection.execute(
        "INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, value),
    )
    if name != SETTINGS_CHECKSUM:
        stored = dict(connection.execute("SELECT name, value FROM settings"))
        save(connection, SETTINGS_CHECKSUM, str(settings_checksum(stored)))


def identify(connection: sqlite3.Connection) -> None:
    """Writes the checksum of all settings, and the collection's identity beside the counters.

    The counters are in every commit, so a write-ahead log of another collection brings that one's identity along.
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
        elif value is not None:
            plain[name] = value
    return plain


def _rich(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _ENUMS[name](_FORMER_VALUES.get(value, value)) if name in _ENUMS else value
        for name, value in values.items()
    }
