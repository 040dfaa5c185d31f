"""Finds a model folder and reads the files that embedders and rerankers have in common.

Reads configuration and the headers of the weight files. Code from the folder is never run, and pickled weights are
refused. Every refusal names the file and says what to do. Pure functions; any thread.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from shortlist_server.errors import ModelNotFound
from shortlist_server.inference.weights import check_formats

_SETTINGS = "sentence_bert_config.json"
_CONFIG_FILES = (
    "config.json",
    "modules.json",
    _SETTINGS,
    "config_sentence_transformers.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
_UNBOUNDED = 1_000_000
_SHORTEST_WINDOW = 16
_MOST_LAYERS = 1000


def find_folder(source: str) -> Path:
    """The folder of a model that is given as a folder or by its hub name, ``ORG/NAME`` or ``ORG/NAME@REVISION``.

    A hub name is looked up in the local hub cache, and downloaded unless ``HF_HUB_OFFLINE`` is set.

    Raises:
        ModelNotFound: there is no such folder, or the hub does not have the model or cannot be reached.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder.resolve()
    remedy = "give a folder with the model's files, or a hub name that is in the local cache or can be downloaded"
    name, _, revision = source.partition("@")
    if source.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelNotFound(f"there is no model folder {source}: {remedy}")
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                name,
                revision=revision or None,
                allow_patterns=["*.json", "*.jinja", "*.safetensors"],
                ignore_patterns=["onnx/*"],
            )
        )
    except Exception as error:  # the hub raises a dozen kinds: offline, unknown, gated, interrupted
        raise ModelNotFound(
            f"the model {source!r} is not a folder and cannot be downloaded ({error}): {remedy}"
        ) from error


def read_json(path: Path, kind: type = dict) -> Any:
    """The content of a JSON file: an object, unless another ``kind`` is asked for.

    Raises:
        ModelNotFound: the file is missing, damaged or of another kind; the message names it.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelNotFound(f"{path} is missing, so the folder is not a complete model: copy the model anew") from error
    except (ValueError, RecursionError) as error:
        raise ModelNotFound(
            f"{path} is not valid JSON ({error}), so it is truncated or foreign: copy the model anew"
        ) from error
    if not isinstance(found, kind):
        raise ModelNotFound(f"{path} has a {type(found).__name__} where a {kind.__name__} belongs: copy the model anew")
    return found


def read_optional_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no such file. Raises ``ModelNotFound`` when it is damaged."""
    return dict(read_json(path)) if path.is_file() else {}


def check_self_contained(folder: Path) -> None:
    """Refuses a checkpoint that is more than weights and configuration: one with an adapter, or with code of its own.

    Such code (``auto_map``) is never run. If transformers knows the architecture by name, it would silently take its
    own class instead, which may compute something else.

    Raises:
        ModelNotFound: the message names the file.
    """
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        raise ModelNotFound(
            f"{adapter} belongs to an adapter, which is not applied here: merge it into the model (merge_and_unload of"
            " the package peft), and serve the folder saved after that"
        )
    for path in (folder / "config.json", folder / "tokenizer_config.json"):
        if own := read_optional_json(path).get("auto_map"):
            named = ", ".join(f"{key}: {value}" for key, value in own.items()) if isinstance(own, dict) else own
            raise ModelNotFound(
                f"{path} names code of its own (auto_map: {named}), which is never run, and transformers' own class may"
                " compute something else: serve a model without code of its own; or, where its authors say that"
                " transformers can serve it without, take auto_map out of a copy of this file"
            )


def settings_file(folder: Path) -> Path:
    """The file that tells sentence-transformers how to use a transformer: ``sentence_bert_config.json``, or one named
    after another architecture (``sentence_roberta_config.json``)."""
    return next(iter(_settings_files(folder)), folder / _SETTINGS)


def _settings_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("sentence_*_config.json"), key=lambda path: (path.name != _SETTINGS, path.name))


def read_config(folder: Path) -> dict[str, Any]:
    """The model's ``config.json``. Raises ``ModelNotFound``, which names it, when a value cannot be right."""
    path = folder / "config.json"
    config: dict[str, Any] = read_json(path)
    architectures, layers = config.get("architectures") or [], config.get("num_hidden_layers")
    right = {
        "architectures": isinstance(architectures, list) and all(isinstance(name, str) for name in architectures),
        "id2label": isinstance(config.get("id2label"), dict | None),
        "num_hidden_layers": layers is None or (isinstance(layers, int) and 1 <= layers <= _MOST_LAYERS),
    }
    if wrong := [key for key, is_right in right.items() if not is_right]:
        raise ModelNotFound(
            f"{path} has {config[wrong[0]]!r} as {wrong[0]}, which cannot be right: copy the model anew"
        )
    return config


def has_chat_template(folder: Path) -> bool:
    """Whether the tokenizer's files hold a chat template. Raises ``ModelNotFound``."""
    files = (folder / "chat_template.jinja", folder / "chat_template.json")
    settings = read_optional_json(folder / "tokenizer_config.json")
    return bool(settings.get("chat_template")) or any(file.is_file() for file in files)


def weight_files(folder: Path) -> list[Path]:
    """The model's safetensors files, each of the length its header states. Raises ``ModelNotFound``."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
            raise ModelNotFound(f"{index} has no weight_map, which lists the weight files: copy the model anew")
        paths = [folder / name for name in sorted(set(names.values()))]
    else:
        paths = [folder / "model.safetensors"]
    for path in paths:
        _check_safetensors(path)
    return paths


def revision(folder: Path, extra: Iterable[str], parts: Sequence[Path] = ()) -> str:
    """Hex digest over weights, configuration and ``extra`` (prompts, pooling). Reads all weights.

    Args:
        parts: folders with weights; empty for ``folder`` alone.
    """
    return revisions(folder, [extra], parts)[0]


def revisions(folder: Path, extras: Iterable[Iterable[str]], parts: Sequence[Path] = ()) -> list[str]:
    """The ``revision`` for each of ``extras``. Reads all weights once."""
    digest = hashlib.sha256()
    files = [folder / name for name in _CONFIG_FILES] + sorted(folder.glob("*_*/config.json"))
    for part in parts or (folder,):
        if part != folder:
            files += [part / name for name in _CONFIG_FILES if part / name not in files]
        files += [path for path in _settings_files(part) if path not in files]
        files += weight_files(part)
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


def read_window(folder: Path, config: dict[str, Any]) -> int:
    """The model's window in tokens, special tokens included. Raises ``ModelNotFound`` when no file states it."""
    settings = settings_file(folder)
    stated = read_optional_json(settings).get("max_seq_length")
    tokenizer = read_optional_json(folder / "tokenizer_config.json").get("model_max_length")
    limits = (
        _window(stated, settings) or _window(_or_none(tokenizer), folder / "tokenizer_config.json"),
        _window(_or_none(config.get("max_position_embeddings")), folder / "config.json"),
    )
    # In some models position ids start after the padding id.
    unusable = 2 if config.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet") else 0
    found = [limit - less for limit, less in zip(limits, (0, unusable), strict=True) if limit is not None]
    if not found:
        raise ModelNotFound(f"{folder / 'config.json'} states no window: add max_position_embeddings")
    return min(found)


def _or_none(value: Any) -> Any:
    """None for an absurdly large limit: tokenizers without a limit state 10**30."""
    return None if isinstance(value, int | float) and value >= _UNBOUNDED else value


def _window(value: Any, path: Path) -> int | None:
    """The window that a file states, in tokens; None if it states none."""
    if value is None:
        return None
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if not is_whole or isinstance(value, bool) or not _SHORTEST_WINDOW <= value < _UNBOUNDED:
        raise ModelNotFound(
            f"{path} states a window of {value!r} tokens, which is not within {_SHORTEST_WINDOW} to {_UNBOUNDED - 1:,}:"
            " correct it, or copy the model anew"
        )
    return int(value)


def _check_safetensors(path: Path) -> None:
    """Compares the file's length with what its header states: https://huggingface.co/docs/safetensors ("Format")."""
    if not path.is_file():
        pickled = [name.name for name in path.parent.glob("*.bin")]
        also = f" ({pickled[0]} is not read, because pickled weights can run code)" if pickled else ""
        raise ModelNotFound(f"{path} is missing: copy the model's safetensors weights there{also}")
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length)) if length < min(size, 1 << 28) else None
        assert isinstance(header, dict)
        end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        assert isinstance(end, int)
    except (struct.error, ValueError, AssertionError, LookupError, TypeError, MemoryError, RecursionError) as error:
        raise ModelNotFound(f"{path} is not a safetensors file, perhaps only a pointer to one: copy it anew") from error
    check_formats(path, header)
    if size != 8 + length + end:
        raise ModelNotFound(f"{path} has {size} bytes but its header promises {8 + length + end}: copy it anew")
