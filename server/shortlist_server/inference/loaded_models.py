"""The models that a server serves, by name, whether they run in this process or on workers.

Immutable but for ``close``; any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from shortlist_server.errors import ModelMismatch, ModelNotFound
from shortlist_server.inference.base import LATE_INTERACTION, NO_MODEL, EmbedderService, RerankerService
from shortlist_server.inference.late_interaction import LateInteraction
from shortlist_server.inference.services import ScheduledEmbedder, ScheduledReranker
from shortlist_server.observe.observer import Observer


class LoadedModels:
    """A ``ModelCatalog`` of models that are ready to run.

    Args:
        embedders: by name, the default first.
        on_close: called at the end of ``close``.
    """

    def __init__(
        self,
        embedders: Mapping[str, ScheduledEmbedder],
        rerankers: Mapping[str, ScheduledReranker],
        default_reranker: str,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_close = on_close
        self._embedders = dict(embedders)
        self._rerankers = dict(rerankers)
        self.default_embedder = next(iter(self._embedders), NO_MODEL)
        self.default_reranker = default_reranker

    @property
    def embedder_names(self) -> Sequence[str]:
        """See ``ModelCatalog.embedder_names``."""
        return tuple(self._embedders)

    @property
    def reranker_names(self) -> Sequence[str]:
        """See ``ModelCatalog.reranker_names``."""
        return tuple(sorted(self._rerankers, key=lambda name: name != self.default_reranker))

    def embedder(self, name: str, revision: str = "") -> EmbedderService:
        """See ``ModelCatalog.embedder``."""
        if name not in self._embedders:
            raise ModelNotFound(
                f"no embedder {name!r} is loaded; loaded embedders: {_names(self._embedders)}", metadata={"model": name}
            )
        found = self._embedders[name]
        if revision and revision != found.info.revision and revision not in found.info.former_revisions:
            raise ModelMismatch(
                f"the vectors were made with revision {revision[:12]} of embedder '{name}', but the server has "
                f"{found.info.revision[:12]}: serve that model too, or reindex the collection",
                metadata={"stored_revision": revision, "loaded_revision": found.info.revision},
            )
        return found

    def reranker(self, name: str) -> RerankerService:
        """See ``ModelCatalog.reranker``. The name "none" is not that of a reranker."""
        if name not in self._rerankers:
            raise ModelNotFound(
                f"no reranker {name!r} is loaded; loaded rerankers: {_names(self._rerankers)}", metadata={"model": name}
            )
        return self._rerankers[name]

    def close(self) -> None:
        """See ``ModelCatalog.close``."""
        for embedder in self._embedders.values():
            embedder.close()
        for reranker in self._rerankers.values():
            reranker.close()
        self._on_close()


def late_interaction(
    embedders: Mapping[str, ScheduledEmbedder], observer: Observer
) -> tuple[dict[str, ScheduledReranker], str]:
    """The rerankers that need no model of their own, and the default reranker's name.

    Late interaction is among them, and is the default, if an embedder gives token vectors.
    """
    if any(embedder.info.token_vectors for embedder in embedders.values()):
        return {LATE_INTERACTION: ScheduledReranker(LateInteraction(), observer=observer)}, LATE_INTERACTION
    return {}, NO_MODEL


def _names(models: Mapping[str, object]) -> str:
    return ", ".join(map(repr, sorted(models))) or "none"
