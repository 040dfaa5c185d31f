"""Finds the models that a run starts from."""

from __future__ import annotations

from pathlib import Path

from shortlist_adapt.corpus import noted
from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.folder import RunFolder
from shortlist_server.config import DEFAULT_EMBEDDER
from shortlist_server.errors import ModelNotFound
from shortlist_server.inference.catalog import bundled_minilm
from shortlist_server.inference.layout import find_folder


def embedder_base(folder: RunFolder, named: str) -> Path:
    """The folder of the embedder to train.

    Args:
        named: as in the settings of a server: all-MiniLM-L6-v2, a folder, or a hub name; "" for the embedder that
            served the collection when the run began.

    Raises:
        InvalidInput: there is no such model, or only the server knows where its files are.
    """
    source = named or _serving(folder)
    try:
        return bundled_minilm() if source == DEFAULT_EMBEDDER else find_folder(source)
    except ModelNotFound as error:
        where = "" if named else "; the server knows where it is: name its folder with --embedder-base"
        raise InvalidInput(f"{error}{where}") from error


def reranker_base(folder: RunFolder, named: str, embedder_named: str) -> Path:
    """The folder of the model that the reranker starts from: ``named``, or the embedder's. See ``embedder_base``."""
    return embedder_base(folder, named or embedder_named)


def _serving(folder: RunFolder) -> str:
    name = noted(folder).get("embedder")
    if not name:
        raise InvalidInput(f"{folder.root} has no exported collection: run 'shortlist adapt synthesise' first")
    return str(name)
