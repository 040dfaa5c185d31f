"""The ways to use a candidate's models, of which the best goes to the held-out queries.

The present models with tuned settings are one of the ways. So a gain that settings alone would bring does not count as
one of a new model. Pure functions; any thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from shortlist import Collection, SearchDefaults
from shortlist_adapt.gating import presets
from shortlist_adapt.gating.settings import GateSettings
from shortlist_adapt.reporting.decision import GatedModel

PRESENT = "present models"
MOST_WAYS = 4
"""Ways there are with both models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to use the models.

    Attributes:
        name: as in ``Trial``.
        models: the new models that it uses.
        generation: the generation that it searches; 0 for the one that serves.
        defaults: the presets that it searches with.
    """

    name: str
    models: tuple[GatedModel, ...]
    generation: int
    defaults: SearchDefaults

    @property
    def new_reranker(self) -> str:
        """Address of the new reranker; "" where it uses none."""
        return next((model.address for model in self.models if model.kind == "reranker"), "")

    def arguments(self) -> dict[str, Any]:
        """Arguments of ``Client.search``."""
        return {**presets.arguments(self.defaults), "generation": self.generation}


def ways(collection: Collection, models: Sequence[GatedModel], generation: int, settings: GateSettings) -> list[Way]:
    """Every way to use the models, the one that changes least first; ``generation`` is that of the new embedder."""
    return list(_ways(collection, models, generation, max(settings.rerank_depths)))


def _ways(collection: Collection, models: Sequence[GatedModel], generation: int, depth: int) -> Iterator[Way]:
    present = collection.config.search_defaults
    yield Way(name=PRESENT, models=(), generation=0, defaults=present)
    by_kind = {model.kind: model for model in models}
    embedder, reranker = by_kind.get("embedder"), by_kind.get("reranker")
    reranked = present if reranker is None else presets.with_reranker(collection, reranker.address, depth)
    if reranker is not None:
        yield Way(name="reranker", models=(reranker,), generation=0, defaults=reranked)
    if embedder is not None:
        yield Way(name="embedder", models=(embedder,), generation=generation, defaults=present)
    if embedder is not None and reranker is not None:
        yield Way(name="embedder and reranker", models=(embedder, reranker), generation=generation, defaults=reranked)
