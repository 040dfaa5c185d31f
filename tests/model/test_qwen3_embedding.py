"""Qwen3-Embedding against sentence-transformers, on a tiny checkpoint with the real tokenizer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortlist_server.config import Config
from shortlist_server.inference.base import Embedder, QueryText
from shortlist_server.inference.loading import load_embedder
from shortlist_server.inference.services import shorten
from shortlist_server.inference.tokenization import TextTokenizer

from .conftest import embedded

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

END_OF_TEXT = 151643
TEXTS = [
    "What is the capital of China?",
    "",
    "🎉👩‍👩‍👧‍👦 émigré ﬁ",
    "שלום עולם مرحبا",
    "tab\tand\x00control\x07characters\n\n\n",
    "ends <|endoftext|> early <|im_end|> twice",
    "word " * 700,
    "gravity",
]


@pytest.fixture(scope="module")
def embedder(tiny_qwen3_embedding: Path) -> Embedder:
    return load_embedder("tiny", tiny_qwen3_embedding, "", Config(device="cpu"))


@pytest.fixture(scope="module")
def reference(tiny_qwen3_embedding: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(tiny_qwen3_embedding), device="cpu")


def test_documents_have_the_references_vectors(embedder: Embedder, reference: Any) -> None:
    ours = np.stack([one.vector for one in embedded(embedder, TEXTS)])
    assert np.abs(ours - reference.encode(TEXTS)).max() <= 1e-4


def test_queries_carry_the_default_instruction(embedder: Embedder, reference: Any) -> None:
    ours = np.stack([one.vector for one in embedder.embed_queries([QueryText(text=text) for text in TEXTS])])
    assert np.abs(ours - reference.encode(TEXTS, prompt_name="query")).max() <= 1e-4


def test_what_is_rendered_has_the_instruction_in_front_and_the_end_token_behind(embedder: Embedder) -> None:
    assert (
        embedder.render_query(QueryText(text="q", instruction="Find it")) == "Instruct: Find it\nQuery:q<|endoftext|>"
    )
    assert embedder.render_query(QueryText(text="q")).startswith("Instruct: Given a web search query, retrieve")


def test_an_instruction_replaces_the_default(embedder: Embedder, reference: Any) -> None:
    (ours,) = embedder.embed_queries([QueryText(text="bird songs", instruction="Find the poem")])
    theirs = reference.encode(["bird songs"], prompt="Instruct: Find the poem\nQuery:")[0]
    assert np.abs(ours.vector - theirs).max() <= 1e-4
    assert np.abs(ours.vector - embedder.embed_queries([QueryText(text="bird songs")])[0].vector).max() > 1e-3


def test_a_batch_has_the_vectors_of_single_texts(embedder: Embedder) -> None:
    batch = embedded(embedder, TEXTS)
    for text, together in zip(TEXTS, batch, strict=True):
        (alone,) = embedded(embedder, [text])
        assert float(alone.vector @ together.vector) >= 0.9999


@pytest.mark.parametrize("length", [2045, 2046, 2047, 2048, 2049, 4000])
def test_around_the_limit_the_end_of_text_token_is_kept(embedder: Embedder, reference: Any, length: int) -> None:
    text = " a" * length
    (ours,) = embedded(embedder, [text])
    assert ours.tokens == min(length + 1, 2048)
    assert ours.truncated_tokens == max(length + 1 - 2048, 0)
    assert np.abs(ours.vector - reference.encode([text])[0]).max() <= 1e-4


@pytest.mark.parametrize("dimension", [32, 48, 64])
def test_shorter_vectors_are_the_first_components_renormalised(
    embedder: Embedder, reference: Any, dimension: int
) -> None:
    (ours,) = embedded(embedder, ["gravity"])
    theirs = reference.encode(["gravity"], truncate_dim=dimension, normalize_embeddings=True)[0]
    assert np.abs(shorten(ours.vector, dimension) - theirs).max() <= 1e-4
    assert embedder.info.min_dimension == 32


def test_the_query_prompt_is_the_model_cards_token_for_token(tiny_qwen3_embedding: Path) -> None:
    tokenizer = TextTokenizer(tiny_qwen3_embedding / "tokenizer.json", max_tokens=64, last_token="<|endoftext|>")
    (golden,) = tokenizer.encode(
        ["What is gravity?"],
        "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:",
    )
    assert golden.ids == [
        *[641, 1235, 25, 16246, 264, 3482, 2711, 3239, 11, 17179, 9760, 46769, 429, 4226, 279, 3239, 198],
        *[2859, 25, 3838, 374, 23249, 30, END_OF_TEXT],
    ]


def test_a_tokenizer_without_the_end_of_text_step_gets_it(
    tiny_qwen3_embedding: Path, qwen3_tokenizer_file: Path, tmp_path: Path, embedder: Embedder
) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(tiny_qwen3_embedding, folder)
    shutil.copy(qwen3_tokenizer_file, folder / "tokenizer.json")
    bare = load_embedder("bare", folder, "", Config(device="cpu"))
    (ours,) = embedded(bare, ["gravity"])
    assert np.abs(ours.vector - embedded(embedder, ["gravity"])[0].vector).max() <= 1e-6


def test_bfloat16_stays_near_float32(tiny_qwen3_embedding: Path, embedder: Embedder) -> None:
    half = load_embedder("half", tiny_qwen3_embedding, "", Config(device="cpu", dtype="bfloat16"))
    (ours,) = embedded(half, ["gravity"])
    assert float(ours.vector @ embedded(embedder, ["gravity"])[0].vector) >= 0.95
    assert half.info.revision == embedder.info.revision
