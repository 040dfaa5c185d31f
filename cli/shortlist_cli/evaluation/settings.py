"""Settings of a search as ``--sweep`` writes them, and the search arguments they become for each judged ranking.

Pure functions and values; any thread.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shortlist import Candidates, Fusion, Rerank, SearchDefaults

RANKINGS = ("dense", "lexical", "fused", "final")
"""The judged rankings: each index alone, both fused, and the whole search. A collection without an embedder has no
"dense" ranking."""


class InvalidSweep(ValueError):
    """A sweep that cannot be read; the message states the expected form."""


def _yes_or_no(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise ValueError(text)
    return text.lower() == "true"


PATHS: Mapping[str, Callable[[str], Any]] = {
    "mode": str,
    "candidates": int,
    "candidates.dense": int,
    "candidates.lexical": int,
    "candidates.ef": int,
    "candidates.exact": _yes_or_no,
    "fusion.method": str,
    "fusion.dense_weight": float,
    "fusion.rrf_k": int,
    "rerank.enabled": _yes_or_no,
    "rerank.model": str,
    "rerank.depth": int,
    "rerank.weight": float,
}
"""Each setting with the function that reads its values. "candidates" sets both indexes; the rest are proto fields."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Values by path; paths that are absent take the default of the collection or the server."""

    values: tuple[tuple[str, Any], ...] = ()

    @property
    def label(self) -> str:
        """The settings in one line; "defaults" for none."""
        return ", ".join(f"{path}={_shown(value)}" for path, value in self.values) or "defaults"

    def defaults(self) -> SearchDefaults:
        """The settings as a value of the client."""
        parts: dict[str, dict[str, Any]] = {"candidates": {}, "fusion": {}, "rerank": {}}
        mode = None
        for path, value in self.values:
            part, _, name = path.partition(".")
            if path == "mode":
                mode = value
            elif path == "candidates":
                # A value for one index overrides the value for both, in either order.
                parts[part] = {"dense": value, "lexical": value} | parts[part]
            else:
                parts[part][name] = value
        return SearchDefaults(
            mode=mode,
            candidates=Candidates(**parts["candidates"]),
            fusion=Fusion(**parts["fusion"]),
            rerank=Rerank(**parts["rerank"]),
        )

    def search(self, ranking: str) -> dict[str, Any]:
        """Arguments of ``Client.search`` for one of ``RANKINGS``; equal arguments give equal rankings."""
        chosen = self.defaults()
        candidates = chosen.candidates
        match ranking:
            case "dense":
                only = Candidates(dense=candidates.dense, ef=candidates.ef, exact=candidates.exact)
                return {"mode": "dense", "rerank": False, "candidates": only}
            case "lexical":
                return {"mode": "lexical", "rerank": False, "candidates": Candidates(lexical=candidates.lexical)}
            case "fused":
                return {"mode": chosen.mode, "rerank": False, "candidates": candidates, "fusion": chosen.fusion}
            case _:
                return {"mode": chosen.mode, "rerank": chosen.rerank, "candidates": candidates, "fusion": chosen.fusion}


def parse_sweeps(sweeps: Sequence[str]) -> list[Settings]:
    """The product of sweeps such as "rerank.weight=0,0.3,0.5"; the defaults alone for none.

    Raises:
        InvalidSweep: a sweep is not PATH=VALUE,VALUE, its path is unknown or repeated, or a value has the wrong type.
    """
    axes: dict[str, list[tuple[str, Any]]] = {}
    for sweep in sweeps:
        path, equals, values = (part.strip() for part in sweep.partition("="))
        if not equals or path not in PATHS:
            raise InvalidSweep(f"{sweep!r} is not PATH=VALUE,VALUE,... with a path of: {', '.join(PATHS)}")
        if path in axes:
            raise InvalidSweep(f"{path} is swept twice; put all its values into one sweep")
        try:
            # Duplicate values become one setting: a saved run identifies settings by their labels.
            axes[path] = [(path, value) for value in dict.fromkeys(PATHS[path](v.strip()) for v in values.split(","))]
        except ValueError as error:
            raise InvalidSweep(f"{sweep!r}: {path} does not take these values") from error
    return [Settings(tuple(chosen)) for chosen in itertools.product(*axes.values())]


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return str(value).removesuffix(".0")
    return str(value).lower() if isinstance(value, bool) else str(value)
