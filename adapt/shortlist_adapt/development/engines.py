"""Opens a model folder with the server's own engines, so that figures are about what will be served."""

from __future__ import annotations

from pathlib import Path

from shortlist_adapt.errors import InvalidInput
from shortlist_server.config import Config
from shortlist_server.errors import ModelNotFound
from shortlist_server.inference.base import Embedder, Reranker
from shortlist_server.inference.loading import load_embedder, load_reranker


def _config(device: str, threads: int) -> Config:
    # Exact numbers in torch: an int8 export would take longer to make than it saves on a sample.
    return Config(device=device, backend="torch", dtype="float32", inference_threads=threads)


def open_embedder(folder: Path, *, device: str = "auto", threads: int = 0) -> Embedder:
    """The embedder in a folder, in float32. Raises ``InvalidInput`` where the server would refuse it."""
    try:
        return load_embedder(folder.name, folder, "", _config(device, threads))
    except ModelNotFound as error:
        raise InvalidInput(str(error)) from error


def open_reranker(folder: Path, *, device: str = "auto", threads: int = 0) -> Reranker:
    """The reranker in a folder, in float32. Raises ``InvalidInput`` where the server would refuse it."""
    try:
        return load_reranker(folder.name, folder, _config(device, threads))
    except ModelNotFound as error:
        raise InvalidInput(str(error)) from error
