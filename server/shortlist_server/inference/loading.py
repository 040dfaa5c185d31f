"""Builds engines from model folders: reads the files, opens the forward passes and puts the parts together.

Called once for each model at start-up, by one thread.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shortlist_server.config import Config
from shortlist_server.domain import Chunking
from shortlist_server.errors import ModelNotFound
from shortlist_server.inference import layout, torch_backend
from shortlist_server.inference.agreement import RANKED_TEXTS, Agreement, rank_agreement, vector_agreement
from shortlist_server.inference.base import Embedder, EmbedderInfo, Reranker, RerankerInfo
from shortlist_server.inference.cross_encoder import CrossEncoder, PairTokenizer, raw_and_probability
from shortlist_server.inference.decoder_classifier import DecoderClassifier, is_decoder
from shortlist_server.inference.embedder_layout import EmbedderLayout, read_embedder
from shortlist_server.inference.encoder import Forward, TransformerEmbedder, pad
from shortlist_server.inference.forward_passes import ExportChecks, Passes, open_passes
from shortlist_server.inference.head import Dense, normalize
from shortlist_server.inference.pair_template import TemplateTokenizer, read_template
from shortlist_server.inference.processors import threads
from shortlist_server.inference.qwen3_reranker import MAX_TOKENS, Qwen3Prompt, Qwen3Reranker
from shortlist_server.inference.static_embedding import StaticTable
from shortlist_server.inference.tokenization import TextTokenizer

if TYPE_CHECKING:
    from shortlist_server.inference.onnx_quantize import Sample

Floats = NDArray[np.float32]

logger = logging.getLogger(__name__)

_FORMER = ("int8-rows", "float32", "bfloat16")
"""Number formats that earlier releases made part of an embedder's revision."""

_SAMPLES = (
    "What is the capital of France?",
    "The mitochondrion is the powerhouse of the cell.",
    "vector search",
    "Bei Temperaturen unter null gefriert Wasser; darüber schmilzt das Eis wieder.",
    "def add(a, b):\n    return a + b  # the sum of two numbers",
    "In 1969 two people walked on the Moon, and hundreds of millions watched them do it on television.",
    "检索增强生成把搜索结果交给语言模型。",
    "Shares fell 3.4 % on Tuesday after the company cut its forecast for the second time this year. " * 6,
)
"""Texts on which an export must agree with torch: short and long ones, in several scripts."""


def load_embedder(name: str, folder: Path, source: str, config: Config, *, export: bool = True) -> Embedder:
    """The embedding model in a folder.

    Args:
        export: make the exports that are missing. This loads torch, which then stays in this process.

    Raises:
        ModelNotFound, InvalidArgument: the files or the settings are wrong.
        ExportMissing: an export is missing, and ``export`` is False.
    """
    found = read_embedder(folder, source)
    layout.weight_files(found.transformer)
    tokenizer = TextTokenizer(
        found.transformer / "tokenizer.json",
        max_tokens=found.max_tokens,
        lowercase=found.lowercase,
        last_token=found.last_token,
        bare=found.static,
    )
    _check_prompts(found, tokenizer)
    identity = (found.prompts.query, found.prompts.passage, found.pooling.name)
    weights, revision, *former = layout.revisions(
        folder, [(), identity, *((kind, *identity) for kind in _FORMER)], found.parts
    )
    if found.static:
        passes = _open_static(found, tokenizer)
    else:
        passes = _open_transformer(found, tokenizer, weights, config, export)
    why_no_token_vectors = _why_no_token_vectors(found)
    if why_no_token_vectors:
        logger.info("embedder %s gives no token vectors for late interaction: %s", name, why_no_token_vectors)
    info = EmbedderInfo(
        name=name,
        revision=revision,
        dimension=found.dimension,
        min_dimension=found.min_dimension,
        max_tokens=found.max_tokens,
        default_chunking=default_chunking(found),
        token_vectors=not why_no_token_vectors,
        takes_instruction=bool(found.prompts.instruction_tail),
        query_prompt=found.prompts.query,
        passage_prompt=found.prompts.passage,
        number_format=passes.number_format,
        number_format_note=passes.note,
        former_revisions=tuple(former),
    )
    return TransformerEmbedder(
        info,
        tokenizer,
        query_forward=passes.query,
        passage_forward=passes.passage,
        pooling=found.pooling,
        head=found.head,
        prompts=found.prompts,
        batches_queries=passes.batches_queries,
        batch_tokens=passes.batch_tokens,
    )


def _open_transformer(
    found: EmbedderLayout, tokenizer: TextTokenizer, weights: str, config: Config, export: bool
) -> Passes:
    _check_vocabulary(found.transformer, tokenizer.vocabulary_size)

    def agreement(reference: Forward, export: Forward) -> Agreement:
        batch, mask = pad([tokens.ids for tokens in tokenizer.encode(_SAMPLES)])
        pooled = [normalize(found.pooling.pool(forward.run(batch, mask), mask)) for forward in (reference, export)]
        return vector_agreement(*pooled)

    def samples() -> list[Sample]:
        return [_sample(tokens.ids, [0] * len(tokens.ids)) for tokens in tokenizer.encode(_SAMPLES)]

    checks = ExportChecks(samples=samples, agreement=agreement)
    onnx = not found.decoder
    return open_passes(found.transformer, weights, torch_backend.ENCODER, config, checks, onnx=onnx, export=export)


def _open_static(found: EmbedderLayout, tokenizer: TextTokenizer) -> Passes:
    table = StaticTable(found.transformer)
    if tokenizer.vocabulary_size > table.vocabulary_size:
        raise ModelNotFound(
            f"{found.transformer / 'tokenizer.json'} has {tokenizer.vocabulary_size} tokens but the table in"
            f" model.safetensors has {table.vocabulary_size} rows: the file is another model's; copy it anew"
        )
    return Passes(query=table, passage=table, number_format="float32", batches_queries=False)


def _why_no_token_vectors(found: EmbedderLayout) -> str:
    """Why a model's token vectors are useless for late interaction; "" if they are useful."""
    if found.static:
        return "a token has the same vector in every text, and matches no more than a word in the lexical index does"
    if found.causal:
        return "its tokens see only what precedes them"
    if any(isinstance(step, Dense) for step in found.head):
        return "its Dense layers are trained on whole texts and do not apply to tokens"
    return ""


def _check_prompts(found: EmbedderLayout, tokenizer: TextTokenizer) -> None:
    longest = max(tokenizer.count([found.prompts.query, found.prompts.passage]))
    if longest > found.max_tokens // 2:
        raise ModelNotFound(
            f"the prompts of {found.folder} take {longest} of the {found.max_tokens} tokens of its window: correct them"
            " in config_sentence_transformers.json, or the window in config.json"
        )


def load_reranker(name: str, folder: Path, config: Config, *, export: bool = True) -> Reranker:
    """The reranking model in a folder, whatever its architecture. Arguments and errors: see ``load_embedder``."""
    layout.check_self_contained(folder)
    settings = layout.read_config(folder)
    architecture = " ".join(settings.get("architectures") or ())
    layout.weight_files(folder)
    if architecture == "Qwen3ForCausalLM":
        return _load_qwen3_reranker(name, folder, config, tied=bool(settings.get("tie_word_embeddings")))
    if not architecture.endswith("ForSequenceClassification"):
        raise ModelNotFound(
            f"{folder / 'config.json'} describes {architecture or 'no architecture'}, which is not a cross-encoder"
            " (...ForSequenceClassification) or Qwen3-Reranker (Qwen3ForCausalLM): serve one of these"
        )
    labels = len(settings.get("id2label") or {0: "", 1: ""})
    if labels > 2:
        raise ModelNotFound(f"{folder / 'config.json'} has {labels} labels: serve a cross-encoder with one or two")
    window = layout.read_window(folder, settings)
    if is_decoder(str(settings.get("model_type", ""))):
        return _load_decoder_classifier(name, folder, window, config)
    tokenizer = PairTokenizer(folder / "tokenizer.json", window)
    _check_vocabulary(folder, tokenizer.vocabulary_size)

    def raw_scores(forward: Forward, query: str, texts: Sequence[str]) -> Floats:
        pairs = tokenizer.encode(query, texts)
        ids, mask = pad([pair.ids for pair in pairs])
        return raw_and_probability(forward.run(ids, mask, pad([pair.segments for pair in pairs])[0])).raw

    def agreement(reference: Forward, export: Forward) -> Agreement:
        return rank_agreement(*[[raw_scores(it, *one) for one in RANKED_TEXTS] for it in (reference, export)])

    def samples() -> list[Sample]:
        return [
            _sample(pair.ids, pair.segments) for query in _SAMPLES[:3] for pair in tokenizer.encode(query, _SAMPLES)
        ]

    checks = ExportChecks(samples=samples, agreement=agreement)
    revision = layout.revision(folder, ())
    passes = open_passes(folder, revision, torch_backend.CLASSIFIER, config, checks, onnx=True, export=export)
    info = _classifier_info(name, revision, passes.number_format, passes.note)
    return CrossEncoder(info, tokenizer, passes.query, batch_tokens=passes.batch_tokens)


def _load_decoder_classifier(name: str, folder: Path, window: int, config: Config) -> Reranker:
    file = folder / "tokenizer.json"
    tokenizer: PairTokenizer | TemplateTokenizer = PairTokenizer(file, window)
    identity: tuple[str, ...] = ()
    if layout.has_chat_template(folder):
        template = read_template(folder)
        tokenizer = TemplateTokenizer(file, template, window)
        identity = (template.render("", ""),)
    _check_vocabulary(folder, tokenizer.vocabulary_size)
    device = torch_backend.choose_device(config.device)
    dtype = torch_backend.choose_dtype(config.dtype, device)
    forward = DecoderClassifier(folder, device=device, dtype=dtype, threads=threads(config))
    note = torch_backend.dtype_note(config.dtype, device)
    info = _classifier_info(name, layout.revision(folder, identity), dtype, note)
    return CrossEncoder(info, tokenizer, forward, batch_tokens=torch_backend.batch_tokens(forward.model, device))


def _classifier_info(name: str, revision: str, number_format: str, note: str) -> RerankerInfo:
    return RerankerInfo(
        name=name,
        revision=revision,
        uses_token_vectors=False,
        takes_instruction=False,
        default_weight=0.5,
        default_depth=20,
        number_format=number_format,
        number_format_note=note,
    )


def _load_qwen3_reranker(name: str, folder: Path, config: Config, *, tied: bool) -> Reranker:
    device = torch_backend.choose_device(config.device)
    dtype = torch_backend.choose_dtype(config.dtype, device)
    window = layout.read_window(folder, layout.read_config(folder))
    prompt = Qwen3Prompt(folder / "tokenizer.json", min(window, MAX_TOKENS))
    _check_vocabulary(folder, prompt.vocabulary_size)
    import torch

    torch.set_num_threads(threads(config))
    model = torch_backend.load_checkpoint(
        torch_backend.DECODER, folder, device=device, dtype=dtype, unused=("lm_head.",) if tied else ()
    )
    info = RerankerInfo(
        name=name,
        revision=layout.revision(folder, ()),
        uses_token_vectors=False,
        takes_instruction=True,
        default_weight=0.7,
        default_depth=20,
        number_format=dtype,
        number_format_note=torch_backend.dtype_note(config.dtype, device),
    )
    return Qwen3Reranker(info, model, prompt, batch_tokens=torch_backend.batch_tokens(model, device))


def _sample(ids: list[int], segments: list[int]) -> Sample:
    return np.array([ids], dtype=np.int64), np.array([segments], dtype=np.int64)


def default_chunking(found: EmbedderLayout) -> Chunking:
    """The size of passages for collections that state none."""
    # Short passages rank better (measured on SciFact: 128 tokens over 256). Models made for long texts get longer ones.
    size = 512 if found.causal else 128 if found.max_tokens <= 256 else 256
    return Chunking(max_tokens=min(size, found.max_tokens), overlap_tokens=min(size, found.max_tokens) // 8)


def _check_vocabulary(folder: Path, size: int) -> None:
    known = layout.read_config(folder).get("vocab_size")
    if isinstance(known, int) and size > known:
        raise ModelNotFound(
            f"{folder / 'tokenizer.json'} has {size} tokens but the model in config.json knows {known}: the file is"
            " another model's; copy it anew"
        )
