"""The embedder without weights."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from shortlist_server.inference.base import QueryText
from shortlist_server.inference.hashing import HashingEmbedder
from shortlist_server.inference.late_interaction import unpack

EMBEDDER = HashingEmbedder("hashing", 256)


def embed(text: str) -> np.ndarray:
    return EMBEDDER.embed_passages([text], token_vectors=False)[0].vector


def test_texts_that_share_words_are_nearer_than_those_that_do_not() -> None:
    query = embed("vaccines against influenza")
    assert query @ embed("An influenza vaccine for children") > query @ embed("The history of the steam engine") + 0.2


def test_inflections_are_near_each_other() -> None:
    assert embed("vaccination") @ embed("vaccinations") > 0.3
    assert abs(embed("vaccination") @ embed("locomotive")) < 0.3


@pytest.mark.parametrize("text", ["", " ", "...", "\x00", "🎉", "שלום", "word " * 9000, "x" * 100_000])
def test_every_text_has_a_vector_of_length_one(text: str) -> None:
    (embedded,) = EMBEDDER.embed_passages([text], token_vectors=True)
    assert abs(float(np.linalg.norm(embedded.vector)) - 1) < 1e-5
    assert embedded.token_vectors is not None
    assert np.abs(np.linalg.norm(unpack(embedded.token_vectors), axis=1) - 1).max() < 1e-5
    assert embedded.tokens <= EMBEDDER.info.max_tokens


def test_queries_and_passages_are_embedded_alike() -> None:
    (query,) = EMBEDDER.embed_queries([QueryText(text="the same text")])
    assert np.array_equal(query.vector, embed("the same text"))


def test_words_beyond_the_window_are_counted_as_cut() -> None:
    (embedded,) = EMBEDDER.embed_passages(["word " * 5000], token_vectors=False)
    assert (embedded.tokens, embedded.truncated_tokens) == (4096, 904)


def test_another_process_makes_the_same_vectors() -> None:
    code = (
        "from shortlist_server.inference.hashing import HashingEmbedder as H;"
        "print(H('h', 256).embed_passages(['a stable text'], token_vectors=False)[0].vector.tobytes().hex())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == embed("a stable text").tobytes().hex()
