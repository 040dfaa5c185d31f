"""The decision of the gate, as a value: what was measured, whether the candidate passed, and if not, why.

``gate.json`` is this value as JSON. Pure functions but for reading and writing the file.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shortlist import ModelKind
from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.folder import write_json
from shortlist_server.ranking.significance import Difference, shown


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedModel:
    """A model of the candidate, as the server has it.

    Attributes:
        kind: "embedder" or "reranker".
        name, version: as published.
        address: the exact name under which collections and searches ask for it.
        revision: what the server computes over its files.
        digest: SHA-256 of its files as the gate saw them, in hexadecimal.
    """

    kind: ModelKind
    name: str
    version: str
    address: str
    revision: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A way to use the models, tuned on the development split.

    Attributes:
        name: "present models", "embedder", "reranker" or "embedder and reranker".
        development: mean final nDCG@10 on the development split, cross-validated.
        untuned: the same under the collection's present settings.
        settings: the tuned settings in words; empty where the present ones are as good.
    """

    name: str
    development: float
    untuned: float
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One side of the comparison, on the held-out queries.

    Attributes:
        ndcg_at_10: mean final nDCG@10.
        median_ms: median time of a search, in milliseconds.
        degraded: number of degraded searches by kind.
    """

    ndcg_at_10: float
    median_ms: float
    degraded: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardedOutcome:
    """A guarded set.

    Attributes:
        name: the set.
        collection: where it was searched.
        queries: number of them.
        serving, candidate: mean final nDCG@10 of both sides.
        low, high: the 95 % interval of the difference.
        affected: whether the candidate changes anything for the collection at all.
        holds: whether the fall is within the margin.
    """

    name: str
    collection: str
    queries: int
    serving: float
    candidate: float
    low: float
    high: float
    affected: bool
    holds: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryChange:
    """A held-out query under both sides: nDCG@10 and the first ten documents. ``relevant`` are those that answer it."""

    id: str
    text: str
    source: str
    serving: float
    candidate: float
    relevant: tuple[str, ...]
    serving_ids: tuple[str, ...]
    candidate_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the gate measured and decided.

    Attributes:
        passed: whether the candidate may be published.
        reason: one sentence; why it was refused, or what it gained.
        fingerprint: of everything the decision rests on.
        collection: what was searched.
        models: the models of the chosen trial.
        generation: the generation of the collection that was made with the new embedder; 0 where there is none.
        search_defaults: the presets that the collection gets with the candidate, as ``presets.to_json`` writes them.
        trials: every way to use the models, and its figure on the development split.
        chosen: name of the trial that was measured on the held-out queries.
        sources: held-out queries by source.
        serving, candidate: both sides.
        settings_alone: the present models with tuned settings, on the same queries; None where tuning found none.
        difference: candidate minus serving, over the held-out queries.
        margin: the gain that had to be exceeded.
        p: how often chance alone produces such a gain over the margin.
        guarded: the guarded sets.
        queries: every held-out query, greatest loss first.
        hidden: whether the searches were made in a copy of the collection without the words that queries were cut from.
    """

    passed: bool
    reason: str
    fingerprint: str
    collection: str
    models: tuple[GatedModel, ...]
    generation: int
    search_defaults: Mapping[str, Any]
    trials: tuple[Trial, ...]
    chosen: str
    sources: Mapping[str, int]
    serving: Side
    candidate: Side
    settings_alone: Side | None
    difference: Difference
    margin: float
    p: float
    guarded: tuple[GuardedOutcome, ...]
    queries: tuple[QueryChange, ...]
    hidden: bool

    def model(self, kind: str) -> GatedModel | None:
        """The candidate's model of a kind; None where it has none."""
        return next((model for model in self.models if model.kind == kind), None)

    def save(self, path: Path) -> None:
        """Replaces the file in one step."""
        write_json(path, dataclasses.asdict(self))


def chance(p: float) -> str:
    """A p-value for a sentence: "p = 0.012", or "p < 0.001"."""
    return f"p {shown(p).replace('<', '< ')}" if shown(p).startswith("<") else f"p = {shown(p)}"


def load(path: Path) -> Decision:
    """Reads a saved decision. Raises ``InvalidInput``."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Decision(
            **{
                **values,
                "models": tuple(GatedModel(**one) for one in values["models"]),
                "trials": tuple(Trial(**one) for one in values["trials"]),
                "serving": Side(**values["serving"]),
                "candidate": Side(**values["candidate"]),
                "settings_alone": None if values["settings_alone"] is None else Side(**values["settings_alone"]),
                "difference": Difference(**values["difference"]),
                "guarded": tuple(GuardedOutcome(**one) for one in values["guarded"]),
                "queries": tuple(_change(one) for one in values["queries"]),
            }
        )
    except FileNotFoundError as error:
        raise InvalidInput(f"{path.name} is missing; run the gate first: shortlist adapt gate") from error
    except (OSError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise InvalidInput(f"{path.name} is not a decision of the gate ({error})") from error


def _change(values: dict[str, Any]) -> QueryChange:
    lists = ("relevant", "serving_ids", "candidate_ids")
    return QueryChange(**{**values, **{name: tuple(values[name]) for name in lists}})
