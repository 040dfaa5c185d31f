"""Reads a model folder: the sentence-transformers layout, or a plain transformers checkpoint.

Only configuration is read here, and the weight files' headers; no code from the folder is ever run and pickled weights
are not accepted. Every refusal names the file and says what to do. Pure functions; any thread.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shortlist_server.errors import ModelNotFound

_CONFIG_FILES = (
    "config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
}
_UNBOUNDED = 1_000_000
_INSTRUCTED = re.compile(r"Instruct: .+(\nQuery: ?)", re.DOTALL)
_QWEN3_TAIL = "\nQuery:"
_QWEN3_MIN_DIMENSION = 32
_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
_KNOWN_PROMPTS = (
    # Models whose cards demand prefixes that their files do not carry: part of the model's name, query, passage.
    ("e5-large-instruct", f"Instruct: {_INSTRUCTION}\nQuery: ", ""),
    ("e5-", "query: ", "passage: "),
    ("bge-small-en", "Represent this sentence for searching relevant passages: ", ""),
    ("bge-base-en", "Represent this sentence for searching relevant passages: ", ""),
    ("bge-large-en", "Represent this sentence for searching relevant passages: ", ""),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderLayout:
    """What the files of an embedding model say.

    Attributes:
        folder: where they are.
        model_type: transformers' name of the architecture ("bert", "qwen3").
        pooling: "mean", "cls" or "lasttoken".
        dimension: size of the vectors.
        max_tokens: the window, special tokens included.
        lowercase: texts are lower-cased before they are tokenised.
        query_prompt, passage_prompt: put in front of texts, "" for none.
        causal: the model is a decoder: tokens see only what precedes them.
        min_dimension: smallest size its vectors may be cut to; ``dimension`` unless it was trained for that.
        instruction_tail: what stands between instruction and query; "" for a model that takes no instruction.
        last_token: the token every text ends in, in whose place it is pooled; "" where the tokenizer's own rule holds.
    """

    folder: Path
    model_type: str
    pooling: str
    dimension: int
    max_tokens: int
    lowercase: bool
    query_prompt: str
    passage_prompt: str
    causal: bool
    min_dimension: int
    instruction_tail: str
    last_token: str


def find_folder(source: str) -> Path:
    """The folder of a model given as a folder or as a hub name, ``ORG/NAME`` or ``ORG/NAME@REVISION``.

    A hub name is looked for in the local hub cache and, unless ``HF_HUB_OFFLINE`` is set, downloaded.

    Raises:
        ModelNotFound: there is no such folder, or the hub does not have it or cannot be reached.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder.resolve()
    remedy = "Give a folder with the model's files, or a hub name that is in the local cache or can be downloaded."
    name, _, revision = source.partition("@")
    if source.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelNotFound(f"There is no model folder {source}. {remedy}")
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                name, revision=revision or None, allow_patterns=["*.json", "*.safetensors"], ignore_patterns=["onnx/*"]
            )
        )
    except Exception as error:  # the hub raises a dozen kinds: offline, unknown, gated, interrupted
        raise ModelNotFound(
            f"The model {source} is neither a folder nor to be had from the hub: {error} {remedy}"
        ) from error


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises ``ModelNotFound`` naming it when it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelNotFound(f"{path} is missing: the folder is not a complete model. Copy the model anew.") from error
    except ValueError as error:
        raise ModelNotFound(
            f"{path} is not valid JSON ({error}): truncated or foreign. Copy the model anew."
        ) from error


def read_embedder(folder: Path, source: str = "") -> EmbedderLayout:
    """What an embedding model's files say; ``source`` is the name it was asked by. Raises ``ModelNotFound``."""
    config = read_json(folder / "config.json")
    model_type = str(config.get("model_type", ""))
    causal = any("CausalLM" in name for name in config.get("architectures", [])) or model_type.startswith("qwen")
    hidden = config.get("hidden_size") or config.get("dim")
    if not isinstance(hidden, int):
        raise ModelNotFound(f"{folder / 'config.json'} has no hidden_size: not an encoder or decoder checkpoint.")
    pooling = _read_modules(folder) or ("lasttoken" if causal else "mean")
    transformer = _optional_json(folder / "sentence_bert_config.json")
    query_prompt, passage_prompt = _read_prompts(folder, source or folder.name)
    qwen3 = model_type == "qwen3" and pooling == "lasttoken"
    if qwen3 and not query_prompt:
        query_prompt = f"Instruct: {_INSTRUCTION}{_QWEN3_TAIL}"
    instructed = _INSTRUCTED.fullmatch(query_prompt)
    return EmbedderLayout(
        folder=folder,
        model_type=model_type,
        pooling=pooling,
        dimension=hidden,
        max_tokens=read_window(folder, config),
        lowercase=bool(transformer.get("do_lower_case", False)),
        query_prompt=query_prompt,
        passage_prompt=passage_prompt,
        causal=causal,
        # Qwen3-Embedding was trained so that its first components serve alone (MRL): 32 up to the full size.
        min_dimension=min(_QWEN3_MIN_DIMENSION, hidden) if qwen3 else hidden,
        instruction_tail=instructed[1] if instructed else "",
        last_token="<|endoftext|>" if qwen3 else "",
    )


def weight_files(folder: Path) -> list[Path]:
    """The model's safetensors files, each of the length its header states. Raises ``ModelNotFound``."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(read_json(index).get("weight_map", {}).values()))
        paths = [folder / name for name in names]
    else:
        paths = [folder / "model.safetensors"]
    for path in paths:
        _check_safetensors(path)
    return paths


def revision(folder: Path, extra: Iterable[str]) -> str:
    """Hex digest over weights, configuration and ``extra`` (prompts, pooling). Reads all weights."""
    return revisions(folder, [extra])[0]


def revisions(folder: Path, extras: Iterable[Iterable[str]]) -> list[str]:
    """The ``revision`` for each of ``extras``. Reads all weights, once."""
    digest = hashlib.sha256()
    files = [folder / name for name in _CONFIG_FILES] + sorted(folder.glob("*_*/config.json")) + weight_files(folder)
    for path in files:
        if path.is_file():
            digest.update(f"\0{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    found = []
    for extra in extras:
        whole = digest.copy()
        for item in extra:
            whole.update(f"\0{item}".encode())
        found.append(whole.hexdigest()[:32])
    return found


def _read_modules(folder: Path) -> str:
    """The pooling method of a sentence-transformers folder; "" for a plain checkpoint."""
    path = folder / "modules.json"
    if not path.is_file():
        return ""
    pooling = ""
    for module in read_json(path):
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        if kind == "Pooling":
            pooling = _read_pooling(folder / module.get("path", "") / "config.json")
        elif kind not in ("Transformer", "Normalize"):
            raise ModelNotFound(
                f"{path} asks for a module {kind!r}; only Transformer, Pooling and Normalize are known."
            )
    return pooling


def _read_pooling(path: Path) -> str:
    config = read_json(path)
    modes = [mode for flag, mode in _POOLING_FLAGS.items() if config.get(flag)]
    if "pooling_mode" in config:  # sentence-transformers 5 and later
        modes = [str(config["pooling_mode"])]
    other = [key for key, on in config.items() if key.startswith("pooling_mode_") and on and key not in _POOLING_FLAGS]
    if len(modes) != 1 or other or modes[0] not in _POOLING_FLAGS.values():
        raise ModelNotFound(f"{path} asks for pooling {modes + other}; one of mean, cls and lasttoken is known.")
    if not config.get("include_prompt", True):
        raise ModelNotFound(f"{path} leaves the prompt out of pooling; that is not supported.")
    return modes[0]


def _read_prompts(folder: Path, source: str) -> tuple[str, str]:
    prompts = _optional_json(folder / "config_sentence_transformers.json").get("prompts") or {}
    query = str(prompts.get("query", ""))
    passage = str(prompts.get("document", "") or prompts.get("passage", ""))
    if not query and not passage:
        name = source.lower().partition("@")[0].rstrip("/").rsplit("/", 1)[-1]
        for part, known_query, known_passage in _KNOWN_PROMPTS:
            if part in name:
                return known_query, known_passage
    return query, passage


def read_window(folder: Path, config: dict[str, Any]) -> int:
    """The model's window in tokens, special tokens included. Raises ``ModelNotFound`` when no file states it."""
    stated = _optional_json(folder / "sentence_bert_config.json").get("max_seq_length")
    tokenizer = _optional_json(folder / "tokenizer_config.json").get("model_max_length")
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int) and config.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        positions -= 2  # their position ids start behind the padding id
    limits = [
        limit for limit in (stated or tokenizer, positions) if isinstance(limit, int | float) and limit < _UNBOUNDED
    ]
    if not limits:
        raise ModelNotFound(f"{folder / 'config.json'} states no window (max_position_embeddings).")
    return int(min(limits))


def _optional_json(path: Path) -> dict[str, Any]:
    return dict(read_json(path)) if path.is_file() else {}


def _check_safetensors(path: Path) -> None:
    """Compares the file's length with what its header states: https://huggingface.co/docs/safetensors ("Format")."""
    if not path.is_file():
        pickled = [name.name for name in path.parent.glob("*.bin")]
        also = f" ({pickled[0]} is not read: pickled weights can run code.)" if pickled else ""
        raise ModelNotFound(f"{path} is missing. Copy the model's safetensors weights there.{also}")
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length)) if length < min(size, 1 << 28) else None
        assert isinstance(header, dict)
        end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    except (struct.error, ValueError, AssertionError, KeyError, TypeError, MemoryError) as error:
        raise ModelNotFound(
            f"{path} is not a safetensors file (a pointer or a foreign file?). Copy it anew."
        ) from error
    if size != 8 + length + end:
        raise ModelNotFound(
            f"{path} has {size} bytes but its header promises {8 + length + end}: truncated or damaged. Copy it anew."
        )
