"""Finds the models that a run starts from."""

from __future__ import annotations

from pathlib import Path

from shortlist_adapt.errors import InvalidInput
from shortlist_server.config import DEFAULT_EMBEDDER
from shortlist_server.errors import ModelNotFound
from shortlist_server.inference.catalog import bundled_minilm
from shortlist_server.inference.layout import find_folder


def find_base(source: str) -> Path:
    """The folder of a model that is named as in the settings of a server: all-MiniLM-L6-v2, a folder, or a hub name.

    Raises:
        InvalidInput: there is no such model.
    """
    try:
        return bundled_minilm() if source == DEFAULT_EMBEDDER else find_folder(source)
    except ModelNotFound as error:
        raise InvalidInput(str(error)) from error
