"""How the collection will use the embedder: training follows it, unless the settings say otherwise.

Reads what the export noted. Pure functions; any thread.
"""

from __future__ import annotations

from dataclasses import dataclass

from shortlist_adapt import corpus
from shortlist_adapt.folder import RunFolder
from shortlist_adapt.training.settings import EmbedderTraining
from shortlist_server.domain import Chunking
from shortlist_server.inference.embedder_layout import EmbedderLayout

_LEAST_HALF = 64
"""Smaller vectors are rarely stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What searches and passages will be.

    Attributes:
        instruction: of queries; "" for the model's own.
        chunking: how documents are cut; None for the model's default.
        dimension: size of the stored vectors; 0 for the model's.
    """

    instruction: str = ""
    chunking: Chunking | None = None
    dimension: int = 0


NOTHING_STATED = Serving()
"""All as the model's own files say."""


def read_serving(folder: RunFolder, settings: EmbedderTraining) -> Serving:
    """What the settings say, and the collection where they say nothing."""
    noted = corpus.noted(folder)
    passage_tokens, overlap_tokens = settings.passage_tokens, settings.overlap_tokens
    if not passage_tokens:
        passage_tokens, overlap_tokens = noted.get("passage_tokens", 0), noted.get("overlap_tokens", 0)
    return Serving(
        instruction=settings.instruction or noted.get("instruction", ""),
        chunking=Chunking(max_tokens=passage_tokens, overlap_tokens=overlap_tokens) if passage_tokens else None,
        dimension=noted.get("dimension", 0),
    )


def trained_sizes(found: EmbedderLayout, serving: Serving, settings: EmbedderTraining) -> list[int]:
    """The sizes of vectors that the loss is averaged over, ascending; the full one is the last.

    A model whose vectors may be cut must be trained on cut ones too, or they get worse.
    """
    sizes = {found.dimension, *settings.dimensions}
    if 0 < serving.dimension < found.dimension:
        sizes.add(serving.dimension)
    half = found.dimension // 2
    while not settings.dimensions and half >= max(found.min_dimension, _LEAST_HALF):
        sizes.add(half)
        half //= 2
    return sorted(sizes)
