"""Reads the folder of an embedding model: the sentence-transformers layout, or a plain transformers checkpoint.

Reads configuration and the weights of Dense layers; code from the folder is never run. Every refusal names the file and
says what to do. Pure functions; any thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shortlist_server.errors import ModelNotFound
from shortlist_server.inference import layout
from shortlist_server.inference.decoder_classifier import is_decoder
from shortlist_server.inference.head import Normalize, Step, Truncate
from shortlist_server.inference.known_models import INSTRUCTION, KnownModel, find_known
from shortlist_server.inference.layout import read_optional_json
from shortlist_server.inference.modules import STATIC, read_head, read_modules, read_pooling
from shortlist_server.inference.pooling import Pooling
from shortlist_server.inference.prompts import Prompts, read_prompts
from shortlist_server.inference.tensors import TABLE_NAMES, read_shapes

_ARGUMENTS = (
    *("model_args", "config_args", "tokenizer_args"),  # the names in older releases
    *("model_kwargs", "config_kwargs", "processor_kwargs", "processing_kwargs"),
)
_HARMLESS = {"trust_remote_code", "torch_dtype", "dtype", "attn_implementation", "use_cache"}
"""Arguments of transformers that change no result, or that the server's own settings override."""
_STATIC_WINDOW = 32_768
"""The window of a model that has none, because batches need a bound."""
_QWEN3_TAIL = "\nQuery:"
_QWEN3_MIN_DIMENSION = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderLayout:
    """What the files of an embedding model say.

    Attributes:
        folder: the model's folder.
        transformer: the folder of the transformer, or of a static model's table; ``folder`` or a folder in it.
        parts: folders with weights, ``transformer`` first.
        static: whether the model is a table of token vectors instead of a transformer.
        pooling: how a text's hidden states become a vector.
        head: the steps that follow the pooling.
        width: size of the hidden states.
        dimension: size of the vectors.
        max_tokens: the window, special tokens included.
        lowercase: whether texts are lower-cased before they are tokenised.
        prompts: the prompts of queries and passages.
        decoder: whether the architecture is that of a language model.
        causal: whether tokens see only what precedes them.
        min_dimension: smallest size its vectors may be cut to; ``dimension`` if it was not trained for cutting.
        last_token: the token that every text ends in; "" to leave that to the tokenizer.
    """

    folder: Path
    transformer: Path
    parts: tuple[Path, ...]
    static: bool
    pooling: Pooling
    head: tuple[Step, ...]
    width: int
    dimension: int
    max_tokens: int
    lowercase: bool
    prompts: Prompts
    decoder: bool
    causal: bool
    min_dimension: int
    last_token: str


def read_embedder(folder: Path, source: str = "") -> EmbedderLayout:
    """What an embedding model's files say; ``source`` is the name in the settings. Raises ``ModelNotFound``."""
    path = folder / "modules.json"
    modules = read_modules(folder)
    transformer = modules[0].folder if modules else folder
    static = bool(modules) and modules[0].kind == STATIC
    layout.check_self_contained(transformer)
    known = find_known(folder, source)
    config: dict[str, Any] = {} if static else layout.read_config(transformer)
    settings = _read_settings(layout.settings_file(transformer))
    kind = str(config.get("model_type", ""))
    width = _static_width(transformer) if static else _hidden_size(transformer / "config.json", config)
    language_model = any("CausalLM" in name for name in config.get("architectures") or ())
    decoder = language_model or is_decoder(kind)
    both_ways = config.get("is_causal") is False or bool(config.get("use_bidirectional_attention"))
    if modules:
        pooling, rest = read_pooling(modules, path)
    else:
        last = (language_model or kind.startswith("qwen")) and not both_ways
        pooling, rest = Pooling(modes=("lasttoken" if last else "mean",)), []
    head, dimension = read_head(rest, path, len(pooling.modes) * width)
    head, dimension = _truncate(folder, head, dimension)
    _check_similarity(folder, known, head)
    qwen3 = kind == "qwen3" and pooling.modes == ("lasttoken",)
    bare = all(isinstance(step, Normalize) for step in head)
    return EmbedderLayout(
        folder=folder,
        transformer=transformer,
        parts=(transformer, *(module.folder for module in rest if module.kind == "Dense")),
        static=static,
        pooling=pooling,
        head=tuple(head),
        width=width,
        dimension=dimension,
        max_tokens=_STATIC_WINDOW if static else layout.read_window(transformer, config),
        lowercase=bool(settings.get("do_lower_case", False)),
        prompts=read_prompts(folder, known, f"Instruct: {INSTRUCTION}{_QWEN3_TAIL}" if qwen3 else ""),
        decoder=decoder,
        causal=decoder and not both_ways,
        # Qwen3-Embedding was trained to be cut to its first components (MRL): from 32 to the full size.
        min_dimension=min(_QWEN3_MIN_DIMENSION, dimension) if qwen3 and bare else dimension,
        last_token="<|endoftext|>" if qwen3 else "",
    )


def _read_settings(path: Path) -> dict[str, Any]:
    """How a transformer is used. Refuses settings that ask for anything but the last hidden states of whole texts."""
    settings = read_optional_json(path)
    modalities = settings.get("modality_config") or {}
    text = modalities.get("text") if isinstance(modalities, dict) else None
    output = text.get("method_output_name") if isinstance(text, dict) else None
    asked = {
        "transformer_task": settings.get("transformer_task", "feature-extraction") != "feature-extraction",
        "modality_config": bool(modalities) and output != "last_hidden_state",
        "module_output_name": settings.get("module_output_name", "token_embeddings") != "token_embeddings",
        **{key: bool(settings.get(key)) for key in ("query_length", "document_length", "query_expansion")},
        **{key: _changes_results(settings.get(key)) for key in _ARGUMENTS},
    }
    if wrong := [key for key, differs in asked.items() if differs]:
        raise ModelNotFound(
            f"{path} sets {wrong[0]} to {settings[wrong[0]]!r}, which is not served: serve a model whose vectors are"
            " pooled from a transformer's last hidden states"
        )
    return settings


def _changes_results(arguments: Any) -> bool:
    return bool(set(arguments) - _HARMLESS if isinstance(arguments, dict) else arguments)


def _hidden_size(path: Path, config: dict[str, Any]) -> int:
    for key in ("hidden_size", "dim", "d_model", "n_embd"):
        if isinstance(config.get(key), int):
            return int(config[key])
    raise ModelNotFound(f"{path} has no hidden_size, so it is not that of an encoder or decoder")


def _static_width(folder: Path) -> int:
    shapes = read_shapes(folder)
    shape = next((shapes[name] for name in TABLE_NAMES if name in shapes), [])
    if len(shape) != 2:
        raise ModelNotFound(
            f"{folder / 'model.safetensors'} has no table of token vectors ({TABLE_NAMES[0]}): copy the model anew"
        )
    return shape[1]


def _truncate(folder: Path, head: list[Step], dimension: int) -> tuple[list[Step], int]:
    path = folder / "config_sentence_transformers.json"
    asked = read_optional_json(path).get("truncate_dim")
    if asked is None:
        return head, dimension
    if not isinstance(asked, int) or asked < 1:
        raise ModelNotFound(f"{path} has the truncate_dim {asked!r}, which is not a number of dimensions")
    return ([*head, Truncate(asked)], asked) if asked < dimension else (head, dimension)


def _check_similarity(folder: Path, known: KnownModel, head: list[Step]) -> None:
    """Refuses a model whose vectors are not made for comparison by cosine (ADR 8)."""
    path = folder / "config_sentence_transformers.json"
    stated = read_optional_json(path).get("similarity_fn_name")
    similarity = stated or known.similarity or "cosine"
    # For vectors of length 1 the inner product equals the cosine, and the distance gives the same order.
    unit = bool(head) and isinstance(head[-1], Normalize)
    if similarity == "cosine" or (unit and similarity in ("dot", "euclidean")):
        return
    origin = f"{path} states similarity_fn_name {stated!r}" if stated else f"the model's card demands {similarity!r}"
    raise ModelNotFound(
        f"the vectors of {folder} are not made to be compared by cosine ({origin}), and here every vector has length 1:"
        f' serve a model made for cosine; or set similarity_fn_name to "cosine" in a copy of {path.name}, and measure'
        " what that costs"
    )
