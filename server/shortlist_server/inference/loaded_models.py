"""The models that a server serves, by name, whether they run in this process or on workers.

Models that are published while the server runs are added, and removed when they are deleted. Any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

from shortlist_server.domain import LATE_INTERACTION, NO_MODEL
from shortlist_server.errors import ModelMismatch, ModelNotFound, Unavailable
from shortlist_server.inference.base import (
    EmbedderInfo,
    EmbedderService,
    RerankerService,
)
from shortlist_server.inference.late_interaction import LateInteraction
from shortlist_server.inference.services import ScheduledEmbedder, ScheduledReranker
from shortlist_server.observe.observer import Observer


class LoadedModels:
    """A ``ModelCatalog`` of models that are ready to run.

    Args:
        embedders: the default first. Of several with one name the first is current; the others serve the generations
            that were made with them.
        on_close: called at the end of ``close``.
    """

    def __init__(
        self,
        embedders: Iterable[ScheduledEmbedder],
        rerankers: Mapping[str, ScheduledReranker],
        default_reranker: str,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_close = on_close
        self._lock = threading.Lock()
        self._closed = False
        # Replaced as a whole when a model is added or removed, so that readers need no lock.
        self._embedders: dict[str, list[ScheduledEmbedder]] = {}
        for embedder in embedders:
            self._embedders.setdefault(embedder.info.name, []).append(embedder)
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

    def embedders(self) -> Sequence[EmbedderService]:
        """See ``ModelCatalog.embedders``."""
        return [embedder for revisions in self._embedders.values() for embedder in revisions]

    def embedder(self, name: str, revision: str = "") -> EmbedderService:
        """See ``ModelCatalog.embedder``."""
        loaded = self._embedders.get(name)
        if loaded is None:
            raise _not_loaded("embedder", name, self._embedders)
        if not revision:
            return loaded[0]
        for known in (lambda info: (info.revision,), lambda info: info.former_revisions):
            for embedder in loaded:
                if revision in known(embedder.info):
                    return embedder
        raise _mismatch(name, revision, loaded[0].info.revision)

    def reranker(self, name: str) -> RerankerService:
        """See ``ModelCatalog.reranker``. "none" is no reranker, so it raises too."""
        found = self._rerankers.get(name)
        if found is None:
            raise _not_loaded("reranker", name, self._rerankers)
        return found

    def find(self, name: str) -> ScheduledEmbedder | ScheduledReranker | None:
        """The model of that name, of several revisions the current one; None if none is loaded."""
        embedders = self._embedders.get(name)
        return embedders[0] if embedders else self._rerankers.get(name)

    def add(self, model: ScheduledEmbedder | ScheduledReranker, observer: Observer) -> None:
        """Adds a model under its own name; with the first embedder that gives token vectors comes late interaction.

        Raises:
            ValueError: a model of that name is loaded.
            Unavailable: the models were closed; then this one is, too.
        """
        name = model.info.name
        with self._lock:
            if self._closed:
                model.close()
                raise Unavailable("the server is stopping")
            if self.find(name) is not None:
                raise ValueError(f"a model named {name!r} is loaded")
            if isinstance(model, ScheduledReranker):
                self._rerankers = {**self._rerankers, name: model}
                return
            if LATE_INTERACTION not in self._rerankers:
                self._rerankers = {**self._rerankers, **late_interaction([model], observer)[0]}
            self._embedders = {**self._embedders, name: [model]}

    def remove(self, name: str) -> ScheduledEmbedder | ScheduledReranker | None:
        """Takes out a model that ``add`` added, for the caller to close or to add again; None if there is none."""
        with self._lock:
            embedders, rerankers = dict(self._embedders), dict(self._rerankers)
            removed = embedders.pop(name, [None])[0] or rerankers.pop(name, None)
            self._embedders, self._rerankers = embedders, rerankers
            return removed

    def close(self) -> None:
        """See ``ModelCatalog.close``."""
        with self._lock:
            self._closed = True
        for revisions in self._embedders.values():
            for embedder in revisions:
                embedder.close()
        for reranker in self._rerankers.values():
            reranker.close()
        self._on_close()


def late_interaction(
    embedders: Iterable[ScheduledEmbedder], observer: Observer
) -> tuple[dict[str, ScheduledReranker], str]:
    """The rerankers that need no model of their own, and the default reranker's name.

    Late interaction is among them, and is the default, if an embedder gives token vectors.
    """
    if any(embedder.info.token_vectors for embedder in embedders):
        return {LATE_INTERACTION: ScheduledReranker(LateInteraction(), observer=observer)}, LATE_INTERACTION
    return {}, NO_MODEL


def _not_loaded(kind: str, name: str, models: Mapping[str, object]) -> ModelNotFound:
    names = ", ".join(map(repr, sorted(models))) or "none"
    remedy = f"; if it was published, 'shortlist models load {name}' loads it" if "@" in name else ""
    return ModelNotFound(f"no {kind} {name!r} is loaded; loaded {kind}s: {names}{remedy}", metadata={"model": name})


def _mismatch(name: str, stored: str, loaded: str) -> ModelMismatch:
    return ModelMismatch(
        f"the vectors were made with revision {stored[:12]} of embedder {name!r}, but the server has {loaded[:12]}:"
        f" make them anew with 'shortlist reindex', or serve the former model too, with a second --embedder"
        f" {name}=FOLDER",
        metadata={"model": name, "stored_revision": stored, "loaded_revision": loaded},
    )


def labels(infos: Sequence[EmbedderInfo]) -> list[str]:
    """A label for each embedder, for metrics: its name, and with the beginning of its revision if it is not current."""
    current: dict[str, str] = {}
    for info in infos:
        current.setdefault(info.name, info.revision)
    return [info.name if info.revision == current[info.name] else f"{info.name}@{info.revision[:12]}" for info in infos]
