"""Uploaded files that are no good model: each is refused by its name, and without the server's own paths."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortlist_server.config import Config
from shortlist_server.errors import ModelRefused
from shortlist_server.inference.loaded_models import LoadedModels
from shortlist_server.inference.precedence import Precedence
from shortlist_server.inference.published import PublishedModels
from shortlist_server.observe.observer import Observer

MODEL = "words@1"
TABLE = "0_StaticEmbedding/model.safetensors"
TOKENIZER = "0_StaticEmbedding/tokenizer.json"


@pytest.fixture
def loader(tmp_path: Path) -> PublishedModels:
    return PublishedModels(Config(data_dir=tmp_path / "data"), Observer(), Precedence())


@pytest.fixture
def models() -> Iterator[LoadedModels]:
    catalog = LoadedModels([], {}, "none")
    yield catalog
    catalog.close()


def test_a_good_model_is_loaded_under_its_name(
    loader: PublishedModels, models: LoadedModels, static_model: Callable[..., Path]
) -> None:
    loaded = loader.load(MODEL, static_model(), reranks=False)
    models.add(loaded, Observer())
    assert models.embedder(MODEL).info.dimension == 16
    assert models.embedder(MODEL, loaded.info.revision) is loaded
    assert models.find(MODEL) is loaded


def write(path: str, content: bytes | str) -> Callable[[Path], object]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / path).write_bytes(data)


def header(**entry: Any) -> Callable[[Path], object]:
    """Weights of 4 bytes with one tensor, described by ``entry``."""
    text = json.dumps({"embedding.weight": {"dtype": "F32", **entry}}).encode()
    return write(TABLE, struct.pack("<Q", len(text)) + text + b"\0\0\0\0")


def with_nan(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    vectors = load_file(folder / TABLE)["embedding.weight"].copy()
    vectors[3, 5] = np.nan
    save_file({"embedding.weight": vectors}, folder / TABLE)


def other_words(folder: Path) -> None:
    tokenizer = json.loads((folder / TOKENIZER).read_text())
    tokenizer["model"]["vocab"] |= {f"word{i}": 100 + i for i in range(100)}
    (folder / TOKENIZER).write_text(json.dumps(tokenizer))


def cut_short(folder: Path) -> None:
    data = (folder / TABLE).read_bytes()
    (folder / TABLE).write_bytes(data[:-4])


def modules(*kinds: tuple[str, str]) -> str:
    return json.dumps([{"idx": i, "name": "", "path": path, "type": kind} for i, (path, kind) in enumerate(kinds)])


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "weights cut short": (cut_short, "model.safetensors"),
    "no weights": (lambda folder: (folder / TABLE).unlink(), "model.safetensors"),
    "weights of another kind": (write(TABLE, b"PK\x03\x04 a pickle in a zip"), "model.safetensors"),
    "an endless header": (write(TABLE, struct.pack("<Q", 2**63)), "model.safetensors"),
    "a header of lists": (write(TABLE, struct.pack("<Q", 200_000) + b"[" * 200_000), "model.safetensors"),
    "a shape of another size": (header(shape=[10, 10], data_offsets=[0, 4]), "model.safetensors"),
    "offsets that are no numbers": (header(shape=[1], data_offsets=["a", "b"]), "model.safetensors"),
    "no offsets": (header(shape=[1], data_offsets=[]), "model.safetensors"),
    "a tensor of integers": (header(dtype="I8", shape=[4], data_offsets=[0, 4]), "model.safetensors"),
    "NaN": (with_nan, "model.safetensors"),
    "JSON cut short": (write("modules.json", "[{"), "modules.json"),
    "JSON of lists": (write("modules.json", "[" * 200_000), "modules.json"),
    "no tokenizer": (lambda folder: (folder / TOKENIZER).unlink(), "tokenizer.json"),
    "a tokenizer of nothing": (write(TOKENIZER, "{}"), "tokenizer.json"),
    "a tokenizer that is no text": (write(TOKENIZER, b"\xff\xfe\x00"), "tokenizer.json"),
    "another model's tokenizer": (other_words, "tokenizer.json"),
    "code of its own": (write("modules.json", modules(("", "own.Module"))), "modules.json"),
    "a folder outside": (
        write("modules.json", modules(("../..", "sentence_transformers.models.StaticEmbedding"))),
        "modules.json",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_is_refused_and_its_file_named(
    loader: PublishedModels, static_model: Callable[..., Path], damage: str
) -> None:
    folder = static_model()
    do, named = DAMAGES[damage]
    do(folder)
    with pytest.raises(ModelRefused) as refused:
        loader.load(MODEL, folder, reranks=False)
    assert named in refused.value.message
    assert str(folder.parent) not in refused.value.message
    assert refused.value.metadata == {"model": MODEL}


def test_an_embedder_is_no_reranker(loader: PublishedModels, static_model: Callable[..., Path]) -> None:
    with pytest.raises(ModelRefused, match=r"config\.json is missing"):
        loader.load(MODEL, static_model(), reranks=True)


def test_a_card_may_not_change_the_prompts(loader: PublishedModels, static_model: Callable[..., Path]) -> None:
    folder = static_model()
    assert loader.keeps_prompts(MODEL, folder, "# Another text")
    card = "model-index:\n- name: e5-base-v2\n"
    assert not loader.keeps_prompts(MODEL, folder, card)
    settings = {"prompts": {"query": "question: ", "document": "answer: "}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    assert loader.keeps_prompts(MODEL, folder, card)
