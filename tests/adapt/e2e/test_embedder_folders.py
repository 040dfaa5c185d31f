"""Embedders opened for training and written again: the server, sentence-transformers and training agree on vectors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.tiny_models import bert_config, copy_bert_tokenizer, write_json

from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.training.contrastive import embed
from shortlist_adapt.training.embedder_folder import open_model, save_memory, write_model
from shortlist_adapt.training.served_texts import ServedTexts, read_base
from shortlist_adapt.training.serving import Serving
from shortlist_server.config import Config
from shortlist_server.inference.base import Embedder, PassageEmbedding, QueryText
from shortlist_server.inference.embedder_layout import read_embedder
from shortlist_server.inference.loading import load_embedder

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

TEXTS = [
    "What is the capital of China?",
    "",
    "🎉👩‍👩‍👧‍👦 émigré ﬁ",
    "a [SEP] in the middle, and <|im_end|> and <|endoftext|> too",
    "word " * 300,
    "gravity",
]


@pytest.fixture(scope="module")
def plain_bert(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint without the files of sentence-transformers, of a model whose prompts its name alone tells."""
    import torch
    from transformers import BertModel

    folder = tmp_path_factory.mktemp("models") / "e5-small-v2"
    torch.manual_seed(3)
    BertModel(bert_config(32)).save_pretrained(folder)
    copy_bert_tokenizer(minilm, folder)
    return folder


@pytest.fixture(scope="module")
def dense_bert(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder with a Dense layer, and with its transformer in a folder of its own, as old models have it."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("models") / "dense"
    kinds = ["Transformer", "Pooling", "Dense", "Normalize"]
    for index, kind in enumerate(kinds):
        (folder / f"{index}_{kind}").mkdir(parents=True)
    for path in tiny_bert.iterdir():
        if path.is_file() and path.name != "modules.json":
            shutil.copy(path, folder / "0_Transformer")
    shutil.copy(tiny_bert / "1_Pooling" / "config.json", folder / "1_Pooling")
    dense = {
        "in_features": 32,
        "out_features": 24,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    write_json(folder / "2_Dense" / "config.json", dense)
    torch.manual_seed(5)
    weights = {"linear.weight": torch.randn(24, 32), "linear.bias": torch.randn(24)}
    save_file(weights, folder / "2_Dense" / "model.safetensors")
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)
    return folder


def served(folder: Path) -> Embedder:
    return load_embedder("it", folder, "", Config(device="cpu", backend="torch", dtype="float32"))


def passages_of(embedder: Embedder, texts: Sequence[str]) -> Any:
    made = embedder.embed_passages(texts, token_vectors=False)
    assert all(isinstance(one, PassageEmbedding) for one in made)
    return np.stack([one.vector for one in made if isinstance(one, PassageEmbedding)])


def queries_of(embedder: Embedder, texts: Sequence[str]) -> Any:
    return np.stack([one.vector for one in embedder.embed_queries([QueryText(text=text) for text in texts])])


@pytest.fixture(params=["minilm", "tiny_bert", "plain_bert", "dense_bert", "tiny_qwen3_embedding", "tiny_qwen3"])
def base(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(request.param)
    return folder


def test_training_sees_the_servers_vectors_and_so_do_the_readers_of_what_it_writes(base: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    found = read_base(base)
    texts = ServedTexts(found)
    model = open_model(found, "cpu")
    reference = served(base)
    queries = embed(model, texts.queries(TEXTS), part_tokens=512)
    passages = embed(model, texts.passages(TEXTS), part_tokens=512)
    assert np.abs(queries - queries_of(reference, TEXTS)).max() <= 1e-5
    assert np.abs(passages - passages_of(reference, TEXTS)).max() <= 1e-5

    written = tmp_path / "checkpoint"
    write_model(model, found, texts, written)
    place = found.transformer.relative_to(found.folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (written / place / name).read_bytes() == (found.transformer / name).read_bytes()
    assert not (written / "README.md").exists()
    again = served(written)
    assert np.abs(queries - queries_of(again, TEXTS)).max() <= 1e-6
    assert np.abs(passages - passages_of(again, TEXTS)).max() <= 1e-6
    assert again.info.query_prompt == reference.info.query_prompt
    assert again.info.passage_prompt == reference.info.passage_prompt
    assert again.info.max_tokens == reference.info.max_tokens
    assert again.info.min_dimension == reference.info.min_dimension
    assert again.info.default_chunking == reference.info.default_chunking

    if base.name == "tiny-qwen3":
        return  # its tokenizer.json lacks the step that Qwen3-Embedding has; the server adds it, others do not
    theirs = SentenceTransformer(str(written), device="cpu", local_files_only=True)
    assert np.abs(queries - theirs.encode_query(TEXTS)).max() <= 1e-5
    assert np.abs(passages - theirs.encode_document(TEXTS)).max() <= 1e-5


def test_prompts_known_by_name_alone_are_spelled_out(plain_bert: Path, tmp_path: Path) -> None:
    found = read_base(plain_bert)
    assert found.prompts.query == "query: "
    write_model(open_model(found, "cpu"), found, ServedTexts(found), tmp_path)
    assert read_embedder(tmp_path).prompts == found.prompts


def test_an_instruction_becomes_the_prompt_of_queries(tiny_qwen3_embedding: Path, tmp_path: Path) -> None:
    found = read_base(tiny_qwen3_embedding)
    texts = ServedTexts(found, Serving(instruction="Find the recipe"))
    write_model(open_model(found, "cpu"), found, texts, tmp_path)
    expected = "Instruct: Find the recipe\nQuery:"
    assert json.loads((tmp_path / "config_sentence_transformers.json").read_text())["prompts"]["query"] == expected
    assert served(tmp_path).info.query_prompt == expected


def test_activations_that_are_computed_twice_change_no_gradient(tiny_bert: Path) -> None:
    import torch

    from shortlist_adapt.training.contrastive import features

    found = read_base(tiny_bert)
    model = open_model(found, "cpu")
    texts = ServedTexts(found).queries(TEXTS)
    gradients = []
    for again in (False, True):
        if again:
            save_memory(model)
        model.train()
        model.zero_grad()
        torch.manual_seed(1)  # dropout is the same in both
        model(features(texts))["sentence_embedding"][:, 0].sum().backward()
        gradients.append([one.grad.clone() for one in model.parameters() if one.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 10
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*gradients, strict=True))


def test_a_table_of_token_vectors_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    shutil.copy(tiny_bert / "tokenizer.json", tmp_path)
    save_file({"embedding.weight": torch.zeros(30522, 8)}, tmp_path / "model.safetensors")
    kind = "sentence_transformers.models.StaticEmbedding"
    write_json(tmp_path / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": kind}])
    with pytest.raises(InvalidInput, match="no transformer to train"):
        read_base(tmp_path)


def test_a_damaged_base_is_refused_by_name(tiny_bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_bert, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(InvalidInput, match=r"model\.safetensors"):
        read_base(folder)
