"""Loads models that are published while the server runs.

The files come from elsewhere. So they are tried in a process of its own first, and whatever goes wrong there or here
becomes an error that names the file. One thread at a time.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from shortlist_server.config import Config
from shortlist_server.domain import NEVER, Cancellation
from shortlist_server.errors import InferenceFailed, InvalidArgument, ModelNotFound, ModelRefused, ShortlistError
from shortlist_server.inference import layout
from shortlist_server.inference.catalog import schedule, warm_up, warm_up_reranker
from shortlist_server.inference.embedder_layout import read_embedder
from shortlist_server.inference.export_process import Load, load_exporting_in_child, try_in_child
from shortlist_server.inference.known_models import find_known
from shortlist_server.inference.loading import load_embedder, load_reranker
from shortlist_server.inference.onnx_backend import exports_of
from shortlist_server.inference.precedence import Precedence
from shortlist_server.inference.processors import INGEST_NICENESS
from shortlist_server.inference.prompts import read_prompts
from shortlist_server.inference.services import ScheduledEmbedder, ScheduledReranker
from shortlist_server.observe.observer import Observer

logger = logging.getLogger(__name__)

T = TypeVar("T")


class PublishedModels:
    """Loads published models into this process, and removes what was made from them.

    Args:
        observer: the lanes of the models report to it.
        precedence: shared with the embedders that the server was started with.
    """

    def __init__(self, config: Config, observer: Observer, precedence: Precedence) -> None:
        self._config = config
        self._observer = observer
        self._precedence = precedence

    def attempt(
        self,
        model: str,
        folder: Path,
        *,
        reranks: bool,
        tell: Callable[[str], None],
        cancellation: Cancellation = NEVER,
    ) -> None:
        """Loads a model in another process at the priority of ingest, and makes the exports that it needs.

        Args:
            model: NAME@VERSION.
            reranks: whether it is a reranker.
            tell: called with each step.

        Raises:
            ModelRefused: a file is damaged or foreign; the message names it.
            OutOfSpace, Unavailable: the machine has no room for it.
            OperationCancelled: it was cancelled.
        """
        load = self._load(model, folder, reranks=reranks)
        _refusing(model, folder, lambda: try_in_child(load, tell, cancellation, niceness=INGEST_NICENESS))

    def load(self, model: str, folder: Path, *, reranks: bool) -> ScheduledEmbedder | ScheduledReranker:
        """Loads a model, warms it up and puts it behind its lanes. Arguments and errors: see ``attempt``."""
        return _refusing(model, folder, lambda: self._scheduled(model, folder, reranks=reranks))

    def keeps_prompts(self, model: str, folder: Path, card: str) -> bool:
        """Whether an embedder would have the same prompts, and the same similarity, with another card."""
        now, then = find_known(folder, _name(model)), find_known(folder, _name(model), card)
        settings = layout.read_optional_json(folder / "config_sentence_transformers.json")
        same_similarity = bool(settings.get("similarity_fn_name")) or now.similarity == then.similarity
        return same_similarity and read_prompts(folder, now) == read_prompts(folder, then)

    def remove_exports(self, model: str, folder: Path, *, reranks: bool) -> None:
        """Removes the exports of a model's weights. Loaded models keep running; a start makes anew what it needs."""
        try:
            parts = () if reranks else read_embedder(folder, _name(model)).parts
            weights = layout.revision(folder, (), parts)
        except Exception:  # a refused model may be damaged in any way
            return  # What cannot be read was not exported.
        for export in exports_of(self._config.data_dir, weights):
            shutil.rmtree(export, ignore_errors=True)

    def forget(self, model: str) -> None:
        """Removes an unloaded model from the metrics."""
        self._observer.forget(model)

    def _scheduled(self, model: str, folder: Path, *, reranks: bool) -> ScheduledEmbedder | ScheduledReranker:
        load = self._load(model, folder, reranks=reranks)
        engine = load_exporting_in_child(load, model)
        if reranks:
            warm_up_reranker(engine)
            return ScheduledReranker(engine, observer=self._observer)
        warm_up(engine)
        return schedule(engine, self._config, self._observer, self._precedence, model)

    def _load(self, model: str, folder: Path, *, reranks: bool) -> Load[Any]:
        if reranks:
            return partial(load_reranker, model, folder, self._config)
        return partial(load_embedder, model, folder, _name(model), self._config)


def _name(model: str) -> str:
    return model.partition("@")[0]


def _refusing(model: str, folder: Path, work: Callable[[], T]) -> T:
    """Does the work; turns every fault that the model's files may cause into ``ModelRefused``."""
    try:
        return work()
    except (ModelNotFound, InvalidArgument, InferenceFailed) as error:
        raise ModelRefused(_without(folder, error.message), metadata={"model": model}) from error
    except (ShortlistError, OSError, MemoryError):
        raise
    except BaseException as error:  # libraries raise dozens of kinds; tokenizers a panic that is no Exception
        logger.exception("model %s cannot be loaded", model)
        message = f"the model cannot be loaded ({type(error).__name__}: {error}): its files are damaged or foreign"
        raise ModelRefused(_without(folder, message), metadata={"model": model}) from error


def _without(folder: Path, message: str) -> str:
    """A message without the server's own paths."""
    return message.replace(f"{folder}/", "").replace(str(folder), "the model's folder")
