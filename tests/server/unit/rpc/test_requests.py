"""Compressed messages are decompressed part by part, to exactly what was compressed."""

from __future__ import annotations

import gzip
import random

import pytest

from shortlist_server.errors import InvalidArgument
from shortlist_server.rpc.requests import PART_BYTES, _decompressed

PARTS = (0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES, 3 * PART_BYTES + 7)


@pytest.mark.parametrize("size", PARTS)
@pytest.mark.parametrize("level", [0, 1, 9])
def test_any_size_of_any_growth_is_decompressed(size: int, level: int) -> None:
    for data in (random.Random(size).randbytes(size), bytes(size), (b"owls and " * size)[: 5 * size]):
        assert _decompressed(gzip.compress(data, level), len(data)) == data


@pytest.mark.parametrize("size", PARTS[1:])
def test_what_is_cut_longer_or_followed_by_more_is_refused(size: int) -> None:
    data = random.Random(size).randbytes(size)
    raw = gzip.compress(data)
    for wrong, said in (
        (raw[:-9], size),
        (raw, size - 1),
        (raw, size + 1),
        (raw + b"x", size),
        (raw + bytes(2 * PART_BYTES), size),
        (raw + raw, size),
    ):
        with pytest.raises(InvalidArgument, match="cannot be decompressed"):
            _decompressed(wrong, said)
