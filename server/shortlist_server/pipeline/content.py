"""What makes a document's content the same, and what makes a client's vector usable.

Pure functions; any thread.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
from numpy.typing import NDArray

from shortlist_server.domain import CollectionConfig, Document, Vector
from shortlist_server.errors import InvalidVector


def content_hash(document: Document, config: CollectionConfig) -> bytes:
    """A digest of 16 bytes over the document and the model revision: equal digests, equal stored content.

    Chunking is not part of it, because a collection's never changes.
    """
    digest = hashlib.blake2b(digest_size=16)
    metadata = json.dumps(document.metadata, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    for part in (config.embedder_revision, document.id, document.title, document.text, metadata):
        raw = part.encode()
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    if document.vector is not None:
        digest.update(np.ascontiguousarray(document.vector, dtype=np.float32).tobytes())
    return digest.digest()


def client_vector(values: NDArray[np.float32], dimension: int, *, field: str = "document.vector") -> Vector:
    """A client's vector, normalised to length 1.

    Raises:
        InvalidVector: it has not ``dimension`` values, is zero, or holds NaN or infinity.
    """
    if values.shape != (dimension,):
        raise InvalidVector(
            f"the vector has {values.size} values, the collection has {dimension} dimensions",
            field=field,
            metadata={"dimension": str(dimension)},
        )
    norm = float(np.linalg.norm(values.astype(np.float64)))
    if not np.isfinite(norm):
        raise InvalidVector("the vector holds NaN or infinity", field=field)
    if norm == 0:
        raise InvalidVector("the vector is zero and has no direction", field=field)
    return np.asarray(values / norm, dtype=np.float32)
