"""Where the training of a reranker starts: a reranker, or an embedder whose weights get a new classifying head.

Reads configurations; ``write_start`` alone loads weights.
"""

from __future__ import annotations

import enum
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shortlist_adapt.errors import InvalidInput
from shortlist_server.errors import ModelNotFound
from shortlist_server.inference import layout
from shortlist_server.inference.decoder_classifier import is_decoder
from shortlist_server.inference.modules import STATIC, read_modules

_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt"),
)
_CARD = "README.md"
"""The base's own model card, which names its licence."""
_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")
_NEW_WEIGHTS = ("classifier.", "score.", "pooler.", "head.", "pre_classifier.", "summary.")
"""Parts of the names of weights that a classifier has and an embedder may lack."""


class Family(enum.StrEnum):
    """How a reranker gives its score."""

    ENCODER = "encoder"
    """By the classifying head of an encoder."""
    DECODER = "decoder"
    """By the classifying head of a decoder, at the last token."""
    YES_NO = "yes-no"
    """By the logits of "yes" and "no" after the template of Qwen3-Reranker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankerStart:
    """A model to start from.

    Attributes:
        folder: the folder of its transformer.
        new_head: whether it gets a new classifying head, since it is an embedder.
        max_length: the window that its tokenizer is to state, in tokens.
    """

    folder: Path
    family: Family
    new_head: bool
    max_length: int


def read_start(folder: Path) -> RerankerStart:
    """What the model in a folder can start as.

    Raises:
        InvalidInput: it is no reranker, and no embedder over a transformer.
    """
    try:
        modules = read_modules(folder)
        if modules and modules[0].kind == STATIC:
            raise InvalidInput(f"{folder} is a static embedder, of which no reranker can be made: name another base")
        transformer = modules[0].folder if modules else folder
        layout.check_self_contained(transformer)
        config = layout.read_config(transformer)
        window = layout.read_window(transformer, config)
        layout.weight_files(transformer)
    except ModelNotFound as error:
        raise InvalidInput(str(error)) from error
    architecture = " ".join(config.get("architectures") or ())
    decoder = is_decoder(str(config.get("model_type", "")))
    embedder = any(module.kind == "Pooling" for module in modules)
    if architecture == "Qwen3ForCausalLM" and not embedder:
        return RerankerStart(folder=transformer, family=Family.YES_NO, new_head=False, max_length=window)
    new_head = not architecture.endswith("ForSequenceClassification")
    labels = len(config.get("id2label") or {0: "", 1: ""})
    if not new_head and labels > 2:
        raise InvalidInput(f"{folder} has {labels} labels: a reranker has one or two; name another base")
    if new_head:
        # The window of an embedder may be shorter than its transformer's; a pair of texts needs more of it.
        positions = config.get("max_position_embeddings")
        window = max(window, positions if isinstance(positions, int) and not decoder else 0)
    return RerankerStart(
        folder=transformer, family=Family.DECODER if decoder else Family.ENCODER, new_head=new_head, max_length=window
    )


def write_start(start: RerankerStart, target: Path, *, seed: int) -> None:
    """Writes the model as a reranker's folder, with a head drawn from ``seed`` where it has none.

    Raises:
        InvalidInput: the weights are not those of the configuration.
    """
    import torch
    import transformers

    logging: Any = transformers.utils.logging
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # else it reports a new head as missing weights
    classifier = start.family is not Family.YES_NO
    auto: Any = transformers.AutoModelForSequenceClassification if classifier else transformers.AutoModelForCausalLM
    changes = {"num_labels": 1} if start.new_head else {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            model, report = auto.from_pretrained(
                str(start.folder),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                dtype="auto",  # as stored, which merging gives to what is published
                **changes,
            )
        except Exception as error:  # safetensors, transformers and torch each raise their own
            raise InvalidInput(f"the model in {start.folder} cannot be loaded: {error}") from error
    expected = _NEW_WEIGHTS if start.new_head else ("position_ids", "lm_head.")
    missing = [name for name in report["missing_keys"] if not any(part in name for part in expected)]
    if missing:
        raise InvalidInput(f"the weights in {start.folder} lack {missing[0]!r}: copy the model anew")
    _copy_tokenizer(start, target)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = _pad_id(target)
    model.save_pretrained(target)


def _copy_tokenizer(start: RerankerStart, target: Path) -> None:
    names = _TOKENIZER_FILES if start.new_head else _TOKENIZER_FILES + _TEMPLATE_FILES
    for name in (*names, _CARD):
        if (start.folder / name).is_file():
            shutil.copy(start.folder / name, target / name)
    path = target / "tokenizer_config.json"
    settings = layout.read_optional_json(path)
    if start.new_head:
        # The chat template of an embedder's tokenizer is made for conversations, not for pairs.
        settings.pop("chat_template", None)
        settings["model_max_length"] = start.max_length
    elif layout.settings_file(start.folder).is_file():
        # That file is not copied, so the window it states goes to where rerankers have it.
        settings["model_max_length"] = start.max_length
    path.write_text(json.dumps(settings, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _pad_id(folder: Path) -> int | None:
    from shortlist_server.inference.tokenization import open_tokenizer

    settings = layout.read_optional_json(folder / "tokenizer_config.json")
    token = settings.get("pad_token")
    name = token.get("content") if isinstance(token, dict) else token
    found: int | None = open_tokenizer(folder / "tokenizer.json").token_to_id(name) if name else None
    return found
