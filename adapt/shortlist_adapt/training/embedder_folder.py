"""Opens an embedder's folder for training, and writes it again with the trained weights.

A written folder has the files of the base beside new weights: the same tokenizer, modules and window. It says in its
own files what the server otherwise knows by the model's name. So the server and sentence-transformers read it alike.
Importing this module loads torch and sentence-transformers.
"""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from transformers.utils.logging import disable_progress_bar

from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.training.attention import stop_attention_dropout
from shortlist_adapt.training.served_texts import ServedTexts
from shortlist_server.inference.embedder_layout import EmbedderLayout

_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "LICENSE*", "NOTICE*")
"""What is copied: everything but weights, exports and the model card, which is about the base."""

_LEFT_OUT = ("*.index.json", "adapter_config.json")

_PLACES = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
"""The modules of a folder that had none, and where sentence-transformers puts their files."""


def open_model(found: EmbedderLayout, device: str) -> SentenceTransformer:
    """The model in float32, ready to train, with the pooling that the server uses and without dropout in attention.

    Raises:
        InvalidInput: sentence-transformers cannot load it.
    """
    disable_progress_bar()  # of files read and written: the step shows its own
    arguments: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True}
    try:
        if (found.folder / "modules.json").is_file():
            model = SentenceTransformer(str(found.folder), device=device, local_files_only=True, model_kwargs=arguments)
        else:
            transformer = Transformer(str(found.folder), model_kwargs={**arguments, "local_files_only": True})
            pooling = Pooling(found.width, pooling_mode=found.pooling.modes)
            model = SentenceTransformer(modules=[transformer, pooling, Normalize()], device=device)
    except Exception as error:  # safetensors, transformers and torch each raise their own
        raise InvalidInput(f"the model in {found.folder} cannot be loaded for training: {error}") from error
    stop_attention_dropout(model)
    return model


def transformer_of(model: SentenceTransformer) -> Transformer:
    """The module that holds the transformer; the network itself is its ``model``."""
    first = model[0]
    assert isinstance(first, Transformer)
    return first


def save_memory(model: SentenceTransformer) -> None:
    """Has the transformer compute its activations twice instead of keeping them.

    Raises:
        InvalidInput: its architecture cannot do that.
    """
    network = transformer_of(model).model
    enable = getattr(network, "activation_checkpointing_enable", None) or network.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise InvalidInput(f"embedder.save_memory: {error}") from error


def write_model(model: SentenceTransformer, found: EmbedderLayout, texts: ServedTexts, folder: Path) -> None:
    """Writes the model as a complete folder. Adapters are merged into a copy of the weights.

    Args:
        found: the base, whose other files are copied.
        texts: its prompts become those of the folder.
        folder: an empty folder, or one that does not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _copy_files(found.folder, folder)
    place = found.transformer.relative_to(found.folder)
    if place.parts:
        _copy_files(found.transformer, folder / place)
    for path in (*found.folder.glob("[0-9]*_*"), *found.parts[1:]):
        if path.is_dir() and path != found.transformer:
            _copy_files(path, folder / path.relative_to(found.folder))
    network = transformer_of(model).model
    if hasattr(network, "merge_and_unload"):
        network = copy.deepcopy(network).merge_and_unload()
    network.save_pretrained(str(folder / place))
    for module, path in zip((one for one in model if isinstance(one, Dense)), found.parts[1:], strict=True):
        module.save_torch_weights(str(folder / path.relative_to(found.folder)))
    if not (found.folder / "modules.json").is_file():
        _write_modules(found, folder)
    _write_prompts(texts, folder / "config_sentence_transformers.json")


def _copy_files(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    left_out = {path.name for pattern in _LEFT_OUT for path in source.glob(pattern)}
    for pattern in _FILES:
        for path in source.glob(pattern):
            if path.is_file() and path.name not in left_out:
                shutil.copyfile(path, target / path.name)


def _write_modules(found: EmbedderLayout, folder: Path) -> None:
    """Says in the layout of sentence-transformers, which every release of it reads, what a plain checkpoint leaves to
    its reader."""
    entries = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (kind, path) in enumerate(_PLACES.items())
    ]
    flags = {f"pooling_mode_{mode}": False for mode in ("cls_token", "mean_tokens", "max_tokens", "lasttoken")}
    (mode,) = found.pooling.modes
    flags["pooling_mode_lasttoken" if mode == "lasttoken" else f"pooling_mode_{mode}_tokens"] = True
    _write_json(folder / "modules.json", entries)
    for path in filter(None, _PLACES.values()):
        (folder / path).mkdir(exist_ok=True)
    _write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": found.width, **flags})
    settings = {"max_seq_length": found.max_tokens, "do_lower_case": found.lowercase}
    _write_json(folder / "sentence_bert_config.json", settings)


def _write_prompts(texts: ServedTexts, path: Path) -> None:
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    prompts = {"query": texts.query_prompt, "document": texts.passage_prompt}
    # Other prompts of the base, such as those for classification, stay.
    settings["prompts"] = {**(settings.get("prompts") or {}), **prompts}
    settings["default_prompt_name"] = None
    settings["similarity_fn_name"] = "cosine"
    _write_json(path, settings)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
