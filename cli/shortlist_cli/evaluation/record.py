"""A run as it is saved: a folder with ``run.json`` (everything but the queries) and ``queries.jsonl``.

A line of ``queries.jsonl`` is one query under one setting, with the ids and the measures of each ranking. From these
lines two runs are compared query by query, and other measures can be computed later. ``FORMAT`` goes up when a reader
of an older release would misread the files. Use an object from one thread.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1


class InvalidRecord(Exception):
    """The folder is not a saved run, or another release saved it; the message says which."""


@dataclass(slots=True, kw_only=True)
class QueryRecord:
    """One query under one setting.

    Attributes:
        query, text: its id and text.
        judged: grades by document id.
        ids: by ranking, the documents found, best first.
        measures: by ranking, then by measure, 0 to 1.
        hits: the first hits of the whole search with rank and score in every stage.
        lost: the kinds of degradation that the whole search reported.
    """

    query: str
    text: str
    judged: Mapping[str, int]
    ids: Mapping[str, Sequence[str]]
    measures: Mapping[str, Mapping[str, float]]
    hits: Sequence[Mapping[str, Any]] = ()
    lost: Sequence[str] = ()

    def rank(self, ranking: str, document: str) -> int | None:
        """The document's rank from 1; None when the ranking does not have it."""
        ids = list(self.ids[ranking])
        return ids.index(document) + 1 if document in ids else None


@dataclass(slots=True, kw_only=True)
class SettingRecord:
    """One setting.

    Attributes:
        label: the setting in one line.
        values: its values by path.
        quality: by measure, then by ranking: mean and 95 % interval ("mean", "low", "high").
        latency: of the whole search, one at a time; the fields of ``LatencyFigures``. None when it was not timed.
        versus_defaults: the difference of its final ranking from the defaults' in the first measure: the fields of
            ``Difference`` and "p_adjusted". None for the defaults themselves.
        queries: a record of each query.
    """

    label: str
    values: Mapping[str, Any]
    quality: Mapping[str, Mapping[str, Mapping[str, float]]]
    latency: Mapping[str, Any] | None = None
    versus_defaults: Mapping[str, Any] | None = None
    queries: list[QueryRecord] = field(default_factory=list)

    @property
    def rankings(self) -> tuple[str, ...]:
        """The rankings that were judged, in the order of ``RANKINGS``."""
        return tuple(next(iter(self.quality.values())))

    def figures(self, ranking: str, measure: str) -> dict[str, float]:
        """The values of a measure of a ranking, by query id."""
        return {record.query: record.measures[ranking][measure] for record in self.queries}


@dataclass(slots=True, kw_only=True)
class RunRecord:
    """A run.

    Attributes:
        name: what was judged.
        created: when it ran, as an ISO 8601 time.
        command: the command line.
        about: sizes, models, the server and the machine.
        settings: the settings; the first has the defaults.
        stage_latency: by ranking, for the first setting: the fields of ``LatencyFigures``.
        documents: titles and first characters of the documents that a report shows, by id.
    """

    name: str
    created: str
    command: str
    about: Mapping[str, Any]
    settings: list[SettingRecord]
    stage_latency: Mapping[str, Mapping[str, Any]]
    documents: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Writes the two files; makes the folder, and replaces an earlier run in it."""
        folder.mkdir(parents=True, exist_ok=True)
        whole = {"format": FORMAT, **asdict(self)}
        # run.json is written last: an interrupted save leaves no run, even where an older one was.
        (folder / "run.json").unlink(missing_ok=True)
        with (folder / "queries.jsonl").open("w", encoding="utf-8") as lines:
            for setting in whole["settings"]:
                for query in setting.pop("queries"):
                    lines.write(json.dumps({"setting": setting["label"], **query}, ensure_ascii=False) + "\n")
        (folder / "run.json").write_text(json.dumps(whole, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def load_run(folder: Path) -> RunRecord:
    """Reads a saved run.

    Raises:
        InvalidRecord: the folder is not a saved run, or this release cannot read it.
    """
    try:
        whole = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if whole.pop("format", None) != FORMAT:
            raise InvalidRecord(f"{folder} was saved by another release; run the evaluation again")
        settings = {row["label"]: SettingRecord(**row) for row in whole.pop("settings")}
        with (folder / "queries.jsonl").open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                settings[row.pop("setting")].queries.append(QueryRecord(**row))
        record = RunRecord(**whole, settings=list(settings.values()))
        if not record.settings or not all(setting.queries for setting in record.settings):
            raise InvalidRecord(f"{folder} has settings without queries")
    except FileNotFoundError as error:
        raise InvalidRecord(f"{folder} is not a saved run: {Path(error.filename).name} is missing") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidRecord(f"{folder} is not a saved run: {error}") from error
    return record
