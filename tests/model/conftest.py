"""Tiny models that are compared with references; see ``tests/tiny_models.py``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.tiny_models import (
    bert_config,
    copy_bert_tokenizer,
    make_bert,
    make_cross_encoder,
    make_qwen3,
    make_qwen3_embedding,
    write_json,
    write_layout,
)

from shortlist_server.inference.base import Embedder, PassageEmbedding

WIDTH = 64
"""Hidden size of the models."""


def embedded(embedder: Embedder, texts: Sequence[str], *, token_vectors: bool = False) -> list[PassageEmbedding]:
    """Embeds texts as passages; none may fail."""
    made = []
    for one in embedder.embed_passages(texts, token_vectors=token_vectors):
        assert isinstance(one, PassageEmbedding), one
        made.append(one)
    return made


UNIGRAM_TEXTS = {
    "latin": "The quick brown fox jumps over the lazy dog. Retrieval finds the passages that answer a question, and a"
    " reranker orders them by what they mean. ",
    "chinese": "检索增强生成把搜索结果交给语言模型。今天天气很好,我们去公园散步。数据库保存文件,索引加快查询。",
    "thai": "ภาษาไทยเขียนติดกันโดยไม่เว้นวรรคระหว่างคำ การค้นหาข้อความต้องตัดคำก่อน วันนี้อากาศดีมาก",
    "emoji": "🎉👩‍👩‍👧‍👦🚀😀",
}


@pytest.fixture(scope="session")
def unigram_tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer built as XLM-RoBERTa's is: Unigram, "▁" in front of words, ``<s>`` and ``</s>`` around texts."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator([text * 3 for text in UNIGRAM_TEXTS.values()], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    path = tmp_path_factory.mktemp("unigram") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="session")
def tiny_qwen3(qwen3_tokenizer_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3 decoder with the tokenizer: what both the embedding and the reranking folder hold."""
    return make_qwen3(
        tmp_path_factory.mktemp("tiny-qwen3"),
        qwen3_tokenizer_file,
        hidden_size=WIDTH,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=2048,
    )


@pytest.fixture(scope="session")
def tiny_qwen3_embedding(tiny_qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In the layout of Qwen3-Embedding, with the post-processor its tokenizer has."""
    return make_qwen3_embedding(tmp_path_factory.mktemp("embedding") / "tiny-qwen3-embedding", tiny_qwen3, WIDTH)


@pytest.fixture(scope="session")
def tiny_bert(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT encoder with MiniLM's tokenizer and no pooling files."""
    return make_bert(tmp_path_factory.mktemp("tiny-bert"), minilm, WIDTH)


@pytest.fixture(scope="session", params=[1, 2], ids=["one label", "two labels"])
def tiny_cross_encoder(request: pytest.FixtureRequest, minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT sequence classifier."""
    return make_cross_encoder(tmp_path_factory.mktemp("tiny-cross-encoder"), minilm, WIDTH, labels=request.param)


@pytest.fixture(scope="session")
def layout_writer() -> Any:
    """``write_layout`` and ``write_json``, for tests that make variants."""
    return write_layout, write_json


@pytest.fixture(scope="session")
def bert_parts() -> Any:
    """``bert_config`` and ``copy_bert_tokenizer``, for tests that make variants."""
    return partial(bert_config, WIDTH), copy_bert_tokenizer
