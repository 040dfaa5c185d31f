"""Encoders in the sentence-transformers layout against sentence-transformers: MiniLM and tiny variants."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortlist_server.config import Config
from shortlist_server.domain import Chunking, Deadline, OverflowPolicy
from shortlist_server.inference.base import Embedder, ModelCatalog, QueryText
from shortlist_server.inference.catalog import load_models
from shortlist_server.inference.loading import load_embedder
from shortlist_server.inference.tokenization import TextTokenizer, open_tokenizer

from .conftest import embedded

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

TEXTS = [
    "What is the capital of China?",
    "",
    "🎉👩‍👩‍👧‍👦 émigré ﬁ",
    "שלום עולם مرحبا",
    "tab\tand\x00control\x07characters\n\n\n",
    "a [SEP] in the middle and [PAD] too",
    "word " * 10_000,
    "gravity",
]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def load(folder: Path, exports: Path, backend: str, dtype: str = "float32") -> Embedder:
    return load_embedder("it", folder, "", Config(device="cpu", backend=backend, dtype=dtype, data_dir=exports))


def vectors(embedder: Embedder, texts: list[str]) -> Any:
    return np.stack([one.vector for one in embedded(embedder, texts)])


@pytest.fixture(scope="module")
def reference(minilm: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(minilm), device="cpu")


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_minilm_has_the_references_vectors(minilm: Path, exports: Path, reference: Any, backend: str) -> None:
    embedder = load(minilm, exports, backend)
    assert np.abs(vectors(embedder, TEXTS) - reference.encode(TEXTS)).max() <= 1e-4


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_a_batch_has_the_vectors_of_single_texts(minilm: Path, exports: Path, backend: str) -> None:
    embedder = load(minilm, exports, backend)
    alone = np.concatenate([vectors(embedder, [text]) for text in TEXTS])
    assert (vectors(embedder, TEXTS) * alone).sum(axis=1).min() >= 0.9999


@pytest.mark.parametrize("words", [252, 253, 254, 255, 256, 257])
def test_truncation_at_the_limit_is_the_references(minilm: Path, exports: Path, reference: Any, words: int) -> None:
    embedder = load(minilm, exports, "torch")
    text = "dog " * words
    (ours,) = embedded(embedder, [text])
    assert (ours.tokens, ours.truncated_tokens) == (min(words + 2, 256), max(words + 2 - 256, 0))
    assert np.abs(ours.vector - reference.encode([text])[0]).max() <= 1e-4


def test_what_is_rendered_is_what_is_read(minilm: Path, exports: Path) -> None:
    from tokenizers import Tokenizer

    embedder = load(minilm, exports, "onnx")
    plain = Tokenizer.from_file(str(minilm / "tokenizer.json"))
    plain.no_truncation()
    plain.no_padding()
    assert embedder.render_query(QueryText(text="What is it?")) == "[CLS]What is it?[SEP]"
    for text in TEXTS:
        (run,) = embedder.embed_queries([QueryText(text=text)])
        rendered = embedder.render_query(QueryText(text=text))
        assert len(plain.encode(rendered, add_special_tokens=False).ids) == run.tokens
        assert rendered.removeprefix("[CLS]").removesuffix("[SEP]") in text


def test_token_vectors_are_the_references_own_tokens_with_their_squared_length(
    minilm: Path, exports: Path, reference: Any
) -> None:
    (ours,) = load(minilm, exports, "torch").embed_queries([QueryText(text="bird songs at dawn")])
    theirs = reference.encode(["bird songs at dawn"], output_value="token_embeddings")[0].numpy()[1:-1]
    assert ours.token_vectors is not None
    assert np.allclose(ours.token_vectors, theirs * np.linalg.norm(theirs, axis=1, keepdims=True), atol=1e-2)


@pytest.mark.parametrize(
    ("prompt", "text", "own"),
    [
        ("", "bird songs", ["bird", "songs"]),
        ("query: ", "  bird songs", ["bird", "songs"]),
        ("", "bird " * 20, ["bird"] * 6),
        ("", " \u200b ", ["[CLS]", "[SEP]"]),
    ],
)
def test_a_texts_own_tokens_are_known(minilm: Path, prompt: str, text: str, own: list[str]) -> None:
    tokenizer = TextTokenizer(minilm / "tokenizer.json", max_tokens=8)
    (tokens,) = tokenizer.encode([text], prompt)
    vocabulary = open_tokenizer(minilm / "tokenizer.json")
    assert [vocabulary.id_to_token(token) for token in tokens.ids[tokens.own]] == own


def test_int8_stays_within_one_percent_of_float32(minilm: Path, exports: Path) -> None:
    texts = [
        "The heart of an adult pumps about five litres of blood a minute at rest and four times that in exercise.",
        "Glaciers store most of the fresh water on land; when they melt faster than snow replaces it, the sea rises.",
        "A hash table finds an entry in constant time on average, at the price of memory and of an order.",
        "Sourdough bread is raised by wild yeasts and lactic acid bacteria, which also keep it fresh for longer.",
        "The treaty was signed in 1648 and ended thirty years of war in the Holy Roman Empire.",
        "How do vaccines teach the immune system to recognise a virus?",
    ]
    quantised = load(minilm, exports, "onnx", "int8")
    full = load(minilm, exports, "onnx", "float32")
    assert (vectors(quantised, texts) * vectors(full, texts)).sum(axis=1).mean() >= 0.99
    assert quantised.info.revision == full.info.revision


async def test_a_query_in_int8_has_the_same_vector_under_load(exports: Path) -> None:
    texts = [f"{text[:200]} and more" for text in TEXTS]

    async def embed(models: ModelCatalog, text: str) -> Any:
        service = models.embedder(models.default_embedder)
        found = await service.embed_query(text, instruction="", dimension=384, deadline=Deadline.after(60))
        return found.vector

    models = load_models(Config(device="cpu", data_dir=exports))
    together = await asyncio.gather(*(embed(models, text) for text in texts))
    models.close()
    models = load_models(Config(device="cpu", data_dir=exports))
    assert all(
        [np.array_equal(vector, await embed(models, text)) for vector, text in zip(together, texts, strict=True)]
    )
    models.close()


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_pooling_and_prompts_come_from_the_files(
    tiny_bert: Path, tmp_path: Path, layout_writer: Any, pooling: str, backend: str
) -> None:
    from sentence_transformers import SentenceTransformer

    write_layout, write_json = layout_writer
    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    write_layout(folder, {f"pooling_mode_{'cls_token' if pooling == 'cls' else 'mean_tokens'}": True}, 64)
    prompts = {"query": "query: ", "passage": "passage: "}
    write_json(folder / "config_sentence_transformers.json", {"prompts": prompts})
    embedder = load(folder, tmp_path / "data", backend)
    reference = SentenceTransformer(str(folder), device="cpu")
    assert np.abs(vectors(embedder, TEXTS) - reference.encode(TEXTS, prompt="passage: ")).max() <= 1e-4
    ours = np.stack([one.vector for one in embedder.embed_queries([QueryText(text=text) for text in TEXTS])])
    assert np.abs(ours - reference.encode(TEXTS, prompt="query: ")).max() <= 1e-4
    assert embedder.render_query(QueryText(text="owl")) == "[CLS]query: owl[SEP]"


@pytest.mark.parametrize(("name", "prefix"), [("e5-base-v2", "query: "), ("bge-small-en-v1.5", "Represent this")])
def test_models_whose_cards_demand_a_prefix_get_it(
    tiny_bert: Path, tmp_path: Path, layout_writer: Any, name: str, prefix: str
) -> None:
    from shortlist_server.inference.embedder_layout import read_embedder

    folder = tmp_path / name
    shutil.copytree(tiny_bert, folder)
    layout_writer[0](folder, {"pooling_mode_mean_tokens": True}, 64)
    assert read_embedder(folder).prompts.query.startswith(prefix)


def test_passages_of_any_text_fit_and_cover_it(minilm: Path, exports: Path) -> None:
    embedder = load(minilm, exports, "onnx")
    chunking = Chunking(max_tokens=64, overlap_tokens=16)
    for text in [*TEXTS, "x" * 1_000_000, "no spaces" * 20_000, "e\u0301" * 5_000, "漢字" * 3_000]:
        cut = embedder.cut("A title", text, chunking, OverflowPolicy.CHUNK)
        assert cut.passages[0].start == 0
        assert cut.passages[-1].end == len(text)
        assert all(left.end >= right.start for left, right in zip(cut.passages, cut.passages[1:], strict=False))
        sample = cut.passages[:40]
        seen = embedded(embedder, [passage.content for passage in sample])
        assert [one.tokens for one in seen] == [passage.tokens for passage in sample]
        assert max(passage.tokens for passage in cut.passages) <= 64
