"""Reads the small tensors that this server multiplies itself: Dense layers and static embeddings.

Reads safetensors of any number format, without torch. Pure functions; any thread.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist_server.errors import ModelNotFound
from shortlist_server.inference import layout

TABLE_NAMES = ("embedding.weight", "embeddings")
"""What sentence-transformers and model2vec call the table of a static model."""

_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_INTEGERS = {"I64": "<i8", "I32": "<i4", "I16": "<i2", "U16": "<u2", "U32": "<u4", "U8": "u1"}


def read_tensors(folder: Path) -> dict[str, NDArray[Any]]:
    """The tensors of ``model.safetensors`` by name: floating-point numbers as float32, integers as int64.

    Format: https://huggingface.co/docs/safetensors ("Format").

    Raises:
        ModelNotFound: the file is missing, damaged, or has values that are not finite or of another kind.
    """
    tensors: dict[str, NDArray[Any]] = {}
    for path in layout.weight_files(folder):
        header, start = _header(path)
        data = np.memmap(path, mode="r", offset=start)
        for name, entry in header.items():
            try:
                begin, end = entry["data_offsets"]
                tensors[name] = _values(path, name, entry["dtype"], data[begin:end]).reshape(entry["shape"])
            except (ValueError, LookupError, TypeError) as error:
                raise ModelNotFound(
                    f"{path} describes {name!r} in a way that cannot be right ({error}): copy it anew"
                ) from error
    return tensors


def read_shapes(folder: Path) -> dict[str, list[int]]:
    """The shapes of the tensors, by name. Raises ``ModelNotFound``."""
    headers = [_header(path)[0] for path in layout.weight_files(folder)]
    return {name: entry["shape"] for header in headers for name, entry in header.items()}


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The file's entries by name, and the offset at which the data begin."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length


def _values(path: Path, name: str, kind: str, data: NDArray[np.uint8]) -> NDArray[Any]:
    if kind in _INTEGERS:
        return data.view(_INTEGERS[kind]).astype(np.int64)
    if kind not in _FLOATS:
        raise ModelNotFound(f"{path} has {name!r} in the number format {kind}, which is not supported: convert it")
    values = data.view(_FLOATS[kind])
    if kind == "BF16":  # the upper half of a float32
        values = (values.astype(np.uint32) << 16).view(np.float32)
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise ModelNotFound(f"{path} has values in {name!r} that are not finite: copy the model anew")
    return values
