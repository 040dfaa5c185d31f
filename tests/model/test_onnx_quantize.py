"""int8: near float32 on every kind of text, and the same for a text whatever is beside it in its batch."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from shortlist_server.config import Config
from shortlist_server.inference.base import Embedder
from shortlist_server.inference.loading import load_embedder

from .conftest import embedded

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

SCRIPTS = {
    "Latin": (0x61, 0x7A),
    "Cyrillic": (0x430, 0x44F),
    "Arabic": (0x620, 0x64A),
    "Thai": (0xE01, 0xE3A),
    "Chinese": (0x4E00, 0x9FA0),
    "Hangul": (0xAC00, 0xD7A3),
    "emoji": (0x1F300, 0x1F6FF),
    "digits": (0x30, 0x39),
    "marks": (0x21, 0x2F),
}


def runs(first: int, last: int) -> list[str]:
    chance = random.Random(first)
    return [
        "".join(chr(chance.randint(first, last)) + " " * (chance.random() < 0.2) for _ in range(length))
        for length in (1, 5, 20, 80)
    ]


TEXTS = {name: runs(*ends) for name, ends in SCRIPTS.items()} | {
    "sentences": [
        "Statins lower the risk of a second heart attack.",
        "The owl hunts mice at night and sleeps by day. " * 8,
        "Can a kettle be repaired when its switch no longer holds?",
    ],
    "code": ["for i in range(10):\n    total += weights[i] * values[i]  # dot product"],
    "repetition": ["rose " * 60, "a"],
    "nothing": [""],
}


@pytest.fixture(scope="module")
def engines(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Embedder, Embedder]:
    """all-MiniLM-L6-v2 in int8 and in float32."""
    data = tmp_path_factory.mktemp("exports")
    int8, float32 = (
        load_embedder("it", minilm, "", Config(device="cpu", backend="onnx", dtype=dtype, data_dir=data))
        for dtype in ("int8", "float32")
    )
    return int8, float32


def vectors(engine: Embedder, texts: list[str]) -> np.ndarray:
    return np.stack([one.vector for one in embedded(engine, texts)])


@pytest.mark.parametrize("kind", TEXTS)
def test_int8_is_near_float32(engines: tuple[Embedder, Embedder], kind: str) -> None:
    int8, float32 = (vectors(engine, TEXTS[kind]) for engine in engines)
    assert (int8 * float32).sum(axis=1).min() > 0.985


def test_a_text_has_one_vector_whatever_its_batch(engines: tuple[Embedder, Embedder]) -> None:
    int8, _ = engines
    texts = [text for some in TEXTS.values() for text in some]
    together = embedded(int8, texts, token_vectors=True)
    for text, beside in zip(texts, together, strict=True):
        (alone,) = embedded(int8, [text], token_vectors=True)
        assert np.abs(alone.vector - beside.vector).max() < 1e-5
        assert alone.tokens == beside.tokens


def test_float32_and_int8_are_one_revision_in_two_number_formats(engines: tuple[Embedder, Embedder]) -> None:
    assert len({engine.info.revision for engine in engines}) == 1
    assert {engine.info.number_format for engine in engines} == {"float32", "int8"}
