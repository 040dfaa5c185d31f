"""Tiny models that train in seconds; see ``tests/tiny_models.py``."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.tiny_models import make_bert, make_cross_encoder, make_qwen3, make_qwen3_embedding, write_layout


@pytest.fixture(scope="session")
def tiny_bert(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedder over BERT in the layout of sentence-transformers, with mean pooling."""
    folder = make_bert(tmp_path_factory.mktemp("models") / "tiny-bert", minilm, 32)
    write_layout(folder, {"pooling_mode_mean_tokens": True}, 32)
    return folder


@pytest.fixture(scope="session")
def tiny_cross_encoder(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT sequence classifier with one label."""
    return make_cross_encoder(tmp_path_factory.mktemp("models") / "tiny-cross-encoder", minilm, 32)


@pytest.fixture(scope="session")
def tiny_qwen3(qwen3_tokenizer_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3 decoder in the layout of Qwen3-Reranker."""
    return make_qwen3(
        tmp_path_factory.mktemp("models") / "tiny-qwen3",
        qwen3_tokenizer_file,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=512,
    )


@pytest.fixture(scope="session")
def tiny_qwen3_embedding(tiny_qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In the layout of Qwen3-Embedding."""
    return make_qwen3_embedding(tmp_path_factory.mktemp("models") / "tiny-qwen3-embedding", tiny_qwen3, 16)
