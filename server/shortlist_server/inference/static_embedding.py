"""A static embedding model: a table with a vector for each token, and no transformer.

A text's vector is the mean of its tokens' vectors. The table is read on the CPU, whatever the device. Immutable after
construction; any thread. Formats: sentence-transformers, ``StaticEmbedding``, and model2vec.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shortlist_server.errors import ModelNotFound
from shortlist_server.inference.tensors import TABLE_NAMES, read_tensors

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]


class StaticTable:
    """A ``Forward`` whose hidden states are rows of a table."""

    def __init__(self, folder: Path) -> None:
        """Raises ``ModelNotFound`` when the table's file is missing or damaged."""
        tensors = read_tensors(folder)
        table = next((tensors[name] for name in TABLE_NAMES if name in tensors), np.empty(0))
        # In model2vec, tokens may share a row, and each token's weight is kept apart.
        if "mapping" in tensors:
            table = table[tensors["mapping"]]
        if "weights" in tensors:
            table = table * tensors["weights"][:, None]
        if table.ndim != 2 or not len(table):
            raise ModelNotFound(f"{folder / 'model.safetensors'} has no table of token vectors: copy the model anew")
        self._table: Floats = np.asarray(table, dtype=np.float32)

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens that have a vector."""
        return len(self._table)

    def run(self, ids: Ids, mask: Ids, segments: Ids | None = None) -> Floats:
        """See ``Forward.run``."""
        return self._table[ids]
