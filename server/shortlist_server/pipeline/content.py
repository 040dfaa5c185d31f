"""Detects unchanged documents by their content, and checks clients' vectors.

Pure functions; any thread.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shortlist_server.domain import Document, Vector
from shortlist_server.errors import InvalidVector

_canonical = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode


def content_hash(document: Document) -> bytes:
    """A digest of 16 bytes over the document: equal digests mean equal documents.

    It leaves out the settings that make passages and vectors: each generation knows its own.
    """
    digest = hashlib.blake2b(digest_size=16)
    metadata = _canonical(document.metadata) if document.metadata else "{}"
    for part in (document.id, document.title, document.text, metadata):
        raw = part.encode()
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    if document.vector is not None:
        digest.update(np.ascontiguousarray(document.vector, dtype=np.float32).tobytes())
    return digest.digest()


def client_vector(values: NDArray[np.float32], dimension: int, *, field: str = "document.vector") -> Vector:
    """A client's vector, normalised to length 1.

    Raises:
        InvalidVector: it does not have ``dimension`` values, is zero, or holds NaN or infinity.
    """
    (vector,) = client_vectors([values], dimension, field=field)
    if isinstance(vector, InvalidVector):
        raise vector
    return vector


def client_vectors(
    several: Sequence[NDArray[np.float32]], dimension: int, *, field: str = "document.vector"
) -> list[Vector | InvalidVector]:
    """Clients' vectors, normalised to length 1; an unusable one becomes the error that ``client_vector`` raises."""
    fitting = [values for values in several if values.shape == (dimension,)]
    matrix = np.stack(fitting) if fitting else np.empty((0, dimension), dtype=np.float32)
    # In double precision, where the squares of the largest float32 values cannot overflow.
    norms = np.sqrt(np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        units = iter(np.asarray(matrix / norms[:, np.newaxis], dtype=np.float32))
    lengths = iter(norms.tolist())
    results: list[Vector | InvalidVector] = []
    for values in several:
        if values.shape != (dimension,):
            message = f"the vector has {values.size} values, but the collection has {dimension} dimensions"
            results.append(InvalidVector(message, field=field, metadata={"dimension": str(dimension)}))
            continue
        unit, length = next(units), next(lengths)
        if not math.isfinite(length):
            results.append(InvalidVector("the vector holds NaN or infinity", field=field))
        elif length == 0:
            results.append(InvalidVector("the vector is zero and has no direction", field=field))
        else:
            results.append(unit)
    return results
